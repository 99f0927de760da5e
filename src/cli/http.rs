//! The admin listener, asked over a blocking socket, with a connection for each request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use telehub::config::{self, DEFAULT_FILE};

/// The hub answers from memory; who waits longer waits for something else.
const TIMEOUT: Duration = Duration::from_secs(5);

/// 16,384 devices of 400 bytes each, twice; keeps a wrong address from filling the memory.
const LIMIT: u64 = 16 << 20;

/// Bytes of an answer's header; a hub's has some hundred.
const MAX_HEAD: usize = 16 * 1024;

/// A hub that sends nothing for so long is gone: it says something every 15 s.
const SILENCE: Duration = Duration::from_secs(40);

/// Where a hub that systemd runs listens for those who may (root, group telehub).
const SOCKET: &str = "/run/telehub/admin.sock";

/// Where a hub listens unless its configuration says otherwise.
const USUAL: &str = "http://127.0.0.1:8788";

#[derive(Debug, Args)]
pub(super) struct Address {
    /// Where the hub's admin listener is: http://HOST:PORT, or unix:/PATH of its socket
    #[arg(short, long, value_name = "URL")]
    admin: Option<String>,
    /// The file whose first line is the token that the listener asks for
    #[arg(short, long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The configuration of the hub that is meant: its [admin] says where it listens
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A hub that can be asked.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    pub(super) base: String,
    at: Place,
    token: Option<String>,
    /// What to write where, when nobody answers.
    hint: String,
}

#[derive(Debug, Clone)]
enum Place {
    /// `HOST:PORT`.
    Tcp(String),
    Unix(PathBuf),
}

/// What became of a [`Hub::post`].
#[derive(Debug)]
pub(super) enum Posted {
    /// The body of the answer.
    Answered(Vec<u8>),
    /// It was not done, and why.
    Not(String),
    /// It was sent, and no answer came.
    Unheard(String),
}

/// The hub has answered, and will not answer otherwise when it is asked again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

/// The hub does not know what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unknown(String);

impl Address {
    /// Which hub is meant. What is written decides; then the socket of the hub that systemd runs;
    /// then the default configuration, if it is there and can be read.
    ///
    /// # Errors
    ///
    /// The address is none; a file cannot be read; the configuration has no admin listener.
    pub(super) fn hub(&self) -> anyhow::Result<Hub> {
        if let Some(url) = &self.admin {
            return self.at(url.clone(), None);
        }
        if let Some(file) = &self.config {
            let checked = config::load_alone(file)?;
            let Some(admin) = checked.config.admin else {
                bail!("{}", off(file));
            };
            return self.at(url_of(admin.listen), admin.token_file.as_deref());
        }
        if Path::new(SOCKET).exists() {
            return self.at(format!("unix:{SOCKET}"), None);
        }
        let default = Path::new(DEFAULT_FILE);
        match config::load_alone(default).map(|checked| checked.config.admin) {
            Ok(Some(admin)) => self.at(url_of(admin.listen), admin.token_file.as_deref()),
            Ok(None) => bail!("{}", off(default)),
            // There is none, or it is not for us to read: the usual place will tell.
            Err(_) => self.at(USUAL.to_owned(), None),
        }
    }

    /// `configured`: the token file of the configuration, for when none was named.
    fn at(&self, base: String, configured: Option<&Path>) -> anyhow::Result<Hub> {
        let file = self.token_file.as_deref().or(configured);
        let at = match base.strip_prefix("unix:") {
            Some(path) => Place::Unix(path.into()),
            None => Place::Tcp(host(&base)?),
        };
        Ok(Hub {
            base,
            at,
            token: file.map(token).transpose()?,
            hint: off(self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))),
        })
    }
}

fn token(file: &Path) -> anyhow::Result<String> {
    let line = telehub::secret::read(file)
        .with_context(|| format!("cannot read the token in {}", file.display()))?;
    let line = line.trim();
    ensure!(
        !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_graphic()),
        "{} has no token in its first line",
        file.display()
    );
    Ok(line.to_owned())
}

/// A listener on every address is asked on this machine's own.
fn url_of(mut listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{listen}")
}

