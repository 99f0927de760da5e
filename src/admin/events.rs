//! `/api/events`: server-sent events (WHATWG HTML, "Server-sent events").
//!
//! A new reader gets everything there is, made piece by piece as its connection takes it. After
//! that it gets what changes. Changes of counters are looked for once a second by one task for all
//! readers, which sleeps while there are none.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

use super::readings::readings;
use crate::status::board::{Board, DeviceBoard, StatusReport};
use crate::status::feed::{News, Reader};
use crate::status::history;

/// How often changes of the status and of the devices are looked for.
const ROUND: Duration = Duration::from_secs(1);

/// Rounds after which a reader hears something in any case, so that both ends notice a
/// connection that is gone: 15 s, half of what proxies allow.
const KEEP_ALIVE: u32 = 15;

/// Devices that are told of in one round: 200 KB. When more than that change every second, each
/// is told of less often.
const DEVICES_A_ROUND: usize = 512;

/// Devices in one piece of what a new reader gets.
const DEVICES_A_PIECE: usize = 64;

/// Bytes of events that are made at once; the rest is made when the connection takes more.
const PIECE: usize = 64 * 1024;

/// One event, as text.
fn event(into: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    let before = into.len();
    into.extend_from_slice(b"event: ");
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(b"\ndata: ");
    // JSON has no line breaks outside of strings, and escapes them inside.
    if serde_json::to_writer(&mut *into, data).is_err() {
        into.truncate(before);
        return;
    }
    into.extend_from_slice(b"\n\n");
}

fn write(into: &mut Vec<u8>, news: News) {
    match news {
        News::Told(text) => into.extend_from_slice(&text),
        News::Forgotten { id } => event(into, "forgotten", &json!({ "id": id })),
        News::Change {
            time,
            device,
            online,
            reason,
        } => {
            let state = history::state(online, reason);
            let change = json!({"time": time, "device": device, "state": state, "reason": reason});
            event(into, "change", &change);
        }
        News::Reading {
            device,
            batch,
            readings: limit,
        } => {
            #[derive(Serialize)]
            struct OfDevice<'a, T> {
                device: &'a str,
                #[serde(flatten)]
                reading: T,
            }
            for reading in readings(&batch, limit as usize) {
                let device = &device;
                event(into, "reading", &OfDevice { device, reading });
            }
        }
    }
}

/// What one reader gets.
#[derive(Debug)]
pub(super) struct Events {
    /// What every reader gets first, until it has.
    first: Option<Bytes>,
    devices: vec::IntoIter<Arc<DeviceBoard>>,
    reader: Reader,
    /// News that were taken from the queue.
    taken: VecDeque<News>,
}

impl Events {
    /// `changes`: whether this reader may change something.
    pub(super) fn new(board: &Board, reader: Reader, changes: bool) -> Self {
        // A comment first: whoever stands between has something to hand on at once.
        let mut first = b": telehub\n\nretry: 2000\n\n".to_vec();
        let version = env!("CARGO_PKG_VERSION");
        let hello = json!({"hub": board.hub(), "version": version, "started": board.started(), "changes": changes});
        event(&mut first, "hello", &hello);
        event(&mut first, "status", &board.status());
        Self {
            first: Some(first.into()),
            devices: board.devices.all().into_iter(),
            reader,
            taken: VecDeque::new(),
        }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = |bytes: Bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        if let Some(first) = self.first.take() {
            return frame(first);
        }
        let mut text = Vec::new();
        for device in self.devices.by_ref().take(DEVICES_A_PIECE) {
            event(&mut text, "device", &device.report());
        }
        if !text.is_empty() {
            return frame(text.into());
        }
        while text.is_empty() {
            if self.taken.is_empty() {
                match ready!(self.reader.poll(cx)) {
                    Some(news) => self.taken = news,
                    None => return Poll::Ready(None),
                }
            }
            while text.len() < PIECE
                && let Some(news) = self.taken.pop_front()
            {
                write(&mut text, news);
            }
        }
        frame(text.into())
    }
}

/// Tells the readers what changes, as long as there are any; sleeps while there are none.
pub(super) async fn tell(board: &Board) {
    let mut told = None;
    let mut quiet = 0;
    loop {
        board.feed().watched().await;
        sleep(ROUND).await;
        let mut text = round(board, &mut told);
        quiet += 1;
        if text.is_empty() && quiet >= KEEP_ALIVE {
            text = b": keep-alive\n\n".to_vec();
        }
        if !text.is_empty() {
            quiet = 0;
            board.feed().put(&News::Told(text.into()));
        }
    }
}

/// What differs from the last round.
fn round(board: &Board, told: &mut Option<StatusReport>) -> Vec<u8> {
    let mut text = Vec::new();
    let status = board.status();
    // The time goes on in any case.
    let mut timeless = status.clone();
    (
        timeless.uptime,
        timeless.spool.flash_per_day,
        timeless.spool.full_in,
    ) = (0.0, 0, None);
    // Pings are no news.
    let uplink = &mut timeless.uplink;
    (uplink.sent_bytes, uplink.received_bytes) = (0, 0);
    (uplink.sent_per_day, uplink.received_per_day) = (0, 0);
    if told.as_ref() != Some(&timeless) {
        event(&mut text, "status", &status);
        *told = Some(timeless);
    }
    for device in board.devices.untold(DEVICES_A_ROUND) {
        event(&mut text, "device", &device.report());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_tells_what_changed_and_nothing_else() {
        let board = Board::new("barn");
        let mut told = None;
        let text = |told: &mut _| String::from_utf8_lossy(&round(&board, told)).into_owned();
        assert!(text(&mut told).starts_with("event: status\ndata: {"));
        assert_eq!(text(&mut told), "");
        let device = board.devices.online(&"cow".into(), 1, String::new());
        let news = text(&mut told);
        assert!(news.contains("\"known\":1"), "{news}");
        assert!(
            news.contains("event: device\ndata: {\"id\":\"cow\","),
            "{news}"
        );
        device.seen(5.0);
        let news = text(&mut told);
        assert!(news.starts_with("event: device\n"), "{news}");
        assert_eq!(text(&mut told), "");
    }

    #[test]
    fn text_of_a_device_cannot_begin_an_event() {
        let mut text = Vec::new();
        event(
            &mut text,
            "device",
            &json!({"model": "x\n\nevent: status\ndata: {}\r"}),
        );
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains('\r'), "{text}");
    }
}
