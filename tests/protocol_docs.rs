//! What docs/protocol.md shows is what happens: its exchanges byte for byte, its examples as they
//! are pasted.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/device_port.rs"]
mod device_port;
#[path = "support/json_schema.rs"]
mod json_schema;

use std::collections::VecDeque;

use device_port::{Device, Known, Port, devices, soon};
use futures_util::SinkExt;
use json_schema::Schema;
use serde_cbor::Value as Cbor;
use serde_json::{Map, Value};
use telehub::intake::port::{Arrival, Refused};
use telehub::protocol::encode;
use telehub::reading::Encoding;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

const PAGE: &str = include_str!("../docs/protocol.md");

/// A line of an exchange and the bytes below it; `None`: the connection ends.
struct Line {
    from_device: bool,
    message: Option<Value>,
    bytes: Vec<u8>,
}

fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let parts = PAGE.split(&fence).skip(1);
    parts
        .map(|part| part.split("```").next().unwrap().to_owned())
        .collect()
}

fn exchanges() -> Vec<Vec<Line>> {
    let read = |block: &String| {
        let mut lines: Vec<Line> = Vec::new();
        for text in block.lines() {
            if let Some(hex) = text.strip_prefix("  ") {
                let bytes = hex
                    .split(' ')
                    .map(|byte| u8::from_str_radix(byte, 16).unwrap());
                lines.last_mut().unwrap().bytes.extend(bytes);
                continue;
            }
            let (arrow, rest) = text.split_once(' ').unwrap();
            assert!(arrow == "→" || arrow == "←", "{text}");
            lines.push(Line {
                from_device: arrow == "→",
                message: (rest != "close 1000").then(|| serde_json::from_str(rest).unwrap()),
                bytes: Vec::new(),
            });
        }
        lines
    };
    blocks("exchange").iter().map(read).collect()
}

