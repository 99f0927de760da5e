//! Bad input from one device costs that device its frame or its connection, and nobody else
//! anything: an honest device sends all the while, and every batch of it is acked.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use daemon::{Device, Hub, Sensor, config, until};
use serde_json::json;

#[tokio::test]
async fn each_kind_of_bad_input_gets_its_answer_and_the_neighbour_notices_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), daemon::free_port(), "")).await;
    let neighbour = Sensor::start(hub.address, "neighbour", Duration::from_millis(2));

    let mut nested = vec![0x81; 10_000];
    nested.push(0x01);
    let mut huge_text = vec![0xa1, 0x7b];
    huge_text.extend((1u64 << 63).to_be_bytes());
    let bad_cbor: Vec<(&str, Vec<u8>, &str)> = vec![
        ("garbage", vec![0xff, 0x00, 0x13], "malformed"),
        ("truncated", vec![0xa1, 0x64, b'd', b'a'], "malformed"),
        ("10,000 deep", nested, "malformed"),
        ("a length of 2^63", huge_text, "malformed"),
        (
            "duplicate keys",
            hex("a1 64 64617461 a3 63 736571 01 63 736571 02 64 7061636b 80"),
            "malformed",
        ),
        (
            "NaN",
            hex("a1 64 64617461 a2 63 736571 01 64 7061636b 81 a2 00 61 78 02 f9 7e00"),
            "bad-pack",
        ),
        (
            "wrong type",
            hex("a1 64 64617461 a2 63 736571 01 64 7061636b 81 a2 00 01 02 01"),
            "malformed",
        ),
        ("unknown kind", hex("a1 64 64617465 01"), "unknown-kind"),
        (
            "seq 0",
            hex("a1 64 64617461 a2 63 736571 00 64 7061636b 81 a2 00 61 78 02 01"),
            "bad-seq",
        ),
    ];
    for (what, frame, code) in bad_cbor {
        let mut device = Device::connect(hub.address, "bad").await;
        device.send_binary(frame).await;
        let answer = device
            .receive_cbor()
            .await
            .unwrap_or_else(|| panic!("{what}: closed"));
        let reject = &answer["reject"];
        let known =
            reject["code"] == code || (what == "wrong type" && reject["code"] == "bad-pack");
        assert!(known, "{what}: {answer}");
        assert!(
            reject["detail"].as_str().unwrap().len() > 5,
            "{what}: {answer}"
        );
        // The connection is good for the next message.
        device.hello("s").await;
    }

    let mut device = Device::connect(hub.address, "bad").await;
    device.hello("backwards").await;
    device.data(5).await;
    device.acked(5).await;
    device.data(3).await;
    let answer = device.receive().await.unwrap();
    assert_eq!(
        answer["reject"],
        json!({"seq": 3, "code": "bad-seq", "detail": answer["reject"]["detail"]})
    );
    device.send_text("{not json").await;
    assert_eq!(
        device.receive().await.unwrap()["reject"]["code"],
        "malformed"
    );

    let mut device = Device::connect(hub.address, "bad").await;
    for _ in 0..10 {
        device.send_text("[]").await;
    }
    assert_eq!(device.close_code().await, 1007, "ten rejects in a row");

    let mut device = Device::connect(hub.address, "bad").await;
    device.send_text(&" ".repeat(70_000)).await;
    assert_eq!(device.close_code().await, 1009);

    // A handshake that never finishes is cut by handshake_timeout (5 s).
    let address = hub.address;
    let ended = tokio::task::spawn_blocking(move || {
        let mut slow = TcpStream::connect(address).unwrap();
        slow.set_read_timeout(Some(daemon::PATIENCE)).unwrap();
        slow.write_all(b"GET /v1/devices/slow HTTP/1.1\r\nHost: x\r\n")
            .unwrap();
        slow.read_to_end(&mut Vec::new())
            .map_err(|error| error.kind())
    });
    let ended = ended.await.unwrap();
    assert!(
        matches!(ended, Ok(_) | Err(ErrorKind::ConnectionReset)),
        "{ended:?}"
    );

    let sent = neighbour.acked();
    assert!(sent > 100, "{sent}");
    until("the neighbour's acks go on", || {
        neighbour.acked() > sent + 50
    })
    .await;
    neighbour.rest();
    until("every ack", || neighbour.unacked() == 0).await;
    assert_eq!(
        neighbour.connects(),
        1,
        "the neighbour was never disconnected"
    );
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |c: u8| u8::try_from((c as char).to_digit(16).unwrap()).unwrap();
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
