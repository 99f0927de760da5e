//! The doors of the hub while somebody crowds before them.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/daemon.rs"]
mod daemon;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use daemon::{Device, Hub, config, free_port};

/// Connections that come while the hub does not accept any: more than a listener has room for by
/// default, in the standard library (128) as in tokio (1,024).
const CROWD: usize = 1_500;

#[tokio::test]
async fn connections_wait_for_a_hub_that_is_held_up_and_none_is_turned_away() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    if most.trim().parse::<usize>().unwrap() <= CROWD {
        eprintln!("NOT TESTED: net.core.somaxconn of this machine is {most}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    hub.signal("STOP");
    let crowd: Vec<_> = (0..CROWD)
        .map(|n| {
            // A queue that is full answers nothing.
            let connected = TcpStream::connect_timeout(&hub.address, Duration::from_secs(10));
            connected.unwrap_or_else(|error| panic!("connection {n}: {error}"))
        })
        .collect();
    hub.signal("CONT");
    let mut device = Device::connect(hub.address, "late").await;
    device.hello("s").await;
    drop(crowd);
}

/// The status of the answer, and how long it took.
fn status(admin: SocketAddr, token: &str) -> (String, Duration) {
    let began = Instant::now();
    let mut tcp = TcpStream::connect(admin).unwrap();
    let request = format!(
        "GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    (answer[9..12].to_owned(), began.elapsed())
}

#[tokio::test]
async fn who_guesses_tokens_is_slowed_and_logged_once_and_who_has_it_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let token = "0123456789abcdef0123456789abcdef";
    let file = dir.path().join("token");
    std::fs::write(&file, token).unwrap();
    let with_token = format!("[admin]\ntoken_file = {file:?}");
    let text = config(dir.path(), free_port(), "").replacen("[admin]", &with_token, 1);
    let hub = Hub::start(dir.path(), &text).await;
    let admin = hub.admin;
    let guesses: Vec<_> = (0..12)
        .map(|n| std::thread::spawn(move || status(admin, &format!("guess-{n}"))))
        .collect();
    let right = std::thread::spawn(move || status(admin, token).0);
    let right = tokio::task::spawn_blocking(|| right.join().unwrap());
    assert_eq!(right.await.unwrap(), "200");
    let times = tokio::task::spawn_blocking(|| {
        let guesses = guesses.into_iter().map(|guess| guess.join().unwrap());
        guesses.collect::<Vec<_>>()
    });
    let mut times = times.await.unwrap();
    assert!(times.iter().all(|(status, _)| status == "401"), "{times:?}");
    times.sort_by_key(|(_, took)| *took);
    // Four a second, whoever tries.
    for (n, (_, took)) in times.iter().enumerate() {
        let least = Duration::from_millis(900) * (n / 4 + 1) as u32;
        assert!(*took >= least, "{n}: {times:?}");
    }
    let told = hub.complaints();
    let told: Vec<_> = told
        .iter()
        .filter(|line| line.contains("a wrong token was shown"))
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!told[0].contains("guess"), "{told:?}");
}
