//! `/api/devices`: a list of any length, made piece by piece as its reader takes it.
//!
//! A reader that stops reading costs a pointer for each device and one piece of text, and a list of
//! ten thousand devices holds up the hub for no longer than one of its pieces.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::query::Query;
use crate::status::board::{Board, DeviceBoard};

/// Devices in one piece: about 30 KB, made in some tenths of a millisecond.
const PIECE: usize = 64;

/// Words of `state=`.
const STATES: [&str; 4] = ["online", "asleep", "offline", "unseen"];

/// The rest of a list.
#[derive(Debug)]
pub(super) struct List {
    devices: vec::IntoIter<Arc<DeviceBoard>>,
    left: usize,
    state: Option<String>,
    begun: bool,
    ended: bool,
}

impl List {
    /// The devices after `after=ID` in the order of their ids, of `state=`, at most `limit=`.
    ///
    /// # Errors
    /// A value that is none, in one sentence.
    pub(super) fn new(board: &Board, query: &Query<'_>) -> Result<Self, String> {
        let left = match query.get("limit") {
            None => usize::MAX,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| *limit > 0)
                .ok_or_else(|| {
                    format!("limit={text:?} is no number of devices; write one from 1")
                })?,
        };
        let state = query.get("state");
        if let Some(state) = state.filter(|state| !STATES.contains(state)) {
            return Err(format!(
                "state={state:?} is none; there are {}",
                STATES.join(", ")
            ));
        }
        let mut devices = board.devices.all();
        if let Some(after) = query.get("after") {
            let first = devices.partition_point(|device| device.id() <= after);
            devices.drain(..first);
        }
        Ok(Self {
            devices: devices.into_iter(),
            left,
            state: state.map(str::to_owned),
            begun: false,
            ended: false,
        })
    }

    fn piece(&mut self) -> Option<Vec<u8>> {
        if self.ended {
            return None;
        }
        let mut text = Vec::new();
        for _ in 0..PIECE {
            let next = if self.left > 0 {
                self.devices.next()
            } else {
                None
            };
            let Some(device) = next else {
                text.extend_from_slice(if self.begun { b"]" } else { b"[]" });
                self.ended = true;
                break;
            };
            let report = device.report();
            if self
                .state
                .as_ref()
                .is_some_and(|state| *state != report.state)
            {
                continue;
            }
            text.push(if self.begun { b',' } else { b'[' });
            self.begun = true;
            self.left -= 1;
            // Of numbers and texts, which cannot fail.
            let _ = serde_json::to_writer(&mut text, &report);
        }
        Some(text)
    }
}

impl Body for List {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = self.piece() else {
            return Poll::Ready(None);
        };
        if piece.is_empty() {
            // None of these was asked for. The others have their turn before the next ones.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ids(board: &Board, query: &str) -> Vec<String> {
        let mut list = List::new(board, &Query::of(Some(query))).unwrap();
        let text: Vec<u8> = std::iter::from_fn(|| list.piece()).flatten().collect();
        let list: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        let ids = list
            .iter()
            .map(|one| one["id"].as_str().unwrap().to_owned());
        ids.collect()
    }

    #[test]
    fn a_list_of_any_length_is_one_list_and_can_be_read_in_parts() {
        let board = Board::new("barn");
        assert!(ids(&board, "").is_empty());
        for n in 0..1_000 {
            board
                .devices
                .online(&format!("d{n:03}").into(), n, String::new());
        }
        board.devices.offline("d007", 7, "closed");
        let all = ids(&board, "");
        assert_eq!(all.len(), 1_000);
        let (mut read, mut after) = (Vec::new(), String::new());
        loop {
            let part = ids(&board, &format!("limit=64&after={after}"));
            let Some(last) = part.last() else { break };
            assert!(part.len() <= 64);
            after.clone_from(last);
            read.extend(part);
        }
        assert_eq!(read, all);
        assert_eq!(ids(&board, "state=offline&limit=5"), ["d007"]);
        assert_eq!(ids(&board, "state=online").len(), 999);
    }

    #[test]
    fn what_is_no_part_of_a_list_is_refused() {
        let board = Board::new("barn");
        for query in ["limit=0", "limit=many", "state=gone"] {
            assert!(
                List::new(&board, &Query::of(Some(query))).is_err(),
                "{query}"
            );
        }
    }
}
