//! One attempt to connect: TCP, the WebSocket handshake, and what a refusal means.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::tls::Stream;

/// Time for TCP and the handshake together: a hub on a busy board answers well within it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Read buffer: answers are some 20 bytes, and ten thousand connections have one each.
const READ_BUFFER: usize = 2048;
/// Written to the socket when this much has gathered, or when there is nothing more to send.
const WRITE_BUFFER: usize = 16 * 1024;

/// An open connection.
pub type Socket = WebSocketStream<Stream>;

/// Why there is no connection.
#[derive(Debug)]
pub enum Refused {
    /// Trying again makes sense, but not before this time.
    Later(Option<Duration>, String),
    /// Trying again gives the same answer.
    Never(String),
}

/// The upgrade request of a device.
///
/// # Errors
/// One sentence when the URL or the token cannot stand in a request.
pub fn request(hub: &str, id: &str, token: Option<&str>) -> Result<Request, String> {
    let base = hub.trim_end_matches('/');
    if !base.starts_with("ws://") && !base.starts_with("wss://") {
        return Err(format!(
            "--hub {hub}: expected ws://HOST:PORT, or wss://HOST:PORT with --ca"
        ));
    }
    let url = format!("{base}/v1/devices/{id}");
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|error| format!("{url}: {error}"))?;
    let headers = request.headers_mut();
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static("telehub.v1"),
    );
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| "the token has characters that cannot stand in a header".to_owned())?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// Connects; `tls` says whom to trust where the request is for `wss://`.
///
/// # Errors
/// [`Refused`], with one sentence.
pub async fn connect(request: Request, tls: Option<Arc<ClientConfig>>) -> Result<Socket, Refused> {
    match tokio::time::timeout(TIMEOUT, attempt(request, tls)).await {
        Ok(result) => result,
        Err(_) => Err(Refused::Later(None, "no answer within 10 s".into())),
    }
}

async fn attempt(request: Request, tls: Option<Arc<ClientConfig>>) -> Result<Socket, Refused> {
    let uri = request.uri();
    let encrypted = uri.scheme_str() == Some("wss");
    if encrypted && tls.is_none() {
        let text = "wss:// needs --ca FILE: the certificate of the authority that the hub's is of";
        return Err(Refused::Never(text.to_owned()));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let address = (
        host,
        uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 }),
    );
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| Refused::Later(None, error.to_string()))?;
    stream
        .set_nodelay(true)
        .map_err(|error| Refused::Later(None, error.to_string()))?;
    let host = host.to_owned();
    let stream = Stream::over(stream, &host, tls.filter(|_| encrypted))
        .await
        .map_err(|error| Refused::Later(None, format!("TLS with {host}: {error}")))?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(refusal(&response)),
        Err(error) => Err(Refused::Later(None, error.to_string())),
    }
}

/// What an HTTP answer in place of the upgrade means.
fn refusal(response: &Response<Option<Vec<u8>>>) -> Refused {
    let status = response.status();
    let problem = response
        .body()
        .as_deref()
        .and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok());
    let detail = problem.as_ref().and_then(|problem| {
        let text = problem.get("detail").or_else(|| problem.get("title"))?;
        text.as_str()
    });
    let text = match detail {
        Some(detail) => format!("the hub answered {status}: {detail}"),
        None => format!("the hub answered {status}"),
    };
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    match status.as_u16() {
        400 | 401 | 403 | 404 | 426 => Refused::Never(text),
        _ => Refused::Later(retry_after, text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_request_names_device_protocol_and_token() {
        let request = request("ws://127.0.0.1:8787/", "boat-1", Some("secret")).unwrap();
        assert_eq!(request.uri().path(), "/v1/devices/boat-1");
        let headers = request.headers();
        assert_eq!(headers["authorization"], "Bearer secret");
        assert_eq!(headers["sec-websocket-protocol"], "telehub.v1");
    }

    #[test]
    fn a_url_of_another_kind_is_refused_with_what_to_write() {
        let error = request("http://127.0.0.1", "a", None).unwrap_err();
        assert!(error.contains("ws://HOST:PORT"), "{error}");
    }
}
