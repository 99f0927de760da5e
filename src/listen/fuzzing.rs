//! What the fuzz targets reach of this room. Not part of the program.

use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};

use super::upgrade;

/// Judges a request head as it stands on the wire: request line, header lines. What HTTP itself
/// would refuse is left out, since hyper refuses it before the hub looks.
///
/// # Panics
/// When the judgement is not what it promises.
pub fn upgrade(head: &[u8]) {
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return;
    };
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            request = request.header(name, value);
        }
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    match upgrade::parse(&request.into_parts().0) {
        Ok(upgrade) => {
            let id = upgrade.device.as_bytes();
            assert!((1..=64).contains(&id.len()) && id[0].is_ascii_alphanumeric());
            assert!(
                id.iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
            );
            // SHA-1 in base64 (RFC 6455 §4.2.2).
            assert_eq!(upgrade.accept.len(), 28);
            assert!(HeaderValue::try_from(upgrade.accept).is_ok());
        }
        Err(refusal) => {
            let response = refusal.response();
            assert!(response.status().is_client_error());
            assert!(response.headers().contains_key("content-type"));
        }
    }
}