/// CBOR as JSON, integer labels of packs as texts.
fn as_json(value: Cbor) -> Value {
    match value {
        Cbor::Null => Value::Null,
        Cbor::Bool(value) => value.into(),
        Cbor::Integer(value) => u64::try_from(value).unwrap().into(),
        Cbor::Float(value) => value.into(),
        Cbor::Text(value) => value.into(),
        Cbor::Array(values) => values.into_iter().map(as_json).collect(),
        Cbor::Map(map) => {
            let entries = map.into_iter().map(|(key, value)| {
                let key = match key {
                    Cbor::Text(text) => text,
                    Cbor::Integer(-2) => "bn".to_owned(),
                    Cbor::Integer(label @ 0..=2) => {
                        ["n", "u", "v"][usize::try_from(label).unwrap()].to_owned()
                    }
                    other => panic!("{other:?}"),
                };
                (key, as_json(value))
            });
            Value::Object(entries.collect::<Map<_, _>>())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_bytes_of_the_exchanges_say_what_the_text_says_and_both_keep_to_the_schema() {
    let text = include_str!("../docs/schema/telehub-v1.schema.json");
    let schema = Schema(serde_json::from_str(text).unwrap());
    let all = exchanges();
    assert!(all.len() >= 6, "{}", all.len());
    for line in all.into_iter().flatten() {
        let Some(message) = line.message else {
            continue;
        };
        let read = as_json(serde_cbor::from_slice(&line.bytes).unwrap());
        assert_eq!(read, message);
        let definition = if line.from_device {
            "fromDevice"
        } else {
            "toDevice"
        };
        assert_eq!(schema.fault(definition, &message), None, "{message}");
    }
}

/// Without what differs from run to run.
fn timeless(mut message: Value) -> Value {
    if let Some(welcome) = message.get_mut("welcome") {
        assert!(welcome["time"].is_f64() && welcome["time_s"].is_u64());
        welcome["time"] = 0.into();
        welcome["time_s"] = 0.into();
        if welcome["stream"].as_str().unwrap().starts_with('h') {
            welcome["stream"] = "made by the hub".into();
        }
    }
    message
}

async fn expect(
    port: &Port,
    device: &mut Device<TcpStream>,
    arrivals: &mut VecDeque<Arrival>,
    encoding: Encoding,
    expected: &Value,
) {
    let seq = |kind: &str| expected[kind]["seq"].as_u64();
    if let (Some(ack), None) = (seq("ack"), seq("reject")) {
        while arrivals
            .front()
            .is_some_and(|one| one.batch.seq.unwrap() <= ack)
        {
            port.intake.settle(&arrivals.pop_front().unwrap());
        }
    }
    if let Some(seq) = seq("reject") {
        let arrival = arrivals.pop_front().unwrap();
        let detail = expected["reject"]["detail"].as_str().unwrap();
        let highest = detail.rsplit(' ').next().unwrap().parse().unwrap();
        port.intake
            .mailbox(arrival.conn)
            .refuse(Refused { seq, highest });
    }
    loop {
        let (how, answer) = device.answer().await;
        assert_eq!(how, encoding);
        let answer: Value = serde_json::from_slice(&encode(Encoding::Json, &answer)).unwrap();
        let earlier = answer["ack"]["seq"].as_u64() < seq("ack") && answer.get("ack").is_some();
        if !earlier {
            assert_eq!(timeless(answer), timeless(expected.clone()));
            return;
        }
    }
}

#[tokio::test]
async fn the_hub_answers_the_exchanges_as_the_page_says() {
    for encoding in [Encoding::Cbor, Encoding::Json] {
        for lines in exchanges() {
            let mut settings = devices();
            settings.ping_interval = std::time::Duration::from_secs(20);
            settings.ping_timeout = std::time::Duration::from_secs(10);
            settings.max_rate = 100;
            let mut port = Port::start(settings).await;
            let welcome = lines.iter().filter_map(|line| line.message.as_ref());
            let welcome = welcome.filter_map(|message| message.get("welcome"));
            let safe = welcome
                .map(|welcome| welcome["seq"].as_u64().unwrap())
                .next()
                .unwrap();
            *port.intake.known.lock().unwrap() = Known {
                safe,
                taken: safe,
                safe_soon: None,
            };
            let mut device = port.connect("barn-1").await;
            let mut arrivals = VecDeque::new();
            for line in lines {
                let Some(message) = line.message else {
                    assert_eq!(device.closed().await, 1000);
                    continue;
                };
                if !line.from_device {
                    expect(&port, &mut device, &mut arrivals, encoding, &message).await;
                    continue;
                }
                let frame = match encoding {
                    Encoding::Cbor => Message::binary(line.bytes),
                    Encoding::Json => Message::text(message.to_string()),
                };
                soon(device.ws.send(frame)).await.unwrap();
                if message.get("data").is_some() {
                    arrivals.push_back(port.intake.arrival().await);
                }
            }
        }
    }
}

#[test]
fn every_code_that_the_hub_gives_is_on_the_page_with_what_to_do() {
    use telehub::session::ending::Ending;
    for ending in [
        Ending::PingTimeout,
        Ending::Replaced,
        Ending::Refused,
        Ending::Revoked,
        Ending::RateExceeded,
        Ending::Stopping,
        Ending::ProtocolError,
        Ending::LateHello,
        Ending::NotUtf8,
        Ending::TooLarge {
            limit: 1,
            seq: None,
        },
        Ending::TooManyRejects,
        Ending::Bye,
    ] {
        let (code, _) = ending.close().unwrap();
        assert!(PAGE.contains(&format!("\n| {code} |")), "{code}");
    }
    for code in telehub::status::counts::CODES {
        assert!(PAGE.contains(&format!("\n| `{code}` |")), "{code}");
    }
    for status in [
        "400", "401", "403", "404, 405", "409", "413", "415", "426", "429", "503",
    ] {
        assert!(PAGE.contains(&format!("\n| {status} |")), "{status}");
    }
}
