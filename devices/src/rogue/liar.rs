//! A rogue that says what is not true: numbers that it has used, and answers to commands that it was
//! not asked, of other devices, too late, twice, and such as no answer may be.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::frame::{BINARY, CLOSE, FIN, TEXT, frame};
use super::link::{Asked, Rogue};
use super::{batch, hello};
use crate::wire::Encoding;
use crate::wire::cbor::Writer;

/// Between two lies: fifty a second are within the default `max_rate`.
const PAUSE: Duration = Duration::from_millis(20);

/// Lies of one connection.
const LIES: usize = 64;

/// Bytes of a result that no hub takes by its default `max_message`.
const TOO_LARGE: usize = 70_000;

/// How long after a command's timeout the late answer comes.
const LATE: Duration = Duration::from_millis(300);

/// What it answers a command that it is asked, by turns.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Twice,
    Otherwise,
    UnderAnotherId,
    Late,
    OnlyProgress,
    TooLarge,
}

const ANSWERS: [Answer; 6] = [
    Answer::Twice,
    Answer::Otherwise,
    Answer::UnderAnotherId,
    Answer::Late,
    Answer::OnlyProgress,
    Answer::TooLarge,
];

/// Sequence numbers backwards and far ahead, 0, the same ones with other content, hello in the
/// middle; answers to what nobody asked, or asked another; and false answers to what it is asked.
pub async fn liar(rogue: &mut Rogue) -> io::Result<()> {
    let Some((mut out, mut ear)) = rogue.upgrade(None).await? else {
        return Ok(());
    };
    let encoding = match rogue.below(2) {
        0 => Encoding::Cbor,
        _ => Encoding::Json,
    };
    let (asked, mut commands) = mpsc::unbounded_channel();
    ear.tell(asked);
    let lies = lies(rogue, encoding);
    let start = rogue.below(ANSWERS.len() as u64) as usize;
    let tell = async {
        let mut lies = lies.into_iter();
        let mut answers = ANSWERS.iter().cycle().skip(start);
        let mut later: Vec<(Instant, Vec<u8>)> = Vec::new();
        let mut next = Instant::now();
        loop {
            let due = later.iter().map(|(at, _)| *at).min();
            let wake = match (lies.len(), due) {
                (0, None) => break,
                (0, Some(due)) => due,
                (_, due) => due.map_or(next, |due| due.min(next)),
            };
            tokio::select! {
                Some(command) = commands.recv() => {
                    let answer = answers.next().unwrap_or(&Answer::Twice);
                    for (after, message) in answer.to(&command, encoding) {
                        later.push((Instant::now() + after, message));
                    }
                }
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            let (go, wait): (Vec<_>, Vec<_>) = later.into_iter().partition(|(at, _)| *at <= now);
            later = wait;
            for (_, message) in go {
                out.write_all(&message).await?;
            }
            if now >= next {
                next = now + PAUSE;
                if let Some(lie) = lies.next() {
                    out.write_all(&lie).await?;
                }
            }
        }
        out.write_all(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()))
            .await
    };
    rogue.listen(ear, tell).await;
    Ok(())
}

/// The lies of one connection, as frames: `hello` first, something without any measure last.
fn lies(rogue: &mut Rogue, encoding: Encoding) -> Vec<Vec<u8>> {
    let mut lies = vec![framed(encoding, &hello(encoding, "lies"))];
    let mut seq = 1000;
    for _ in 0..LIES {
        lies.push(match rogue.below(12) {
            0 => framed(encoding, &batch(encoding, 0)),
            1 => framed(encoding, &batch(encoding, rogue.below(seq))),
            2 => framed(encoding, &batch(encoding, u64::MAX)),
            3 => framed(encoding, &hello(encoding, "other lies")),
            4 => framed(encoding, &batch(encoding, seq)),
            5..=7 => unasked(rogue, encoding),
            8 => nonsense(rogue.below(8)),
            _ => {
                seq = seq.saturating_add(rogue.below(1 << 40));
                framed(encoding, &batch(encoding, seq))
            }
        });
    }
    if rogue.below(4) == 0 {
        let result =
            json!({"id": "large", "name": "on", "ok": true, "value": "x".repeat(TOO_LARGE)});
        lies.push(framed(encoding, &message(encoding, &result)));
    }
    lies
}