fn off(file: &Path) -> String {
    format!(
        "the hub's admin listener is off: write the two lines `[admin]` and `listen = \
         \"127.0.0.1:8788\"` into {} and restart the hub",
        file.display()
    )
}

/// A connection to a hub.
#[derive(Debug)]
pub(super) enum Conn {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Conn {
    fn open(place: &Place) -> std::io::Result<Self> {
        match place {
            Place::Tcp(host) => connect(host).map(Self::Tcp),
            Place::Unix(path) => UnixStream::connect(path).map(Self::Unix),
        }
    }

    fn patience(&self, read: Duration) -> std::io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_write_timeout(Some(TIMEOUT))?;
                socket.set_read_timeout(Some(read))
            }
            Self::Unix(socket) => {
                socket.set_write_timeout(Some(TIMEOUT))?;
                socket.set_read_timeout(Some(read))
            }
        }
    }
}

impl Read for Conn {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(into),
            Self::Unix(socket) => socket.read(into),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(from),
            Self::Unix(socket) => socket.write(from),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.flush(),
            Self::Unix(socket) => socket.flush(),
        }
    }
}

impl Hub {
    /// The body of the answer to `GET {base}{path}`. HTTP/1.0 has no chunks, so a list comes as it is.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let answer = exchange(&self.at, &self.request("GET", path, "1.0"))
            .with_context(|| self.no_answer())?;
        parse(&answer).with_context(|| format!("{}{path} is not answered by a hub", self.base))
    }

    /// Has something changed; what the hub says against it is the error.
    pub(super) fn change(&self, method: &str, path: &str) -> anyhow::Result<()> {
        let request = self.request(method, path, "1.1");
        let answer = exchange(&self.at, &request).with_context(|| self.no_answer())?;
        parse(&answer).with_context(|| format!("the hub at {} did not do it", self.base))?;
        Ok(())
    }

    /// Has the hub do something that takes a while.
    pub(super) fn post(&self, path: &str, json: &str, patience: Duration) -> Posted {
        let head = self.request("POST", path, "1.1");
        let head = head.trim_end_matches("\r\n");
        let length = json.len();
        let request = format!(
            "{head}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
        );
        let socket = match send(&self.at, &request) {
            Ok(socket) => socket,
            Err(error) => {
                return Posted::Not(format!("{}: {error}", self.no_answer()));
            }
        };
        let answer = match receive(socket, Instant::now() + patience) {
            Ok(answer) => answer,
            Err(error) => return Posted::Unheard(error.to_string()),
        };
        match parse(&answer) {
            Ok(body) => Posted::Answered(body),
            Err(error) => match said(&answer) {
                // The hub's own refusals; what a proxy says in its place says nothing of the hub.
                Some((status, detail)) if !matches!(status, 502 | 504) => Posted::Not(format!(
                    "the hub at {} did not do it: {}",
                    self.base,
                    detail.unwrap_or_else(|| format!("{error:#}"))
                )),
                _ => Posted::Unheard(format!("{error:#}")),
            },
        }
    }

    /// The body of an answer without end, line by line.
    pub(super) fn lines(&self, path: &str) -> anyhow::Result<BufReader<Conn>> {
        let open = || -> std::io::Result<_> {
            let mut socket = Conn::open(&self.at)?;
            socket.patience(TIMEOUT)?;
            // HTTP/1.0 has no chunks, so the events come as they are.
            socket.write_all(self.request("GET", path, "1.0").as_bytes())?;
            let mut answer = BufReader::new(socket);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if head.len() > MAX_HEAD || answer.read_until(b'\n', &mut head)? == 0 {
                    return Err(std::io::Error::other("the answer is cut short"));
                }
            }
            answer.get_ref().patience(SILENCE)?;
            Ok((head, answer))
        };
        let (head, answer) = open().with_context(|| self.no_answer())?;
        parse(&head).with_context(|| format!("{}{path} is not answered by a hub", self.base))?;
        Ok(answer)
    }

    fn request(&self, method: &str, path: &str, version: &str) -> String {
        let token = self.token.as_ref().map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let host = match &self.at {
            Place::Tcp(host) => host,
            Place::Unix(_) => "localhost",
        };
        format!(
            "{method} {path} HTTP/{version}\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n"
        )
    }

    fn no_answer(&self) -> String {
        format!(
            "no answer from {}; is the hub running, or {}",
            self.base, self.hint
        )
    }
}

