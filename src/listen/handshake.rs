//! One connection from accept to upgrade: TLS, HTTP, credentials, a seat.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Shared;
use super::access::{Grant, Shown};
use super::admission::{admit, note, refuse_page};
use super::attempts::Origin;
use super::gate::{Gate, Open};
use super::paced;
use super::post;
use super::refusal::Refusal;
use super::socket::Socket;
use super::tls::{Chain, unix_seconds};
use super::turns::Caller;
use super::upgrade::{self, SUBPROTOCOL};
use crate::session::roster::Seat;

/// Bytes of a request head. Ours are below 1 KiB; a browser's cookies may take some.
const MAX_HEAD: usize = 16 * 1024;

/// A request that was accepted, and not yet answered in full.
struct Accepted {
    device: String,
    grant: Grant,
    seat: Seat,
    upgrade: OnUpgrade,
}

/// A connection that speaks WebSocket from here on.
pub(super) struct Upgraded {
    pub(super) socket: Socket,
    /// What the device sent right behind its request.
    pub(super) already_read: Bytes,
    pub(super) device: String,
    pub(super) grant: Grant,
    pub(super) seat: Seat,
}

/// Serves a connection up to the upgrade; `None`: it was refused and answered, or was a batch by
/// `POST`; `posted` is set once that has been read. Has no timeout of its own.
pub(super) async fn handshake(
    shared: &Shared,
    gate: &Gate,
    open: &Open,
    tcp: TcpStream,
    origin: Origin,
    posted: &AtomicBool,
) -> io::Result<Option<Upgraded>> {
    let local = tcp.local_addr().ok().map(|local| local.ip());
    if tcp.peek(&mut [0]).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    open.spoke();
    let (socket, shown) = match &shared.tls {
        None => (Socket::Plain(tcp), None),
        Some(tls) => {
            let (acceptor, generation) = tls.acceptor();
            let caller = match open.is_known() {
                true => Caller::Known,
                false => Caller::Unknown(origin),
            };
            let stream = paced::accept(&shared.pace, caller, &acceptor, tcp).await?;
            let chain = stream.get_ref().1.peer_certificates();
            let shown = chain.map(|chain| {
                let chain: Chain = chain.iter().map(|one| one.clone().into_owned()).collect();
                Shown {
                    until: tls.until(&chain, unix_seconds()),
                    chain,
                    generation,
                }
            });
            (Socket::Tls(Box::new(stream)), shown)
        }
    };
    let accepted = Mutex::new(None);
    let (shown, accepted) = (shown.as_ref(), &accepted);
    let service = service_fn(|request: Request<Incoming>| async move {
        if post::device(&request).is_some() {
            let response = post::answer(shared, open, request, (shown, local), origin, posted);
            let response = response.await;
            return Ok::<_, Infallible>(response);
        }
        let path = request.uri().path().to_owned();
        Ok(
            match answer(shared, gate, request, (shown, local), origin) {
                Ok((response, yes)) => {
                    open.accepted();
                    *accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(yes);
                    response
                }
                Err(refusal) => {
                    note(shared, gate, origin, refusal, &path);
                    refusal.response()
                }
            },
        )
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.handshake_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    let accepted = accepted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let Some(accepted) = accepted else {
        return Ok(None);
    };
    let parts = accepted
        .upgrade
        .await
        .map_err(io::Error::other)?
        .downcast::<TokioIo<Socket>>()
        .map_err(|_| io::Error::other("the upgraded stream is not the accepted one"))?;
    Ok(Some(Upgraded {
        socket: parts.io.into_inner(),
        already_read: parts.read_buf,
        device: accepted.device,
        grant: accepted.grant,
        seat: accepted.seat,
    }))
}

/// Decides what a request gets.
fn answer(
    shared: &Shared,
    gate: &Gate,
    request: Request<Incoming>,
    (shown, local): (Option<&Shown>, Option<IpAddr>),
    origin: Origin,
) -> Result<(Response<Full<Bytes>>, Accepted), Refusal> {
    let (head, body) = request.into_parts();
    let wanted = upgrade::parse(&head)?;
    let token = wanted.token.as_deref();
    refuse_page(shared, gate, &head.headers, local, origin)?;
    let grant = admit(shared, gate, &wanted.device, token, shown, origin)?;
    let seat = shared.roster.admit(&wanted.device).ok_or(Refusal::Full)?;

    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    // Base64, so always a valid header value.
    if let Ok(accept) = HeaderValue::try_from(wanted.accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if wanted.subprotocol {
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    let accepted = Accepted {
        device: wanted.device,
        grant,
        seat,
        upgrade: hyper::upgrade::on(Request::from_parts(head, body)),
    };
    Ok((response, accepted))
}
