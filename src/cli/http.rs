//! The admin listener, asked over a blocking socket, with a connection for each request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;

/// The hub answers from memory; who waits longer waits for something else.
const TIMEOUT: Duration = Duration::from_secs(5);

/// 16,384 devices of 400 bytes each, twice; keeps a wrong address from filling the memory.
const LIMIT: u64 = 16 << 20;

/// Bytes of an answer's header; a hub's has some hundred.
const MAX_HEAD: usize = 16 * 1024;

/// A hub that sends nothing for so long is gone: it says something every 15 s.
const SILENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Args)]
pub(super) struct Address {
    /// Where the hub's admin listener is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8788")]
    admin: String,
    /// The file whose first line is the token that the listener asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A hub that can be asked.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    pub(super) base: String,
    host: String,
    token: Option<String>,
}

/// The hub has answered, and will not answer otherwise when it is asked again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

impl Address {
    /// # Errors
    ///
    /// The address is none, or the file cannot be read.
    pub(super) fn hub(&self) -> anyhow::Result<Hub> {
        let token = self.token_file.as_ref().map(|file| {
            let line = telehub::secret::read(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let line = line.trim();
            ensure!(
                !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_graphic()),
                "{} has no token in its first line",
                file.display()
            );
            Ok(line.to_owned())
        });
        Ok(Hub {
            base: self.admin.clone(),
            host: host(&self.admin)?,
            token: token.transpose()?,
        })
    }
}

impl Hub {
    /// The body of the answer to `GET {base}{path}`.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let answer =
            exchange(&self.host, &self.request(path, "1.1")).with_context(|| self.no_answer())?;
        parse(&answer).with_context(|| format!("{}{path} is not answered by a hub", self.base))
    }

    /// The body of an answer without end, line by line.
    pub(super) fn lines(&self, path: &str) -> anyhow::Result<BufReader<TcpStream>> {
        let open = || -> std::io::Result<_> {
            let mut socket = connect(&self.host)?;
            socket.set_write_timeout(Some(TIMEOUT))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            // HTTP/1.0 has no chunks, so the events come as they are.
            socket.write_all(self.request(path, "1.0").as_bytes())?;
            let mut answer = BufReader::new(socket);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if head.len() > MAX_HEAD || answer.read_until(b'\n', &mut head)? == 0 {
                    return Err(std::io::Error::other("the answer is cut short"));
                }
            }
            answer.get_ref().set_read_timeout(Some(SILENCE))?;
            Ok((head, answer))
        };
        let (head, answer) = open().with_context(|| self.no_answer())?;
        parse(&head).with_context(|| format!("{}{path} is not answered by a hub", self.base))?;
        Ok(answer)
    }

    fn request(&self, path: &str, version: &str) -> String {
        let token = self.token.as_ref().map_or_else(String::new, |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let host = &self.host;
        format!("GET {path} HTTP/{version}\r\nHost: {host}\r\n{token}Connection: close\r\n\r\n")
    }

    fn no_answer(&self) -> String {
        format!(
            "no answer from {}; is the hub running, with [admin] listen set?",
            self.base
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

fn exchange(host: &str, request: &str) -> std::io::Result<Vec<u8>> {
    let deadline = Instant::now() + TIMEOUT;
    let mut socket = connect(host)?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        // A peer that drips bytes must not hold us for longer than one that sends none.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
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
        "200" => {}
        "401" => bail!(Refused(
            "it asks for a token; name its file with --token-file".to_owned()
        )),
        "503" => bail!("it cannot answer now (503)"),
        _ => bail!(Refused(format!("the status is {status:?}, not 200"))),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
