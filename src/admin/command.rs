//! `/api/devices/{id}/commands`: which commands a device takes and how the last ones ended; by
//! POST, a command of the operator, answered once it has ended.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use super::Desk;
use super::guard::{self, Shown};
use super::line::Line;
use super::reply::{Answer, JSON, json, last, problem, response};
use crate::commands::authority::Authority;
use crate::commands::local::{ASKING, AskPort, Asking};
use crate::commands::request;
use crate::status::board::DeviceBoard;
use crate::status::report::CommandsPage;

/// Bytes of a body beside the arguments: name, timeout, keys, and blanks between them.
const BESIDE_ARGS: usize = 1_024;

/// How long a body may take. It fits into a few packets.
const BODY: Duration = Duration::from_secs(5);

/// The operator's way to the devices, where commands are on.
#[derive(Debug)]
pub struct Commander {
    authority: watch::Receiver<Arc<Authority>>,
    /// Bytes of the arguments.
    max_size: usize,
    /// `None`: not for the operator (`commands.admin`).
    port: Option<AskPort>,
    /// Those who may wait for an end.
    places: Semaphore,
}

impl Commander {
    /// `port`: none without `commands.admin`. `max_size`: `commands.max_size`.
    #[must_use]
    pub fn new(
        authority: watch::Receiver<Arc<Authority>>,
        max_size: usize,
        port: Option<AskPort>,
    ) -> Self {
        Self {
            authority,
            max_size,
            port,
            places: Semaphore::new(ASKING),
        }
    }
}

/// The device whose commands a path is about.
pub(super) fn device(path: &str) -> Option<&str> {
    let id = path
        .strip_prefix("/api/devices/")?
        .strip_suffix("/commands")?;
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

pub(super) async fn answer<B>(desk: &Desk, line: &Line, request: Request<B>, shown: Shown) -> Answer
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let method = request.method();
    if method == Method::POST {
        return match ask(desk, line, request, shown).await {
            Ok(answer) => answer,
            // What was not read of the body stands in the way of the next request.
            Err(refused) => last(*refused),
        };
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, "use GET, HEAD or POST");
        let allow = HeaderValue::from_static("GET, HEAD, POST");
        refused.headers_mut().insert(ALLOW, allow);
        return refused;
    }
    page(
        desk,
        device(request.uri().path()).unwrap_or_default(),
        shown,
    )
}

fn page(desk: &Desk, id: &str, shown: Shown) -> Answer {
    match desk.board.devices.get(id) {
        Some(device) => json(&overview(desk, &device, shown)),
        None => problem(StatusCode::NOT_FOUND, "no device of this id is known"),
    }
}

/// What a device takes, and how the last commands ended.
pub(super) fn overview(desk: &Desk, device: &DeviceBoard, shown: Shown) -> CommandsPage {
    let commands = desk.settings.commands.as_ref();
    let takes = |on: &Commander| on.authority.borrow().takes(device.id()).to_vec();
    CommandsPage {
        admin: shown == Shown::Token && commands.is_some_and(|on| on.port.is_some()),
        takes: commands.map_or_else(Vec::new, takes),
        last: device.commands.report(),
    }
}

fn refuse(status: StatusCode, detail: &str) -> Box<Answer> {
    Box::new(problem(status, detail))
}

fn busy(detail: &str) -> Box<Answer> {
    let mut answer = refuse(StatusCode::SERVICE_UNAVAILABLE, detail);
    let soon = HeaderValue::from_static("1");
    answer.headers_mut().insert(RETRY_AFTER, soon);
    answer
}

/// The operator's way, if there is one for whoever has sent this.
fn way<'d>(
    desk: &'d Desk,
    shown: Shown,
    headers: &HeaderMap,
) -> Result<(&'d Commander, &'d AskPort), Box<Answer>> {
    let off = "commands are off: write enabled = true in [commands] of the hub's configuration";
    let commands = desk.settings.commands.as_ref();
    let commands = commands.ok_or_else(|| refuse(StatusCode::FORBIDDEN, off))?;
    let not_here = "commands are not taken here: write admin = true in [commands] of the hub's \
                    configuration";
    let port = commands.port.as_ref();
    let port = port.ok_or_else(|| refuse(StatusCode::FORBIDDEN, not_here))?;
    guard::may_change(shown, headers)?;
    Ok((commands, port))
}

async fn ask<B>(
    desk: &Desk,
    line: &Line,
    request: Request<B>,
    shown: Shown,
) -> Result<Answer, Box<Answer>>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let (head, body) = request.into_parts();
    let (commands, port) = way(desk, shown, &head.headers)?;
    // A form of another page cannot send this type without asking first (Fetch, CORS preflight).
    if !is_json(&head.headers) {
        return Err(refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type must be application/json",
        ));
    }
    let body = read(body, commands.max_size).await?;
    let (name, request) =
        request::read_local(&body).map_err(|detail| refuse(StatusCode::BAD_REQUEST, &detail))?;
    let _place = commands.places.try_acquire().map_err(|_| {
        busy("as many commands are waited for here as may be; try again when one has ended")
    })?;
    let (end, ended) = oneshot::channel();
    let asking = Asking {
        device: device(head.uri.path()).unwrap_or_default().into(),
        name: name.into(),
        request,
        end,
    };
    port.try_send(asking)
        .map_err(|_| busy("the hub does not take the command now: it is busy or stops"))?;
    let _wait = line.begin_wait();
    // Whoever hangs up drops this: the command goes on, and its end is told on the broker.
    match ended.await {
        Ok(told) => Ok(response(StatusCode::OK, JSON, told.answer)),
        Err(_) => Err(refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the hub stops; the command was not sent",
        )),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    // Parameters, like a charset, change nothing.
    let media = value.split(';').next().unwrap_or("").trim();
    media.eq_ignore_ascii_case(JSON)
}

async fn read<B>(body: B, max_size: usize) -> Result<Bytes, Box<Answer>>
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let limit = max_size + BESIDE_ARGS;
    let too_large = || {
        let detail = format!("a command may have {max_size} bytes (commands.max_size)");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, &detail)
    };
    // Before it is sent: whoever asks with Expect: 100-continue need not begin.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match timeout(BODY, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(refuse(
            StatusCode::BAD_REQUEST,
            "the body ended before its time",
        )),
        Err(_) => Err(refuse(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not come within 5 s",
        )),
    }
}
