//! A real browser: Debian's chromium without a window, driven by chromedriver (W3C WebDriver, and
//! the DevTools commands behind it), in a profile of its own that goes with the test.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Nothing that is waited for takes longer on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(90);

/// Keys as WebDriver names them.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";
pub const SPACE: &str = " ";
pub const RIGHT: &str = "\u{e014}";

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.exists())
}

/// Says past the test harness, which swallows what passing tests print, what was not tested.
pub fn not_tested(what: &str) {
    let _ = writeln!(std::io::stderr(), "\nSKIPPED {what}\n");
}

#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: tempfile::TempDir,
    /// Everything that the network did, as the DevTools tell it.
    network: Vec<Value>,
    /// Everything on the console, and what the browser itself complains about.
    console: Vec<Value>,
}

impl Browser {
    /// `None`, and a loud word, where there is no chromium or no chromedriver.
    pub async fn start() -> Option<Self> {
        let (Some(chromium), Some(driver)) = (find("chromium"), find("chromedriver")) else {
            not_tested("the dashboard in a browser: apt-get install chromium chromium-driver");
            return None;
        };
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver says its port").unwrap();
            if let Some((_, port)) = line.rsplit_once("successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        // What it says later would fill the pipe.
        std::thread::spawn(move || lines.count());
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _profile: profile,
            network: Vec::new(),
            console: Vec::new(),
        };
        let profile = format!("--user-data-dir={}", browser._profile.path().display());
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
            &profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": args},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = browser.call("POST", "/session", wanted).await;
        session["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no browser: {session}"))
            .clone_into(&mut browser.session);
        Some(browser)
    }

    /// One WebDriver request; its `value`.
    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let exchange = async {
            let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
            socket
                .write_all(request(method, path, &body).as_bytes())
                .await
                .unwrap();
            // It keeps the connection open, whatever it is asked for.
            let mut answer = Vec::new();
            while !is_whole(&answer) {
                let n = socket.read_buf(&mut answer).await.unwrap();
                assert!(n > 0, "chromedriver hung up on {path}");
            }
            answer
        };
        let answer = tokio::time::timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| panic!("chromedriver does not answer {path}"));
        let answer = String::from_utf8(answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut answer: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        let value = answer["value"].take();
        assert!(value["error"].is_null(), "{path}: {value:#}");
        value
    }

    async fn session(&self, path: &str, body: Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        self.call("POST", &path, body).await
    }

    pub async fn open(&self, url: &str) {
        self.session("url", json!({"url": url})).await;
    }

    /// The result of a function body in the page.
    pub async fn eval(&self, script: &str) -> Value {
        self.session("execute/sync", json!({"script": script, "args": []}))
            .await
    }

    /// What a function body in the page hands to its last argument, a callback.
    pub async fn eval_async(&self, script: &str) -> Value {
        self.session("execute/async", json!({"script": script, "args": []}))
            .await
    }

    /// The text of the first element that this selector finds, as it is shown.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!(
            "return document.querySelector({}).innerText",
            json!(selector)
        );
        self.eval(&script).await.as_str().unwrap().to_owned()
    }

    /// Waits until an expression in the page is true; panics with what is shown when it stays false.
    pub async fn until(&self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(&format!("return Boolean({expression})")).await != true {
            if Instant::now() > deadline {
                let shown = self.eval("return document.body.innerText").await;
                panic!("waited in vain for: {what}\n{}", shown.as_str().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the element shows a text that has this in it.
    pub async fn until_text(&self, selector: &str, text: &str) {
        let expression = format!(
            "document.querySelector({})?.innerText.includes({})",
            json!(selector),
            json!(text)
        );
        self.until(&format!("{text:?} in {selector}"), &expression)
            .await;
    }

    /// Presses and releases keys, one after the other, wherever the focus is.
    pub async fn press(&self, keys: &[&str]) {
        let actions: Vec<_> = keys
            .iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        let source = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.session("actions", json!({"actions": [source]})).await;
    }

    /// A command of the Chrome DevTools protocol.
    pub async fn devtools(&self, command: &str, params: Value) -> Value {
        self.session(
            "goog/cdp/execute",
            json!({"cmd": command, "params": params}),
        )
        .await
    }

    pub async fn scheme(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": value}]);
        self.devtools("Emulation.setEmulatedMedia", json!({"features": features}))
            .await;
    }

    pub async fn screen(&self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}),
        )
        .await;
    }

    /// A picture of what is on the screen, as a PNG file.
    pub async fn picture(&self, file: &Path) {
        let shot = self
            .devtools("Page.captureScreenshot", json!({"format": "png"}))
            .await;
        let png = STANDARD.decode(shot["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }

    /// Fetches what the browser has logged since the last time.
    async fn gather(&mut self) {
        let performance = self.session("se/log", json!({"type": "performance"})).await;
        for entry in performance.as_array().unwrap() {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            self.network.push(message["message"].clone());
        }
        let console = self.session("se/log", json!({"type": "browser"})).await;
        self.console
            .extend(console.as_array().unwrap().iter().cloned());
    }

    /// Addresses of all requests that documents of this origin have made so far.
    pub async fn requests(&mut self, origin: &str) -> Vec<String> {
        self.gather().await;
        let sent = self.network.iter();
        sent.filter(|event| event["method"] == "Network.requestWillBeSent")
            .filter(|event| {
                let document = event["params"]["documentURL"].as_str();
                document.is_some_and(|url| url.starts_with(origin))
            })
            .map(|event| {
                event["params"]["request"]["url"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    /// Bytes on the wire of all finished answers from this origin so far, headers included.
    pub async fn transferred(&mut self, origin: &str) -> f64 {
        self.gather().await;
        let of = |method| {
            let events = self.network.iter();
            events.filter(move |event| event["method"] == method)
        };
        let ours: Vec<_> = of("Network.responseReceived")
            .filter(|event| {
                let url = event["params"]["response"]["url"].as_str();
                url.is_some_and(|url| url.starts_with(origin))
            })
            .map(|event| &event["params"]["requestId"])
            .collect();
        of("Network.loadingFinished")
            .filter(|event| ours.contains(&&event["params"]["requestId"]))
            .map(|event| event["params"]["encodedDataLength"].as_f64().unwrap())
            .sum()
    }

    /// Warnings and errors of the page and of the browser about it, since the last time.
    pub async fn complaints(&mut self) -> Vec<String> {
        self.gather().await;
        let entries = std::mem::take(&mut self.console).into_iter();
        entries
            .filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING")
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// Whether an answer has all of the body that its header announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.unwrap().trim().parse().unwrap();
    answer.len() >= end + 4 + length
}

fn request(method: &str, path: &str, body: &Value) -> String {
    let body = if method == "GET" {
        String::new()
    } else {
        body.to_string()
    };
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked so, chromedriver ends the browsers that it started; killed, it would leave them.
        if let Ok(mut socket) = std::net::TcpStream::connect(self.address) {
            let _ = socket.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = socket.write_all(request("GET", "/shutdown", &Value::Null).as_bytes());
            let _ = socket.read(&mut [0]);
            let deadline = Instant::now() + Duration::from_secs(10);
            while matches!(self.driver.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
