//! The admin listener as a client on a raw socket sees it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/admin_rig.rs"]
mod admin_rig;

use std::sync::Arc;

use admin_rig::{body, status, test};
use telehub::admin::MAX_CONNECTIONS;
use telehub::status::board::{DeviceReport, SpoolState, StatusReport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn assert_problem(answer: &str, code: u16) {
    assert_eq!(status(answer), code, "{answer}");
    assert!(
        answer.contains("content-type: application/problem+json\r\n"),
        "{answer}"
    );
    let problem: serde_json::Value = serde_json::from_str(body(answer)).unwrap();
    assert_eq!(problem["status"], code);
    assert!(
        problem["title"].is_string() && problem["detail"].is_string(),
        "{answer}"
    );
}

#[test]
fn health_follows_the_spool_and_readiness_the_listener() {
    test(async |admin| {
        assert_eq!(body(&admin.get("/healthz").await), "ok\n");
        assert_problem(&admin.get("/readyz").await, 503);
        admin.board.set_ready(true);
        assert_eq!(status(&admin.get("/readyz").await), 200);
        admin
            .board
            .spool
            .set(SpoolState::Full, Some("1 GiB".into()));
        assert_problem(&admin.get("/healthz").await, 503);
        admin
            .board
            .spool
            .set(SpoolState::Failed, Some("read-only file system".into()));
        let failed = admin.get("/healthz").await;
        assert_problem(&failed, 503);
        assert!(failed.contains("read-only file system"), "{failed}");
    });
}

#[test]
fn status_and_devices_are_what_the_board_says() {
    test(async |admin| {
        let device: Arc<str> = "barn-1".into();
        admin
            .board
            .devices
            .online(&device, 1, "10.0.0.1:5000".into())
            .batches
            .add(7);
        admin.board.uplink.acknowledged.add(3);
        let answer = admin.get("/api/status").await;
        assert!(
            answer.contains("content-type: application/json\r\n"),
            "{answer}"
        );
        assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
        let report: StatusReport = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(
            (report.hub.as_str(), report.uplink.acknowledged),
            ("barn", 3)
        );
        let answer = admin.get("/api/devices?x=1").await;
        let devices: Vec<DeviceReport> = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(devices.len(), 1);
        assert_eq!((devices[0].id.as_str(), devices[0].batches), ("barn-1", 7));
    });
}

#[test]
fn head_has_the_header_of_get_and_no_body() {
    test(async |admin| {
        let head = admin
            .send("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await;
        assert_eq!((status(&head), body(&head)), (200, ""));
        assert!(head.contains("content-length: 3\r\n"), "{head}");
    });
}

#[test]
fn another_path_another_method_and_another_host_are_told_so() {
    test(async |admin| {
        assert_problem(&admin.get("/api/statu").await, 404);
        assert_problem(&admin.get("/../etc/passwd").await, 404);
        let post = "POST /api/status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
        let answer = admin.send(post).await;
        assert_problem(&answer, 405);
        assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        let evil = "GET /api/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
        assert_problem(&admin.send(evil).await, 421);
        let evil = "GET http://evil.example/api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_problem(&admin.send(evil).await, 421);
        assert_eq!(
            status(&admin.send("GET /healthz HTTP/1.0\r\n\r\n").await),
            200
        );
    });
}

#[test]
fn garbage_and_endless_headers_cost_their_sender_the_connection_only() {
    test(async |admin| {
        let garbage = admin.send("\u{16}\u{3}\u{1}\r\n\r\n").await;
        assert!(garbage.is_empty() || status(&garbage) == 400, "{garbage}");
        let mut endless = admin.connect().await;
        let line = format!("X: {}\r\n", "y".repeat(1_000));
        endless.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        while endless.write_all(line.as_bytes()).await.is_ok() {}
        assert_eq!(status(&admin.get("/healthz").await), 200);
    });
}

#[test]
fn connections_beyond_the_bound_are_refused_and_the_next_is_served_once_one_goes() {
    test(async |admin| {
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(admin.connect().await);
        }
        let mut refused = String::new();
        admin
            .connect()
            .await
            .read_to_string(&mut refused)
            .await
            .unwrap();
        assert_eq!(status(&refused), 503);
        silent.pop();
        // The slot is free as soon as the hub has noticed.
        loop {
            let mut socket = admin.connect().await;
            let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut answer = Vec::new();
            let sent = socket.write_all(request).await;
            if sent.is_ok()
                && socket.read_to_end(&mut answer).await.is_ok()
                && answer.ends_with(b"ok\n")
            {
                break;
            }
        }
    });
}

#[test]
fn a_client_that_never_reads_holds_up_neither_others_nor_the_stop() {
    test(async |admin| {
        for number in 0..2_000 {
            admin
                .board
                .devices
                .online(&format!("device-{number}").into(), number, String::new());
        }
        let mut deaf = admin.connect().await;
        let request = "GET /api/devices HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
        deaf.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(status(&admin.get("/healthz").await), 200);
        admin.stopper.stop();
        admin.task.await.unwrap();
        assert!(TcpStream::connect(admin.address).await.is_err());
    });
}

#[test]
fn a_connection_on_which_nothing_comes_is_ended() {
    test(async |admin| {
        let mut silent = admin.connect().await;
        let mut halfway = admin.connect().await;
        halfway.write_all(b"GET /healthz HT").await.unwrap();
        let mut idle = admin.connect().await;
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        idle.write_all(request).await.unwrap();
        // Each of these returns only when the other side closes.
        for socket in [&mut silent, &mut halfway, &mut idle] {
            socket.read_to_end(&mut Vec::new()).await.unwrap();
        }
    });
}
