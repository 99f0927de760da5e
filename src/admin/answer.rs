//! What each path answers. Errors are `application/problem+json` (RFC 9457).

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;

use super::host::is_meant;
use super::page;
use crate::status::board::{Board, SpoolState};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// The answer to one request, from what the board holds now. The request's body is not read.
pub(super) fn answer<B>(
    board: &Board,
    bound: Option<SocketAddr>,
    request: &Request<B>,
) -> Response<Full<Bytes>> {
    // The target's own host stands before the header (RFC 9112 §3.2.2).
    let header = request
        .headers()
        .get(HOST)
        .map(|host| host.to_str().unwrap_or_default());
    let host = request.uri().host().or(header);
    if !is_meant(host, bound) {
        return problem(
            StatusCode::MISDIRECTED_REQUEST,
            "this listener is called localhost, 127.0.0.1 or [::1]",
        );
    }
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    if reads && let Some(file) = page::answer(request.uri().path(), request.headers()) {
        return file;
    }
    let route: fn(&Board) -> Response<Full<Bytes>> = match request.uri().path() {
        "/healthz" => healthz,
        "/readyz" => readyz,
        "/api/status" => |board| json(JSON, StatusCode::OK, &board.status()),
        "/api/devices" => |board| json(JSON, StatusCode::OK, &board.device_reports()),
        _ => {
            return problem(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz, /api/status and /api/devices",
            );
        }
    };
    // HEAD goes the same way; hyper leaves the body out.
    if !reads {
        let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD");
        refused
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    route(board)
}

/// The process is well: nothing that it accepts would be lost.
fn healthz(board: &Board) -> Response<Full<Bytes>> {
    match board.spool.state() {
        // Full as well: what cannot be written is not acked.
        (SpoolState::Failed | SpoolState::Full, reason) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &reason.unwrap_or_else(|| "the spool cannot be written".to_owned()),
        ),
        (SpoolState::Ok, _) => response(StatusCode::OK, TEXT, "ok\n"),
    }
}

/// Devices are accepted.
fn readyz(board: &Board) -> Response<Full<Bytes>> {
    if board.is_ready() {
        response(StatusCode::OK, TEXT, "ok\n")
    } else {
        problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "devices are not accepted: the hub is starting or stopping",
        )
    }
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = serde_json::json!({"type": "about:blank", "title": title, "status": code, "detail": detail});
    json(PROBLEM, status, &body)
}

fn json(kind: &'static str, status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(body) {
        Ok(body) => response(status, kind, body),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

fn response(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
