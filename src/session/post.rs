//! One batch that came by `POST`, for boards that cannot do WebSocket: a session of one message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tracing::info;

use super::inbound::{self, Candidate, Inbound};
use super::messages::bad_seq;
use super::rate::{Cost, Limits};
use super::roster::{Posting, Roster};
use crate::clock;
use crate::intake::port::{Arrival, Attached, Close, ConnId, Control, IntakePort, Mailbox};
use crate::protocol;
use crate::protocol::message::FromDevice;
use crate::protocol::reject::{Reject, RejectCode};
use crate::reading::Batch;
pub use crate::reading::Encoding;
use crate::status::board::DeviceBoard;

/// What came.
#[derive(Debug)]
pub struct Post {
    /// The device's id.
    pub device: Arc<str>,
    /// The stream that `seq` counts in. `None`: one of its own, that nothing can be resumed in.
    pub stream: Option<Arc<str>>,
    /// The batch's number.
    pub seq: Option<u64>,
    /// Seconds before now to which relative times refer.
    pub age: Option<f64>,
    /// How `pack` is encoded.
    pub encoding: Encoding,
    /// A SenML pack.
    pub pack: Bytes,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Posted {
    /// It is safe, as an ack says it.
    Safe,
    /// It is not taken and never will be.
    Rejected(Reject),
    /// Its number is not free; the highest one that is not.
    Conflict {
        /// What to say of it.
        reject: Reject,
        /// Any number above it is free.
        highest: u64,
    },
    /// It is not safe in time, or cannot be taken now: it has to come again as it is.
    NotSafe,
    /// The one before of the same device has not been answered.
    Busy,
    /// The device has spent what it may; it may come again after this time.
    TooFast(Duration),
}

/// Takes a batch and waits until it is safe, for as long as `patience`. Goes on to its end when
/// nobody waits for it any more. It counts against the same `limits` as what the device sends over
/// a WebSocket.
pub async fn post(
    roster: &Arc<Roster>,
    port: IntakePort,
    post: Post,
    limits: Limits,
    patience: Duration,
) -> Posted {
    let Some(posting) = roster.begin_post(&post.device) else {
        return Posted::Busy;
    };
    // It has been received, whatever becomes of it.
    let received = Cost {
        bytes: post.pack.len() as u64,
        ..Cost::default()
    };
    if let Some(wait) = posting.spend(limits, Cost::default()) {
        posting.spend(limits, received);
        return Posted::TooFast(wait);
    }
    let read = read(&post);
    let cost = Cost {
        messages: 1,
        readings: read.as_ref().map_or(0, |candidate| candidate.readings),
        ..received
    };
    posting.spend(limits, cost);
    let candidate = match read {
        Ok(candidate) => candidate,
        Err(reject) => {
            posting.board.reject(reject.code.as_str());
            info!(device = %post.device, code = reject.code.as_str(), "posted batch rejected");
            return Posted::Rejected(reject);
        }
    };
    let deadline = Instant::now() + patience;
    let task = tokio::spawn(hand_over(posting, port, post, candidate, deadline));
    task.await.unwrap_or(Posted::NotSafe)
}

impl Posting {
    /// How long the device has to wait after this, if at all.
    fn spend(&self, limits: Limits, cost: Cost) -> Option<Duration> {
        let now = Instant::now();
        let until = self.purse.with(limits, now, |rate| rate.spend(cost, now))?;
        Some(until.saturating_duration_since(now))
    }
}

/// The message that the pack stands for, checked.
fn read(post: &Post) -> Result<Candidate, Reject> {
    let received = clock::now();
    // By itself first: within the message it could otherwise bring fields of its own.
    let bare = match protocol::decode(post.encoding, &post.pack)? {
        FromDevice::Data(data) => data.seq.is_none(),
        _ => false,
    };
    // A map with a pack in it would be a message of its own.
    if !bare || is_map(post) {
        return Err(Reject {
            seq: post.seq,
            code: RejectCode::BadPack,
            detail: "the body must be a SenML pack: an array of records".to_owned(),
        });
    }
    let frame = frame(post);
    match inbound::read(post.encoding, &frame, received, None) {
        Ok(Inbound::Data(candidate)) => Ok(candidate),
        Ok(_) => Err(Reject {
            seq: post.seq,
            code: RejectCode::Malformed,
            detail: "the body must be a SenML pack".to_owned(),
        }),
        Err(reject) => Err(reject),
    }
}

fn is_map(post: &Post) -> bool {
    match post.encoding {
        Encoding::Cbor => post.pack.first().is_some_and(|byte| byte >> 5 == 5),
        Encoding::Json => post.pack.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{'),
    }
}

/// `{"data": …}` around the pack as it is.
fn frame(post: &Post) -> Vec<u8> {
    match post.encoding {
        Encoding::Json => {
            let mut frame = String::from("{\"data\":{");
            if let Some(seq) = post.seq {
                frame += &format!("\"seq\":{seq},");
            }
            if let Some(age) = post.age {
                frame += &format!("\"age\":{age},");
            }
            frame += "\"pack\":";
            let mut frame = frame.into_bytes();
            frame.extend_from_slice(&post.pack);
            frame.extend_from_slice(b"}}");
            frame
        }
        Encoding::Cbor => {
            let fields = 1 + u8::from(post.seq.is_some()) + u8::from(post.age.is_some());
            let mut frame = b"\xa1\x64data".to_vec();
            frame.push(0xa0 | fields);
            if let Some(seq) = post.seq {
                frame.extend_from_slice(b"\x63seq\x1b");
                frame.extend_from_slice(&seq.to_be_bytes());
            }
            if let Some(age) = post.age {
                frame.extend_from_slice(b"\x63age\xfb");
                frame.extend_from_slice(&age.to_be_bytes());
            }
            frame.extend_from_slice(b"\x64pack");
            frame.extend_from_slice(&post.pack);
            frame
        }
    }
}

async fn hand_over(
    posting: Posting,
    port: IntakePort,
    post: Post,
    candidate: Candidate,
    deadline: Instant,
) -> Posted {
    let IntakePort { control, data } = port;
    let (conn, mailbox) = (posting.conn, Arc::new(Mailbox::default()));
    let (reply, answer) = oneshot::channel();
    let attach = Control::Attach {
        conn,
        device: post.device.clone(),
        stream: post.stream.clone(),
        mailbox: mailbox.clone(),
        reply,
    };
    let outcome = async {
        control.send(attach).await.ok()?;
        let attached = answer.await.ok()?;
        let seq = candidate.seq;
        let arrival = arrival(&posting, conn, &post, &attached, candidate);
        data.send(arrival).await.ok()?;
        // A hub that stops waits until nobody can hand over any more.
        drop(data);
        settled(&mailbox, seq).await
    };
    let outcome = timeout_at(deadline.into(), outcome).await;
    // An error means that the intake is gone, and with it the stream.
    let _ = control.send(Control::Detach { conn }).await;
    let outcome = outcome.ok().flatten().unwrap_or(Posted::NotSafe);
    note(&posting.board, &outcome, posting.began);
    outcome
}

fn arrival(
    posting: &Posting,
    conn: ConnId,
    post: &Post,
    attached: &Attached,
    candidate: Candidate,
) -> Arrival {
    let batch = Batch {
        device: post.device.clone(),
        stream: attached.name.clone(),
        seq: candidate.seq,
        received: candidate.received,
        readings: candidate.readings,
        encoding: candidate.encoding,
        frame: candidate.frame,
    };
    posting.board.seen(candidate.received.uptime);
    posting.board.dropped(candidate.dropped);
    if candidate.seq.is_none_or(|seq| seq > attached.taken) {
        posting.board.took(&batch, Instant::now());
    }
    Arrival {
        resolved: candidate.resolved,
        conn,
        stream: attached.stream,
        batch,
        content: candidate.content,
    }
}

/// Waits until the batch is safe or refused. One without a number is safe once it is settled; one
/// with a number may be settled because it is known, and safe only later.
async fn settled(mailbox: &Mailbox, seq: Option<u64>) -> Option<Posted> {
    loop {
        let mail = mailbox.take().await;
        if let Some(refused) = mail.refused.first() {
            return Some(Posted::Conflict {
                reject: bad_seq(*refused),
                highest: refused.highest,
            });
        }
        let safe = match seq {
            Some(seq) => mail.ack.is_some_and(|ack| ack >= seq),
            None => mail.settled > 0,
        };
        if safe {
            return Some(Posted::Safe);
        }
        match mail.close {
            None | Some(Close::Replaced) => {}
            Some(_) => return None,
        }
    }
}

fn note(board: &DeviceBoard, outcome: &Posted, began: Instant) {
    match outcome {
        Posted::Safe => board.acked(1, began.elapsed()),
        Posted::Conflict { reject, .. } => board.reject(reject.code.as_str()),
        Posted::Rejected(_) | Posted::NotSafe | Posted::Busy | Posted::TooFast(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(encoding: Encoding, pack: &'static [u8]) -> Post {
        Post {
            device: "d".into(),
            stream: Some("s".into()),
            seq: Some(7),
            age: Some(30.5),
            encoding,
            pack: Bytes::from_static(pack),
        }
    }

    #[test]
    fn number_and_age_stand_around_the_pack() {
        for post in [
            of(Encoding::Json, br#" [{"n":"a","v":1}] "#),
            of(Encoding::Cbor, b"\x81\xa2\x00\x61a\x02\x01"),
            of(Encoding::Cbor, b"\x9f\xa2\x00\x61a\x02\x01\xff"),
        ] {
            let candidate = read(&post).unwrap();
            assert_eq!((candidate.seq, candidate.readings), (Some(7), 1));
            let FromDevice::Data(data) = protocol::decode(post.encoding, &candidate.frame).unwrap()
            else {
                panic!("no batch");
            };
            assert_eq!((data.seq, data.age), (Some(7), 30.5));
            let neither = Post {
                seq: None,
                age: None,
                ..post
            };
            assert_eq!(read(&neither).unwrap().seq, None);
        }
    }

    #[test]
    fn a_body_cannot_bring_fields_of_its_own() {
        for pack in [
            &br#"[{"n":"a","v":1}],"x":1"#[..],
            br#"[{"n":"a","v":1}]},"hello":{"#,
            br#"{"data":{"pack":[{"n":"a","v":1}]}}"#,
            br#"{"hello":{}}"#,
            b"",
            b"[",
        ] {
            assert!(read(&of(Encoding::Json, pack)).is_err());
        }
        let map = b"\xa1\x64data\xa1\x64pack\x81\xa2\x00\x61a\x02\x01";
        assert!(read(&of(Encoding::Cbor, map)).is_err());
    }
}
