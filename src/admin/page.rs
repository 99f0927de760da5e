//! The dashboard's files, as they are in `src/admin/page/`, and how they are served.
//!
//! All of it is in the binary: the page works without any other host, and belongs to the API of
//! the hub that serves it. Nothing is kept by the browser without asking (`no-cache` and an
//! `ETag`), so that the page after an update is the new one.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_NONE_MATCH, VARY,
};
use hyper::{Response, StatusCode};

/// One file of the page.
#[derive(Debug)]
pub struct File {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub kind: &'static str,
    /// The file itself.
    pub plain: &'static [u8],
    /// The same compressed with gzip, where that is worth a second copy.
    pub gzip: Option<&'static [u8]>,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

macro_rules! file {
    ($path:literal, $kind:expr, $name:literal) => {
        File {
            path: $path,
            kind: $kind,
            plain: include_bytes!(concat!("page/", $name)),
            gzip: None,
        }
    };
    ($path:literal, $kind:expr, $name:literal, gzip) => {
        File {
            path: $path,
            kind: $kind,
            plain: include_bytes!(concat!("page/", $name)),
            gzip: Some(include_bytes!(concat!("page/", $name, ".gz"))),
        }
    };
}

/// Every file that the page needs; together less than 100 KB on the wire.
pub const FILES: &[File] = &[
    file!("/", HTML, "index.html"),
    file!("/style.css", STYLE, "style.css", gzip),
    file!("/icon.svg", "image/svg+xml", "icon.svg"),
    file!("/app.js", SCRIPT, "app.js"),
    file!("/format.js", SCRIPT, "format.js"),
    file!("/model.js", SCRIPT, "model.js", gzip),
    file!("/stream.js", SCRIPT, "stream.js"),
    file!("/overview.js", SCRIPT, "overview.js"),
    file!("/links.js", SCRIPT, "links.js"),
    file!("/devices.js", SCRIPT, "devices.js", gzip),
    file!("/device.js", SCRIPT, "device.js", gzip),
    file!("/commands.js", SCRIPT, "commands.js", gzip),
    file!("/plot.js", SCRIPT, "plot.js", gzip),
    file!("/span.js", SCRIPT, "span.js"),
    file!("/units.js", SCRIPT, "units.js"),
    file!("/values.js", SCRIPT, "values.js"),
    file!("/uplot.css", STYLE, "vendor/uPlot.min.css"),
    file!("/uplot.js", SCRIPT, "vendor/uPlot.iife.min.js", gzip),
];

/// Only our own files and our own API; no markup can bring in anything, and nobody frames us.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The headers of every file.
const HEADERS: [(&str, &str); 3] = [
    ("cache-control", "no-cache"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// The headers of the document, which hold for all that it brings in.
const DOCUMENT_HEADERS: [(&str, &str); 5] = [
    ("content-security-policy", POLICY),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
];

/// The file at this path, or `None`: the path is no part of the page.
pub(super) fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// The answer to a GET or HEAD with these headers.
    pub(super) fn answer(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let (body, encoding) = match self.gzip {
            Some(gzip) if takes_gzip(request) => (gzip, Some("gzip")),
            _ => (self.plain, None),
        };
        // The two encodings are two representations (RFC 9110 §8.8.3).
        let tag = format!("\"{:08x}-{}\"", crc32fast::hash(body), body.len());
        let known = is_known(request, &tag);
        let mut response = Response::new(Full::new(Bytes::from_static(if known {
            b""
        } else {
            body
        })));
        let headers = response.headers_mut();
        let document = self.kind == HTML;
        let more = DOCUMENT_HEADERS.iter().filter(|_| document);
        for (name, value) in HEADERS.iter().chain(more) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        if self.gzip.is_some() {
            headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        }
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        response
    }
}

/// Whether `Accept-Encoding` names gzip and does not refuse it (RFC 9110 §12.5.3).
fn takes_gzip(request: &HeaderMap) -> bool {
    elements(request, ACCEPT_ENCODING).any(|element| {
        let mut parts = element.split(';').map(str::trim);
        let coding = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let refused = weight
            .and_then(|weight| weight.parse::<f32>().ok())
            .is_some_and(|weight| weight <= 0.0);
        (coding.eq_ignore_ascii_case("gzip") || coding == "*") && !refused
    })
}

/// Whether `If-None-Match` names this representation, by weak comparison (RFC 9110 §13.1.2).
fn is_known(request: &HeaderMap, tag: &str) -> bool {
    elements(request, IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// The elements of a header that is a list.
fn elements(request: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    request
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::body::Body;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn answer(path: &str, request: &HeaderMap) -> Option<Response<Full<Bytes>>> {
        file(path).map(|file| file.answer(request))
    }

    fn tag(response: &Response<Full<Bytes>>) -> String {
        response.headers()[ETAG].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_file_that_the_browser_has_is_not_sent_again() {
        let first = answer("/app.js", &HeaderMap::new()).unwrap();
        assert_eq!(first.status(), 200);
        for known in [
            tag(&first),
            format!("W/{}", tag(&first)),
            format!("\"x\", {}", tag(&first)),
            "*".into(),
        ] {
            let again = answer("/app.js", &headers(&[(IF_NONE_MATCH, &known)])).unwrap();
            assert_eq!(again.status(), 304, "{known}");
            assert_eq!(again.body().size_hint().exact(), Some(0));
            assert_eq!(tag(&again), tag(&first));
        }
        let other = answer("/app.js", &headers(&[(IF_NONE_MATCH, "\"x\"")])).unwrap();
        assert_eq!(other.status(), 200);
    }

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        for (accept, gzip) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("*", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzipped", false),
        ] {
            let response = answer("/uplot.js", &headers(&[(ACCEPT_ENCODING, accept)])).unwrap();
            let encoding = response.headers().get(CONTENT_ENCODING);
            assert_eq!(encoding.is_some(), gzip, "{accept}");
            assert_eq!(response.headers()[VARY], "accept-encoding");
        }
        let plain = answer("/uplot.js", &HeaderMap::new()).unwrap();
        assert!(plain.headers().get(CONTENT_ENCODING).is_none());
        let gzip = answer("/uplot.js", &headers(&[(ACCEPT_ENCODING, "gzip")])).unwrap();
        assert_ne!(tag(&plain), tag(&gzip));
    }

    #[test]
    fn nothing_but_the_page_is_served() {
        for path in [
            "/index.html",
            "/vendor/uPlot.LICENSE",
            "//",
            "/app.js/",
            "/../Cargo.toml",
        ] {
            assert!(answer(path, &HeaderMap::new()).is_none(), "{path}");
        }
    }

    #[test]
    fn every_file_that_the_sources_name_is_served_and_the_other_way_round() {
        let text = |file: &File| String::from_utf8(file.plain.to_vec()).unwrap();
        let all: String = FILES.iter().map(text).collect();
        for file in FILES.iter().filter(|file| file.path != "/") {
            let name = file.path.trim_start_matches('/');
            assert!(
                all.contains(&format!("\"./{name}\"")),
                "{name} is served and not used"
            );
        }
        for import in all.split("from \"./").skip(1) {
            let name = import.split('"').next().unwrap();
            assert!(
                FILES.iter().any(|file| file.path == format!("/{name}")),
                "{name} is not served"
            );
        }
    }

    #[test]
    fn the_compressed_copy_is_the_file() {
        for file in FILES {
            let Some(gzip) = file.gzip else { continue };
            let dir = tempfile::tempdir().unwrap();
            let packed = dir.path().join("file.gz");
            std::fs::write(&packed, gzip).unwrap();
            let unpacked = std::process::Command::new("gzip")
                .arg("-dc")
                .arg(&packed)
                .output()
                .unwrap();
            assert!(unpacked.status.success(), "{}", file.path);
            assert!(
                unpacked.stdout == file.plain,
                "{} has changed: in src/admin/page, gzip -9 -n -k -f that file",
                file.path
            );
        }
    }

    #[test]
    fn the_page_is_less_than_100_kb_on_the_wire() {
        // 400 bytes a file are about what its headers take.
        let request = headers(&[(ACCEPT_ENCODING, "gzip, deflate, br, zstd")]);
        let sizes = FILES.iter().map(|file| {
            let body = answer(file.path, &request).unwrap().into_body();
            body.size_hint().exact().unwrap() + 400
        });
        let sum: u64 = sizes.sum();
        assert!(sum < 100_000, "{sum}");
    }

    #[test]
    fn the_document_has_a_strict_policy_and_no_file_is_taken_for_another_kind() {
        let response = answer("/", &HeaderMap::new()).unwrap();
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("  "));
        for file in FILES {
            let response = file.answer(&HeaderMap::new());
            assert_eq!(response.headers()["x-content-type-options"], "nosniff");
            assert_eq!(response.headers()[CONTENT_TYPE], file.kind);
        }
    }

    #[test]
    fn no_file_of_ours_names_another_host_or_makes_markup_of_text() {
        for file in FILES.iter().filter(|file| !file.path.contains("uplot")) {
            let text = std::str::from_utf8(file.plain).unwrap();
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for never in [
                "http:",
                "https:",
                "\"//",
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=\"",
                "onclick=",
            ] {
                assert!(!text.contains(never), "{never} in {}", file.path);
            }
        }
    }
}