/// An answer to what this device was never asked. Its ids are 1 to 9, which another may have been
/// asked, and some of its own; few, so that the same comes again, as it was and otherwise.
fn unasked(rogue: &mut Rogue, encoding: Encoding) -> Vec<u8> {
    let id = match rogue.below(3) {
        0 => format!("lie-{}", rogue.below(4)),
        _ => format!("{}", 1 + rogue.below(9)),
    };
    let value = rogue.below(3);
    let result = match rogue.below(5) {
        0 => json!({"id": id, "ok": true, "value": value}),
        1 => json!({"id": id, "name": "no/name", "ok": true, "value": value}),
        2 => json!({"id": id, "name": "on", "ok": true, "value": value, "more": true}),
        3 => json!({"id": id, "name": "on", "ok": false, "error": "no"}),
        _ => json!({"id": id, "name": "on", "ok": true, "value": value}),
    };
    framed(encoding, &message(encoding, &result))
}

/// No answer at all: each has to be refused by its id where that can be read.
fn nonsense(which: u64) -> Vec<u8> {
    let cbor = |tail: &[u8]| {
        let head = b"\xa1\x66result\xa4\x62id\x61n\x64name\x62on\x62ok\xf5\x65value";
        framed(Encoding::Cbor, &[&head[..], tail].concat())
    };
    let json = |result: Value| framed(Encoding::Json, &message(Encoding::Json, &result));
    let text = |text: &str| framed(Encoding::Json, text.as_bytes());
    match which {
        0 => cbor(b"\xf9\x7e\x00"),
        1 => cbor(b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00"),
        2 => text(r#"{"result":{"id":"n","name":"on","ok":true,"value":NaN}}"#),
        3 => json(json!({"id": "i".repeat(65), "name": "on", "ok": true})),
        4 => json(json!({"id": "n", "name": "on", "ok": 1})),
        5 => json(json!({"id": "n", "name": "on", "ok": false, "error": "e".repeat(10_000)})),
        6 => cbor(&[vec![0x81; 200], vec![0x01]].concat()),
        _ => text(r#"{"result":{"name":"on","ok":true}}"#),
    }
}

impl Answer {
    /// Frames, and how long after the command each goes.
    fn to(self, command: &Asked, encoding: Encoding) -> Vec<(Duration, Vec<u8>)> {
        let (id, name) = (&command.id, &command.name);
        let done = |value: Value| {
            let result = json!({"id": id, "name": name, "ok": true, "value": value});
            framed(encoding, &message(encoding, &result))
        };
        let now = Duration::ZERO;
        match self {
            Self::Twice => vec![(now, done(json!(1))), (now, done(json!(1)))],
            Self::Otherwise => vec![(now, done(json!(1))), (now, done(json!(2)))],
            Self::UnderAnotherId => {
                let result = json!({"id": format!("{id}-other"), "name": name, "ok": true});
                let other = framed(encoding, &message(encoding, &result));
                vec![(now, other), (PAUSE, done(json!(1)))]
            }
            Self::Late => {
                let late = command.timeout + LATE;
                vec![(late, done(json!("late"))), (late, done(json!("late")))]
            }
            Self::OnlyProgress => {
                let part = json!({"id": id, "ok": true, "value": 1, "more": true});
                let part = framed(encoding, &message(encoding, &part));
                (0..20).map(|n| (PAUSE * n, part.clone())).collect()
            }
            Self::TooLarge => vec![(now, done(json!("x".repeat(TOO_LARGE))))],
        }
    }
}

fn framed(encoding: Encoding, message: &[u8]) -> Vec<u8> {
    let opcode = match encoding {
        Encoding::Cbor => BINARY,
        Encoding::Json => TEXT,
    };
    frame(FIN | opcode, message)
}

fn message(encoding: Encoding, result: &Value) -> Vec<u8> {
    let message = json!({ "result": result });
    match encoding {
        Encoding::Json => message.to_string().into_bytes(),
        Encoding::Cbor => {
            let mut out = Writer::default();
            out.json(&message);
            out.into_bytes()
        }
    }
}
