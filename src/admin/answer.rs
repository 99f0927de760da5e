//! What each path answers.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Body;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};

use super::Desk;
use super::change;
use super::command;
use super::events::Events;
use super::guard::{self, Refused, Shown};
use super::history::{self, Range};
use super::line::Line;
use super::list::List;
use super::metrics;
use super::page;
use super::query::Query;
use super::readings::readings;
use super::reply::{Answer, Content, TEXT, events, json, last, list, problem, response};
use crate::status::board::{Board, SpoolState};
use crate::status::report::DevicePage;

const CSV: &str = "text/csv; charset=utf-8";

/// Readings of a device's last batch that are shown.
const LAST_READINGS: usize = 1_000;

/// The answer to one request. Its body is not read, unless it is a command.
pub(super) async fn answer<B>(desk: &Desk, line: &Line, request: Request<B>) -> Answer
where
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>>,
{
    let shown = match guard::judge(desk, line, &request) {
        Ok(shown) => shown,
        Err(Refused { answer, slowly }) => {
            line.prove(false);
            if slowly {
                desk.wrong.note(line.from, Instant::now());
                desk.wrong.slow().await;
            }
            return *answer;
        }
    };
    line.prove(shown == Shown::Token);
    let answer = if command::device(request.uri().path()).is_some() {
        command::answer(desk, line, request, shown).await
    } else {
        route(desk, line, &request, shown)
    };
    // Who needs no token keeps no seat that somebody with one may need.
    if desk.settings.token.is_some() && shown == Shown::Nothing {
        return last(answer);
    }
    answer
}

fn route<B>(desk: &Desk, line: &Line, request: &Request<B>, shown: Shown) -> Answer {
    let board = &desk.board;
    let path = request.uri().path();
    let query = Query::of(request.uri().query());
    let device = path.strip_prefix("/api/devices/");
    let file = page::file(path);
    let known = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/status",
        "/api/devices",
        "/api/values",
        "/api/events",
    ];
    if device.is_none() && file.is_none() && !known.contains(&path) {
        return problem(
            StatusCode::NOT_FOUND,
            "there are /, /healthz, /readyz, /metrics, /api/status, /api/devices, /api/devices/{id}, \
             /api/values and /api/events",
        );
    }
    if let Some(device) = device
        && let Some(change) = change::of(request.method(), device)
    {
        return match guard::may_change(shown, request.headers()) {
            Ok(()) => change.make(board),
            Err(refused) => *refused,
        };
    }
    // HEAD goes the same way; hyper leaves the body out.
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD");
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if let Some(file) = file {
        return file.answer(request.headers()).map(Content::Whole);
    }
    match (path, device) {
        (_, Some(id)) => match id.strip_suffix("/readings") {
            Some(id) => readings_of(desk, id, query),
            None => device_page(desk, id, shown),
        },
        ("/healthz", _) => healthz(board),
        ("/readyz", _) => readyz(board),
        ("/metrics", _) => {
            let text = metrics::metrics(board, desk.settings.device_metrics);
            response(StatusCode::OK, metrics::text::CONTENT_TYPE, text)
        }
        ("/api/status", _) => json(&board.status()),
        ("/api/devices", _) => match List::new(board, &query) {
            Ok(devices) => list(devices),
            Err(error) => problem(StatusCode::BAD_REQUEST, &error),
        },
        ("/api/values", _) => {
            let name = query.decoded("name").map(|name| name.to_lowercase());
            let values = history::values(&desk.history, &query.every("device"), name.as_deref());
            json(&values)
        }
        _ => event_stream(desk, line, query, shown),
    }
}

/// The process is well: nothing that it accepts would be lost.
fn healthz(board: &Board) -> Answer {
    match board.spool.state() {
        (SpoolState::Ok, _) => response(StatusCode::OK, TEXT, "ok\n"),
        // Full as well: what cannot be written is not acked.
        (SpoolState::Failed | SpoolState::Full | SpoolState::Unusable, reason) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &reason.unwrap_or_else(|| "the spool cannot be written".to_owned()),
        ),
    }
}

/// Devices are accepted.
fn readyz(board: &Board) -> Answer {
    if board.is_ready() {
        response(StatusCode::OK, TEXT, "ok\n")
    } else {
        problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "devices are not accepted: the hub is starting or stopping",
        )
    }
}

fn device_page(desk: &Desk, id: &str, shown: Shown) -> Answer {
    let Some(device) = desk.board.devices.get(id) else {
        return problem(StatusCode::NOT_FOUND, "no device of this id is known");
    };
    let last = device.last();
    let page = DevicePage {
        device: device.report(),
        history: device.history(),
        last: last.map_or_else(Vec::new, |last| readings(&last, LAST_READINGS)),
        commands: command::overview(desk, &device, shown),
    };
    json(&page)
}

/// The last hours: of one name with `name=`, of all else.
fn readings_of(desk: &Desk, id: &str, query: Query<'_>) -> Answer {
    if desk.board.devices.get(id).is_none() {
        return problem(StatusCode::NOT_FOUND, "no device of this id is known");
    }
    let range = match (query.time("from"), query.time("to")) {
        (Ok(from), Ok(to)) => Range {
            from: from.unwrap_or(f64::NEG_INFINITY),
            to: to.unwrap_or(f64::INFINITY),
        },
        (Err(error), _) | (_, Err(error)) => return problem(StatusCode::BAD_REQUEST, &error),
    };
    let format = query.get("format").unwrap_or("json");
    let Some(name) = query.decoded("name") else {
        if format != "json" {
            return problem(
                StatusCode::BAD_REQUEST,
                "format=csv is of one name; add name=",
            );
        }
        return json(&history::all(&desk.history, id, range));
    };
    let Some(found) = history::one(&desk.history, id, &name, range) else {
        return problem(
            StatusCode::NOT_FOUND,
            "the device has sent no such name in the last hours, or not lately enough to be kept",
        );
    };
    match format {
        "json" => json(&found),
        "csv" => response(StatusCode::OK, CSV, history::csv(&found)),
        _ => problem(StatusCode::BAD_REQUEST, "format is json or csv"),
    }
}

/// `query`: `device=ID`, or nothing.
fn event_stream(desk: &Desk, line: &Line, query: Query<'_>, shown: Shown) -> Answer {
    let board: &Arc<Board> = &desk.board;
    let Some(reader) = board.feed().attach(query.get("device"), line.cut.clone()) else {
        let mut full = problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "there are as many readers of events as there may be",
        );
        full.headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return full;
    };
    line.begin_events();
    events(Events::new(board, reader, shown == Shown::Token))
}
