//! The admin listener as a client on a raw socket sees it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/admin_rig.rs"]
mod admin_rig;

use std::sync::Arc;

use admin_rig::{Admin, body, status, test, test_with};
use telehub::admin::{MAX_CONNECTIONS, Settings};
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
        admin
            .board
            .spool
            .set_path(std::path::Path::new("/var/spool/telehub"));
        for state in [SpoolState::Failed, SpoolState::Unusable] {
            let reason = Some("read-only file system".into());
            admin.board.spool.set(state, reason);
            let failed = admin.get("/healthz").await;
            assert_problem(&failed, 503);
            let reason = "/var/spool/telehub: read-only file system";
            assert!(failed.contains(reason), "{failed}");
        }
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
        let answer = admin
            .send("GET /api/devices?x=1 HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await;
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
        for hosts in ["", "Host: localhost\r\nHost: localhost\r\n"] {
            let request = format!("GET /healthz HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
            assert_eq!(status(&admin.send(&request).await), 400, "{hosts}");
        }
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
fn squatters_make_room_and_the_tokens_holder_gets_in() {
    test_with(guarded(), async |admin| {
        // More than there are seats: silent ones, some half-way through a request, and some that
        // keep a connection on which only health was asked for.
        let mut squatters = Vec::new();
        for n in 0..3 * MAX_CONNECTIONS {
            let mut socket = admin.connect().await;
            let said: &[u8] = match n % 3 {
                0 => b"",
                1 => b"GET /api/devices HT",
                _ => b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            };
            // One that was pushed out already cannot be written to.
            let _ = socket.write_all(said).await;
            squatters.push(socket);
        }
        let shown = "Host: localhost\r\nAuthorization: Bearer 0123456789abcdef\r\n";
        for _ in 0..60 {
            let answer = get_with(&admin, "/api/status", shown).await;
            assert_eq!(status(&answer), 200, "{answer}");
        }
        // Who has shown the token stays, however many come.
        let mut held = admin.connect().await;
        let request = format!("GET /api/status HTTP/1.1\r\n{shown}\r\n");
        let again = async |held: &mut TcpStream| {
            held.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            held.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            // The rest of it.
            let mut rest = Vec::new();
            while !rest.ends_with(b"}}") {
                rest.push(held.read_u8().await.unwrap());
            }
        };
        again(&mut held).await;
        for _ in 0..2 * MAX_CONNECTIONS {
            squatters.push(admin.connect().await);
        }
        again(&mut held).await;
    });
}

#[test]
fn without_the_token_nothing_further_is_answered_on_a_connection() {
    test_with(guarded(), async |admin| {
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3);
        let answer = admin.send(&request).await;
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    });
}

#[test]
fn a_page_of_another_site_gets_nothing_but_the_page_itself_by_a_link() {
    test(async |admin| {
        for site in ["cross-site", "same-site"] {
            let headers = format!("Host: localhost\r\nSec-Fetch-Site: {site}\r\n");
            for path in ["/api/events", "/api/status", "/healthz", "/"] {
                assert_problem(&get_with(&admin, path, &headers).await, 403);
            }
            let link = format!("{headers}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n");
            assert_eq!(status(&get_with(&admin, "/", &link).await), 200);
        }
        assert_eq!(admin.board.feed().readers(), 0);
        let own = "Host: localhost\r\nSec-Fetch-Site: same-origin\r\n";
        assert_eq!(status(&get_with(&admin, "/api/status", own).await), 200);
    });
}

#[test]
fn an_alarm_is_ended_by_who_has_the_token_and_by_nobody_else() {
    let change = async |admin: &Admin, request: &str, more: &str| {
        let head =
            format!("{request} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n");
        status(&admin.send(&head).await)
    };
    test(async |admin| {
        admin.board.devices.online(&"cow".into(), 1, String::new());
        admin.board.devices.offline("cow", 1, "ping timeout");
        assert_eq!(change(&admin, "DELETE /api/devices/cow", "").await, 403);
        assert_eq!(admin.board.device_reports().len(), 1);
    });
    test_with(guarded(), async |admin| {
        let token = "Authorization: Bearer 0123456789abcdef\r\n";
        let devices = &admin.board.devices;
        devices.online(&"cow".into(), 1, String::new());
        assert_eq!(change(&admin, "DELETE /api/devices/cow", token).await, 409);
        let acknowledge = "POST /api/devices/cow/acknowledge";
        assert_eq!(change(&admin, acknowledge, token).await, 409);
        devices.offline("cow", 1, "ping timeout");
        assert_eq!(admin.board.status().devices.lost, 1);
        assert_eq!(change(&admin, acknowledge, "").await, 401);
        // The token of Basic is added by the browser itself, whatever page asks.
        let foreign = format!("{token}Origin: http://evil.example\r\n");
        assert_eq!(change(&admin, acknowledge, &foreign).await, 403);
        assert_eq!(admin.board.status().devices.lost, 1);
        assert_eq!(change(&admin, acknowledge, token).await, 204);
        assert_eq!(admin.board.status().devices.lost, 0);
        assert!(admin.board.device_reports()[0].acknowledged);
        assert_eq!(change(&admin, "DELETE /api/devices/cow", token).await, 204);
        assert_eq!(change(&admin, "DELETE /api/devices/cow", token).await, 404);
        assert!(admin.board.device_reports().is_empty());
    });
}

#[test]
fn a_list_of_ten_thousand_devices_is_made_as_it_is_read() {
    test(async |admin| {
        for number in 0..10_000 {
            admin.board.devices.online(
                &format!("device-{number:05}").into(),
                number,
                String::new(),
            );
        }
        let mut unread = Vec::new();
        for _ in 0..MAX_CONNECTIONS - 1 {
            let mut socket = admin.connect().await;
            let request = b"GET /api/devices HTTP/1.1\r\nHost: localhost\r\n\r\n";
            socket.write_all(request).await.unwrap();
            unread.push(socket);
        }
        let answer = admin
            .send("GET /api/devices HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await;
        let devices: Vec<DeviceReport> = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(devices.len(), 10_000);
        let answer = admin.get("/api/devices?limit=2&after=device-00007").await;
        assert!(
            answer.contains("device-00008") && !answer.contains("device-00010"),
            "{answer}"
        );
        assert_problem(&admin.get("/api/devices?limit=no").await, 400);
        drop(unread);
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

fn guarded() -> Settings {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    Settings::new(Some(&file), false).unwrap()
}

async fn get_with(admin: &Admin, path: &str, headers: &str) -> String {
    admin
        .send(&format!(
            "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"
        ))
        .await
}

#[test]
fn with_a_token_only_health_is_for_everybody() {
    test_with(guarded(), async |admin| {
        admin.board.set_ready(true);
        for open in ["/healthz", "/readyz"] {
            assert_eq!(status(&admin.get(open).await), 200, "{open}");
        }
        let shown = "Host: localhost\r\nAuthorization: Bearer 0123456789abcdef\r\n";
        // "x:0123456789abcdef"
        let basic = "Host: localhost\r\nAuthorization: Basic eDowMTIzNDU2Nzg5YWJjZGVm\r\n";
        let wrong = "Host: localhost\r\nAuthorization: Bearer 0123456789abcdee\r\n";
        admin.board.devices.online(&"cow".into(), 1, String::new());
        for path in [
            "/metrics",
            "/api/status",
            "/api/devices",
            "/api/devices/cow",
        ] {
            for refused in [admin.get(path).await, get_with(&admin, path, wrong).await] {
                assert_problem(&refused, 401);
                assert!(
                    refused.contains("www-authenticate: Basic realm=\"telehub\"\r\n"),
                    "{refused}"
                );
            }
            assert_eq!(status(&get_with(&admin, path, shown).await), 200, "{path}");
            assert_eq!(status(&get_with(&admin, path, basic).await), 200, "{path}");
        }
        assert_problem(&admin.get("/api/events").await, 401);
        assert_eq!(admin.board.feed().readers(), 0);
        // What there is and what there is not is not told either.
        assert_problem(&admin.get("/none").await, 401);
    });
}

#[test]
fn with_a_token_the_listener_answers_by_every_name() {
    test_with(guarded(), async |admin| {
        let named = "Host: barn.example\r\nAuthorization: Bearer 0123456789abcdef\r\n";
        assert_eq!(status(&get_with(&admin, "/api/status", named).await), 200);
        let without = get_with(&admin, "/api/status", "Host: barn.example\r\n").await;
        assert_problem(&without, 401);
    });
}
