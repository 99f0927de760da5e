//! What each path answers. Errors are `application/problem+json` (RFC 9457).

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::Desk;
use super::events::Events;
use super::host::is_meant;
use super::line::Line;
use super::metrics;
use super::page;
use super::readings::readings;
use crate::status::board::{Board, SpoolState};
use crate::status::report::DevicePage;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const EVENTS: &str = "text/event-stream";

/// Readings of a device's last batch that are shown.
const LAST_READINGS: usize = 1_000;

/// A whole answer, or events without end.
pub(super) type Answer = Response<Either<Full<Bytes>, Events>>;

/// The answer to one request, from what the board holds now. The request's body is not read.
pub(super) fn answer<B>(desk: &Desk, line: &Line, request: &Request<B>) -> Answer {
    let board = &desk.board;
    // The target's own host stands before the header (RFC 9112 §3.2.2).
    let header = request
        .headers()
        .get(HOST)
        .map(|host| host.to_str().unwrap_or_default());
    let host = request.uri().host().or(header);
    let path = request.uri().path();
    let token = desk.settings.token.as_ref();
    // With a token any name will do: a page of another name has no token to send.
    if token.is_none() && !is_meant(host, desk.bound) {
        return problem(
            StatusCode::MISDIRECTED_REQUEST,
            "this listener is called localhost, 127.0.0.1 or [::1]",
        );
    }
    let open = ["/healthz", "/readyz"].contains(&path);
    if !open && token.is_some_and(|token| !token.is_shown_by(request.headers())) {
        return unauthorized();
    }
    let device = path.strip_prefix("/api/devices/");
    let file = page::file(path);
    let known = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/status",
        "/api/devices",
        "/api/events",
    ];
    if device.is_none() && file.is_none() && !known.contains(&path) {
        return problem(
            StatusCode::NOT_FOUND,
            "there are /, /healthz, /readyz, /metrics, /api/status, /api/devices, /api/devices/{id} \
             and /api/events",
        );
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
        return file.answer(request.headers()).map(Either::Left);
    }
    match (path, device) {
        (_, Some(id)) => device_page(board, id),
        ("/healthz", _) => healthz(board),
        ("/readyz", _) => readyz(board),
        ("/metrics", _) => {
            let text = metrics::metrics(board, desk.settings.device_metrics);
            response(StatusCode::OK, metrics::text::CONTENT_TYPE, text)
        }
        ("/api/status", _) => json(JSON, StatusCode::OK, &board.status()),
        ("/api/devices", _) => json(JSON, StatusCode::OK, &board.device_reports()),
        _ => events(board, line, request.uri().query()),
    }
}

/// The process is well: nothing that it accepts would be lost.
fn healthz(board: &Board) -> Answer {
    match board.spool.state() {
        // Full as well: what cannot be written is not acked.
        (SpoolState::Failed | SpoolState::Full | SpoolState::Unusable, reason) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &reason.unwrap_or_else(|| "the spool cannot be written".to_owned()),
        ),
        (SpoolState::Ok, _) => response(StatusCode::OK, TEXT, "ok\n"),
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

fn device_page(board: &Board, id: &str) -> Answer {
    let Some(device) = board.devices.get(id) else {
        return problem(
            StatusCode::NOT_FOUND,
            "no device of this id has connected since the hub started",
        );
    };
    let last = device.last();
    let page = DevicePage {
        device: device.report(),
        history: device.history(),
        last: last.map_or_else(Vec::new, |last| readings(&last, LAST_READINGS)),
    };
    json(JSON, StatusCode::OK, &page)
}

/// `query`: `device=ID`, or nothing.
fn events(board: &Arc<Board>, line: &Line, query: Option<&str>) -> Answer {
    let mut pairs = query.unwrap_or_default().split('&');
    let device = pairs.find_map(|pair| pair.strip_prefix("device="));
    let Some(reader) = board.feed().attach(device, line.cut.clone()) else {
        let mut full = problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "there are as many readers of events as there may be",
        );
        full.headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("10"));
        return full;
    };
    line.begin_events();
    let mut response = Response::new(Either::Right(Events::new(board, reader)));
    dress(&mut response, EVENTS);
    response
}

fn unauthorized() -> Answer {
    let mut refused = problem(
        StatusCode::UNAUTHORIZED,
        "show the token of [admin] token_file: Authorization: Bearer TOKEN, or as the password of \
         any user",
    );
    // Basic, because that is what browsers ask for by themselves.
    let how = HeaderValue::from_static("Basic realm=\"telehub\"");
    refused.headers_mut().insert(WWW_AUTHENTICATE, how);
    refused
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = serde_json::json!({"type": "about:blank", "title": title, "status": code, "detail": detail});
    json(PROBLEM, status, &body)
}

fn json(kind: &'static str, status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => response(status, kind, body),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    dress(&mut response, kind);
    response
}

fn dress(response: &mut Answer, kind: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