/// `HOST:PORT` of `http://HOST[:PORT][/]`.
fn host(base: &str) -> anyhow::Result<String> {
    let rest = base.strip_prefix("http://");
    let Some(host) = rest.map(|rest| rest.trim_end_matches('/')) else {
        bail!("{base:?} is not an address of a hub; write it as http://127.0.0.1:8788");
    };
    ensure!(
        !host.is_empty() && !host.contains(|c: char| c == '/' || c == '@' || c.is_whitespace()),
        "{base:?} is not an address of a hub; write it as http://127.0.0.1:8788"
    );
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    Ok(if after_address.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    })
}

fn exchange(place: &Place, request: &str) -> std::io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    receive(send(place, request)?, deadline)
}

/// Returns once all of it is sent.
fn send(place: &Place, request: &str) -> std::io::Result<Conn> {
    let mut socket = Conn::open(place)?;
    socket.patience(TIMEOUT)?;
    socket.write_all(request.as_bytes())?;
    Ok(socket)
}

fn receive(mut socket: Conn, deadline: Instant) -> std::io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        // A peer that drips bytes must not hold us for longer than one that sends none.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.patience(left)?;
        match socket.read(&mut chunk)? {
            0 => return Ok(answer),
            read => answer.extend_from_slice(&chunk[..read]),
        }
        if answer.len() as u64 > LIMIT {
            return Err(std::io::Error::other("the answer is too long"));
        }
    }
}

fn connect(host: &str) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in host.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Status and problem of an answer that is one.
fn said(answer: &[u8]) -> Option<(u16, Option<String>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, detail(&answer[end + 4..])))
}

/// Checks status line and length of a whole answer, and returns its body.
fn parse(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.context("the answer has no end of its header")?;
    let head = std::str::from_utf8(&answer[..end]).context("the header is not text")?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    match status {
        "200" | "204" => {}
        "401" => bail!(Refused(
            "it asks for a token; name its file with --token-file".to_owned()
        )),
        "503" => bail!("it cannot answer now (503)"),
        "404" => bail!(Unknown(
            detail(body).unwrap_or_else(|| "it knows no such thing".to_owned())
        )),
        _ => bail!(Refused(detail(body).unwrap_or_else(|| {
            format!("the status is {status:?}, not 200")
        }))),
    }
    let length = lines.filter_map(|line| line.split_once(':'));
    let length = length
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse::<usize>().ok());
    ensure!(
        length.is_none_or(|length| length == body.len()),
        "the answer is cut short"
    );
    Ok(body.to_vec())
}

/// What a problem body (RFC 9457) says, fit for a terminal.
fn detail(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    problem["detail"].as_str().map(telehub::plain::text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        for (listen, url) in [
            ("0.0.0.0:8788", "http://127.0.0.1:8788"),
            ("[::]:8788", "http://[::1]:8788"),
            ("10.0.0.7:80", "http://10.0.0.7:80"),
        ] {
            assert_eq!(url_of(listen.parse().unwrap()), url);
        }
    }

    #[test]
    fn an_address_is_read_with_and_without_a_port() {
        assert_eq!(host("http://127.0.0.1:8788").unwrap(), "127.0.0.1:8788");
        assert_eq!(host("http://barn.local/").unwrap(), "barn.local:80");
        assert_eq!(host("http://[::1]").unwrap(), "[::1]:80");
        assert_eq!(host("http://[::1]:8788").unwrap(), "[::1]:8788");
        for wrong in [
            "127.0.0.1:8788",
            "https://x",
            "http://",
            "http://a/b",
            "http://u@h",
            "http://a b",
        ] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_or_of_another_status_is_refused() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(parse(whole).unwrap(), b"{}");
        assert!(parse(&whole[..whole.len() - 1]).is_err());
        assert!(parse(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-OpenSSH\r\n").is_err());
    }
}
