//! A broker that answers pings and acknowledges nothing: RabbitMQ closes its channel behind the
//! connection for a message that is too large, keeps the connection, and says nothing. What is out
//! then counts as hung up on.
//!
//! Ordinarily the intake finds out, after several `ack_timeout`s. While one thing is on the wire at
//! a time, it would take that long for each step of a proof; so the connection itself looks here.

use tokio::time::Instant;

use super::{Connection, Phase};
use crate::uplink::failure::Failure;
use crate::uplink::transport::{Signal, Wire};

/// Something is out alone.
#[derive(Debug)]
pub(super) struct Silence {
    /// When the broker is pinged: what was sent before the ping would have been answered first.
    ping_at: Instant,
    pinged: bool,
}

impl<W: Wire> Connection<'_, W> {
    /// Notices what is out.
    pub(super) fn watch_silence(&mut self) {
        let watched = self.phase == Phase::Serving && self.ports.blame.is_careful();
        if !watched || self.nothing_is_out() {
            self.silence = None;
        } else if self.silence.is_none() {
            self.silence = Some(Silence {
                ping_at: Instant::now() + self.ack_timeout,
                pinged: false,
            });
        }
    }

    /// When something has to be done.
    pub(super) fn next_silence(&self) -> Option<Instant> {
        let silence = self.silence.as_ref().filter(|silence| !silence.pinged);
        silence.map(|silence| silence.ping_at)
    }

    pub(super) fn ping_into_silence(&mut self) {
        if let Some(silence) = &mut self.silence {
            silence.pinged = true;
            self.wire.ping();
        }
    }

    /// What the broker says ends it, unless that is the answer to the ping alone.
    pub(super) fn hear_silence(&mut self, signal: &Signal) -> Result<(), Failure> {
        match signal {
            Signal::Alive if self.silence.as_ref().is_some_and(|silence| silence.pinged) => {
                Err(Failure::silent())
            }
            Signal::Acked(_)
            | Signal::Unheard(_)
            | Signal::Refused { .. }
            | Signal::Subscribed { .. } => {
                self.silence = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
