//! Commands from the broker, and the answers to them.

use bytes::Bytes;
use tracing::{error, info};

use super::{Connection, Phase, Record};
use crate::commands::Incoming;
use crate::commands::port::UplinkWays;
use crate::reading::Reply;
use crate::uplink::blame::{Go, Thing};
use crate::uplink::publication::{Head, Publisher};
use crate::uplink::reasons;
use crate::uplink::terms::Version;
use crate::uplink::transport::{Message, Retained, Subscription, Wire};

/// A command that is larger than `commands.max_size` is refused, so that its sender learns why.
/// One that is more than so many times as large is not even read: it is skipped and counted.
const READ: usize = 4;

/// The next answer to a command; for ever none without a room of commands. `None`: that was the
/// last. Cancel safe.
pub(super) async fn next(commands: &mut Option<UplinkWays>) -> Option<Reply> {
    match commands {
        Some(commands) => commands.replies.recv().await,
        None => std::future::pending().await,
    }
}

impl<W: Wire> Connection<'_, W> {
    /// The subscription to commands, if anybody wants them.
    pub(super) fn command_subscription(&self) -> Option<Subscription> {
        let commands = self.ports.commands.as_ref()?;
        Some(Subscription {
            filter: self.publisher.command_filter(),
            at_least_once: true,
            // What was retained is no command: it would be carried out again at every reconnect.
            retained: Retained::NotSent,
            as_published: true,
            limit: READ * commands.max_size,
        })
    }

    /// The broker has answered the subscription to commands.
    pub(super) fn listens(&mut self, reason: u8) {
        let refused = reason >= reasons::ERRORS;
        if refused {
            // Whoever sends commands is told in the hub's status.
            self.deaf = true;
            self.untold_hub = true;
        }
        self.ports.board.commands.listening.set(u64::from(!refused));
        let filter = self.publisher.command_filter();
        if refused {
            let why = reasons::sentence(reason, "", "");
            // Data is not concerned, and commands do not work until somebody has acted.
            error!(
                filter,
                why,
                "the broker does not let the hub subscribe to commands: none will come; look at its ACL"
            );
        } else {
            info!(filter, "subscribed to commands");
        }
    }

    /// A message on a topic of commands.
    pub(super) fn command(&mut self, message: &Message) {
        // In 3.1.1 the flag stands only on what the broker had before the hub came.
        let stale = message.retain && self.wire.terms().version == Version::V311;
        let incoming = Incoming {
            topic: (&*self.publisher.unescaped(&message.topic)).into(),
            // A copy: a slice would keep the whole read buffer for as long as the command lives.
            payload: Bytes::copy_from_slice(&message.payload),
            retain: message.retain,
            dup: message.dup,
            response_topic: message.response_topic.as_deref().map(Into::into),
            correlation: message.correlation.as_deref().map(Bytes::copy_from_slice),
            expiry: message
                .expiry
                .map(|seconds| std::time::Duration::from_secs(seconds.into())),
        };
        let taken = match &self.ports.commands {
            Some(commands) if !stale => commands.incoming.try_send(incoming).is_ok(),
            _ => false,
        };
        if !taken {
            self.ports.board.uplink.skipped.add(1);
        }
    }

    /// Whether one more answer may be taken. They share the part of the window that is the
    /// states'. While it is not known what the broker hangs up on, one at a time is at hand.
    pub(super) fn may_reply(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Flushing)
            && self.reply.is_none()
            && self.has_room_for_reply()
            && (self.phase == Phase::Flushing || !(self.alone || self.ports.blame.is_careful()))
    }

    fn has_room_for_reply(&self) -> bool {
        self.replies < self.window.states && self.ledger.span() < usize::from(self.window.whole)
    }

    /// Whether no more answers will come.
    pub(super) fn all_replied(&self) -> bool {
        self.ports.commands.is_none() && self.reply.is_none()
    }

    /// An answer to a command, not its final one; `None`: there are no more.
    pub(super) fn replies_come(&mut self, reply: Option<Reply>) {
        let Some(reply) = reply else {
            self.ports.commands = None;
            return;
        };
        let thing = Thing::Result(reply.device.clone());
        if self.phase == Phase::Serving && self.ports.blame.may_go(&thing) == Go::Alone {
            return self.reply_refused();
        }
        self.publish_reply(&reply);
    }

    /// What was said before a final answer goes out before it, where there is room.
    pub(super) fn replies_first(&mut self) {
        while self.may_reply()
            && let Some(commands) = &mut self.ports.commands
            && let Ok(reply) = commands.replies.try_recv()
        {
            self.replies_come(Some(reply));
        }
    }

    /// Takes one answer, to have it at hand when it may go alone.
    pub(super) fn take_reply(&mut self) {
        if self.reply.is_none()
            && let Some(commands) = &mut self.ports.commands
        {
            self.reply = commands.replies.try_recv().ok();
        }
    }

    /// Sends the answer that is at hand, if it may go, and if it is of this device. `false`:
    /// there is none.
    pub(super) fn send_reply(&mut self, device: Option<&std::sync::Arc<str>>) -> bool {
        let wanted = |reply: &mut Reply| {
            let own = &reply.device;
            match device {
                Some(device) => own == device,
                None => self.ports.blame.may_go(&Thing::Result(own.clone())) != Go::Later,
            }
        };
        let Some(reply) = self.reply.take_if(wanted) else {
            return false;
        };
        self.publish_reply(&reply);
        true
    }

    fn publish_reply(&mut self, reply: &Reply) {
        let properties = Publisher::reply_properties(reply);
        let mut room = String::new();
        let head = Head {
            properties: Some(&properties),
            ..self.publisher.reply_head(reply, &mut room)
        };
        let id = self.ledger.next_id();
        let written = self.wire.publish(id, &head, |out| {
            out.extend_from_slice(&reply.payload);
            Ok(())
        });
        if written.is_err() {
            return self.reply_refused();
        }
        self.ports.board.uplink.published.add(1);
        self.replies += 1;
        self.ledger.enter(Record::Reply(reply.device.clone()));
    }

    /// The broker does not take an answer, or it cannot be published.
    pub(super) fn reply_refused(&self) {
        self.ports.board.commands.dropped.add(1);
    }
}
