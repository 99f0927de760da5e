//! The admin listener behind a real nginx with its defaults, under a path of the proxy's choice, with
//! the configuration that docs/admin.md shows.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/daemon.rs"]
mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use browser::{Browser, not_tested};
use daemon::{Device, Hub, PATIENCE, config, free_port, until};

/// nginx in a directory of its own; it ends with the test.
struct Nginx {
    process: Child,
    port: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker goes with it.
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.process.wait();
    }
}

/// The `location` of the documentation.
fn location(hub: &Hub) -> String {
    let page = include_str!("../docs/admin.md");
    let (_, from) = page
        .split_once("```nginx\n")
        .expect("an nginx block in docs/admin.md");
    let (block, _) = from.split_once("```").unwrap();
    assert!(block.contains("http://127.0.0.1:8788/"), "{block}");
    block.replace("127.0.0.1:8788", &hub.admin.to_string())
}

async fn nginx(dir: &Path, hub: &Hub) -> Option<Nginx> {
    let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"];
    let Some(program) = program.into_iter().find(|path| Path::new(path).exists()) else {
        not_tested("the admin listener behind nginx: apt-get install nginx-light");
        return None;
    };
    let port = free_port();
    let file = dir.join("nginx.conf");
    let here = dir.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("{what}_temp_path {here}/{what};"))
        .concat();
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let text = format!(
        "daemon off; {user} worker_processes 1; pid {here}/nginx.pid; error_log {here}/error.log;\n\
         events {{}}\n\
         http {{ access_log off; {temporary}\n\
         server {{ listen 127.0.0.1:{port};\n{}\n}} }}\n",
        location(hub)
    );
    std::fs::write(&file, text).unwrap();
    let process = Command::new(program)
        .arg("-e")
        .arg(dir.join("error.log"))
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let nginx = Nginx { process, port };
    until("nginx", || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    Some(nginx)
}

#[tokio::test]
async fn events_come_through_a_proxy_as_they_happen() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let Some(nginx) = nginx(dir.path(), &hub).await else {
        return;
    };
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /telehub/api/events HTTP/1.1\r\nHost: barn.example\r\n\r\n")
        .unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut until_line = |what: &str| {
        // Each read ends with a line, or with an error when nothing comes.
        while !lines.next().expect("more lines").unwrap().contains(what) {}
    };
    until_line("event: hello");
    until_line("event: status");
    let _device = Device::connect(hub.address, "cow").await;
    until_line("event: change");
    until_line("event: device");
    assert!(hub.stop().await.success());
}

#[tokio::test]
async fn the_page_works_under_a_path_of_the_proxy() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path(), &config(dir.path(), free_port(), "")).await;
    let Some(nginx) = nginx(dir.path(), &hub).await else {
        return;
    };
    let _device = Device::connect(hub.address, "cow").await;
    let origin = format!("http://127.0.0.1:{}", nginx.port);
    browser.screen(1280, 900, false).await;
    // nginx adds the slash at the end by itself.
    browser.open(&format!("{origin}/telehub")).await;
    browser.until_text("#devices tbody", "cow").await;
    browser
        .eval("document.querySelector('#devices tbody a').click()")
        .await;
    browser.until_text("#device .history", "connected").await;
    for url in browser.requests(&origin).await {
        assert!(
            url.starts_with(&format!("{origin}/telehub")),
            "a request to {url}"
        );
    }
    assert_eq!(browser.complaints().await, [""; 0]);
    assert!(hub.stop().await.success());
}
