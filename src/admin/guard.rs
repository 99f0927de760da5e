//! Who may ask at all: the host that is meant, what a browser says of the page that asks, and the
//! token.

use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::Desk;
use super::host::is_meant;
use super::line::Line;
use super::reply::{Answer, last, problem, unauthorized};

/// A wrong token is answered after this time, and no more than [`SLOW`] of them at a time: four
/// tries a second, whoever tries.
const WAIT: Duration = Duration::from_secs(1);
const SLOW: usize = 4;

/// Wrong tokens are logged once in this time, with how many there were.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Paths that are answered without the token: what supervises a process has none.
pub(super) const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// What a request has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The token, or that it may open the socket of this machine.
    Token,
    /// Nothing, and it needs nothing.
    Nothing,
}

/// A request that is not answered as it asks.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) answer: Box<Answer>,
    /// Not before [`Wrong::slow`]: it has shown a wrong token.
    pub(super) slowly: bool,
}

/// Judges a request by its head.
pub(super) fn judge<B>(desk: &Desk, line: &Line, request: &Request<B>) -> Result<Shown, Refused> {
    if line.local {
        return Ok(Shown::Token);
    }
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    // RFC 9112 §3.2: a request with none or with two is answered with 400.
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return refuse(StatusCode::BAD_REQUEST, "send one Host header");
    };
    // The target's own host stands before the header (RFC 9112 §3.2.2).
    let header = host.to_str().unwrap_or_default();
    let host = request.uri().host().unwrap_or(header);
    let token = desk.settings.token.as_ref();
    // With a token any name will do: a page of another name has no token to send.
    if token.is_none() && !is_meant(host, desk.bound) {
        return refuse(
            StatusCode::MISDIRECTED_REQUEST,
            "this listener is called localhost, 127.0.0.1 or [::1]",
        );
    }
    if is_foreign(request) {
        return refuse(
            StatusCode::FORBIDDEN,
            "a page of another site asks for this; open the hub's own page instead",
        );
    }
    let Some(token) = token else {
        return Ok(Shown::Nothing);
    };
    if token.is_shown_by(headers) {
        return Ok(Shown::Token);
    }
    if OPEN.contains(&request.uri().path()) {
        return Ok(Shown::Nothing);
    }
    Err(Refused {
        answer: Box::new(last(unauthorized())),
        // Without any a browser only begins.
        slowly: headers.contains_key(AUTHORIZATION),
    })
}

fn refuse(status: StatusCode, detail: &str) -> Result<Shown, Refused> {
    Err(Refused {
        answer: Box::new(last(problem(status, detail))),
        slowly: false,
    })
}

/// Whether a page of another site has made the browser ask (Fetch Metadata, W3C). Links to the
/// page may stand anywhere.
fn is_foreign<B>(request: &Request<B>) -> bool {
    let said = |name: &str| request.headers().get(name).map(|value| value.as_bytes());
    let other = matches!(said("sec-fetch-site"), Some(b"cross-site" | b"same-site"));
    let link = request.method() == Method::GET
        && request.uri().path() == "/"
        && said("sec-fetch-mode") == Some(b"navigate")
        && said("sec-fetch-dest") == Some(b"document");
    other && !link
}

/// Whether a request with this head may change something: what a form of another page can send as
/// well may not.
pub(super) fn may_change(shown: Shown, headers: &HeaderMap) -> Result<(), Box<Answer>> {
    if shown != Shown::Token {
        return Err(Box::new(problem(
            StatusCode::FORBIDDEN,
            "changes need a token: write token_file in [admin] of the hub's configuration",
        )));
    }
    // A browser adds the token of Basic by itself, also to a form of a page that an older browser
    // says nothing of.
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if headers.contains_key("origin") && site != Some(b"same-origin") {
        return Err(Box::new(problem(
            StatusCode::FORBIDDEN,
            "only the hub's own page may change something from within a browser",
        )));
    }
    Ok(())
}

/// Wrong tokens.
#[derive(Debug)]
pub(super) struct Wrong {
    slow: Semaphore,
    logged: Mutex<(Option<Instant>, u64)>,
}

impl Default for Wrong {
    fn default() -> Self {
        Self {
            slow: Semaphore::new(SLOW),
            logged: Mutex::default(),
        }
    }
}

impl Wrong {
    /// Takes the time that a wrong token takes.
    pub(super) async fn slow(&self) {
        // It is never closed.
        let _permit = self.slow.acquire().await;
        sleep(WAIT).await;
    }

    /// Notes one, and logs it now and then.
    pub(super) fn note(&self, from: IpAddr, now: Instant) {
        let times = {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            logged.1 += 1;
            if logged.0.is_some_and(|at| now < at + LOG_EVERY) {
                return;
            }
            logged.0 = Some(now);
            std::mem::take(&mut logged.1)
        };
        tracing::warn!(
            address = %from, times,
            "a wrong token was shown to the admin listener; is it that of [admin] token_file?"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn foreign(path: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_foreign(&request.body(()).unwrap())
    }

    #[test]
    fn a_page_of_another_site_may_link_here_and_nothing_else() {
        assert!(!foreign("/api/events", &[]));
        assert!(!foreign(
            "/api/events",
            &[("sec-fetch-site", "same-origin")]
        ));
        assert!(!foreign("/", &[("sec-fetch-site", "none")]));
        for site in ["cross-site", "same-site"] {
            assert!(foreign("/api/events", &[("sec-fetch-site", site)]));
            assert!(foreign(
                "/",
                &[("sec-fetch-site", site), ("sec-fetch-mode", "no-cors")]
            ));
            let link = [
                ("sec-fetch-site", site),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ];
            assert!(!foreign("/", &link));
            assert!(foreign("/api/status", &link));
        }
    }
}
