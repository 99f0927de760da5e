//! What the operator can change: which alarms are over.

use hyper::{Method, StatusCode};

use super::reply::{Answer, done, problem};
use crate::status::board::{Board, Unforgettable};

/// A change, and the device that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// `DELETE /api/devices/{id}`
    Forget(&'a str),
    /// `POST /api/devices/{id}/acknowledge`
    Acknowledge(&'a str),
}

/// What a request asks to change; `rest`: its path behind `/api/devices/`.
pub(super) fn of<'a>(method: &Method, rest: &'a str) -> Option<Change<'a>> {
    if method == Method::DELETE {
        return Some(Change::Forget(rest));
    }
    let id = rest.strip_suffix("/acknowledge")?;
    (method == Method::POST).then_some(Change::Acknowledge(id))
}

impl Change<'_> {
    /// Makes it.
    pub(super) fn make(self, board: &Board) -> Answer {
        match self {
            Self::Forget(id) => match board.devices.forget(id) {
                Ok(()) => {
                    tracing::info!(device = id, "forgotten, as the operator asked");
                    done()
                }
                Err(Unforgettable::Here) => problem(
                    StatusCode::CONFLICT,
                    "the device is connected; who is here is not forgotten",
                ),
                Err(Unforgettable::Unknown) => unknown(),
            },
            Self::Acknowledge(id) => match board.devices.get(id) {
                None => unknown(),
                Some(_) if board.devices.acknowledge(id) => {
                    tracing::info!(device = id, "its absence was acknowledged by the operator");
                    done()
                }
                Some(_) => problem(StatusCode::CONFLICT, "the device is connected"),
            },
        }
    }
}

fn unknown() -> Answer {
    problem(StatusCode::NOT_FOUND, "no device of this id is known")
}
