//! The way of commands through the session, where there is one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::TrySendError;
use tracing::{debug, info};

use super::Session;
use super::ending::Ending;
use super::handover::{Stream, Waiting};
use crate::commands::desired::{Desired, MAX_STATE};
use crate::commands::port::{CommandPort, FromSession};
use crate::commands::tray::{Tray, Waiting as ForDevice};
use crate::commands::{Order, Said};
use crate::protocol::message::{CommandResult, ToDevice};
use crate::protocol::reject::{Reject, RejectCode};

/// A device that has said nothing for so long after it connected says no `hello` before it is
/// sent a command: a plain relay may never say anything.
const QUIET: Duration = Duration::from_secs(2);

/// What a device can take that does not say (`hello.max_message`).
const MAX_MESSAGE: usize = 64 * 1024;

/// One session's ends of the ways.
pub(super) struct Link {
    port: CommandPort,
    desired: Option<Arc<Desired>>,
    pub(super) tray: Arc<Tray>,
    /// What found no room; while there is something, nothing more is read.
    held: VecDeque<FromSession>,
    pub(super) room: Option<Waiting<Option<OwnedPermit<FromSession>>>>,
    /// The device can be sent commands.
    announced: bool,
    /// When it is announced at the latest.
    pub(super) quiet_until: Option<Instant>,
}

impl Link {
    pub(super) fn new(port: CommandPort, desired: Option<Arc<Desired>>, now: Instant) -> Self {
        Self {
            port,
            desired,
            tray: Arc::default(),
            held: VecDeque::new(),
            room: None,
            announced: false,
            quiet_until: Some(now + QUIET),
        }
    }

    /// Whether something waits for room.
    pub(super) fn is_full(&self) -> bool {
        !self.held.is_empty()
    }

    fn say(&mut self, event: FromSession) {
        let event = if self.held.is_empty() {
            match self.port.try_send(event) {
                // Without the room of the commands nobody is interested.
                Ok(()) | Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(event)) => event,
            }
        } else {
            event
        };
        self.held.push_back(event);
        self.wait_for_room();
    }

    fn wait_for_room(&mut self) {
        let port = self.port.clone();
        self.room = Some(Box::pin(async move { port.reserve_owned().await.ok() }));
    }

    /// There is room for one.
    pub(super) fn has_room(&mut self, permit: Option<OwnedPermit<FromSession>>) {
        self.room = None;
        match (permit, self.held.pop_front()) {
            (Some(permit), Some(event)) => _ = permit.send(event),
            // The room is gone.
            _ => self.held.clear(),
        }
        if !self.held.is_empty() {
            self.wait_for_room();
        }
    }

    /// The connection has ended. What found no room is lost; the device says it again.
    pub(super) async fn end(self, device: Arc<str>, conn: u64) {
        if self.announced {
            if let Some(desired) = &self.desired {
                desired.offline(&device, conn);
            }
            // An error means that there is nobody to tell.
            let _ = self.port.send(FromSession::Offline { device, conn }).await;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<'_, S> {
    /// The device can be sent commands from now on.
    pub(super) fn announce(&mut self) {
        let Some(link) = &mut self.commands else {
            return;
        };
        link.quiet_until = None;
        link.announced = true;
        let told = self.hello.max_message;
        let max_message = told.map_or(MAX_MESSAGE, |max| {
            usize::try_from(max).unwrap_or(usize::MAX)
        });
        let (device, conn) = (&self.present.device, self.present.conn);
        link.say(FromSession::Online {
            device: device.clone(),
            conn,
            remembers: self.hello.remembers.is_some_and(|ids| ids > 0),
            max_message,
            tray: link.tray.clone(),
        });
        if let Some(desired) = &link.desired {
            desired.online(device, conn, max_message, &link.tray);
        }
    }

    /// The same for a device that has not said `hello` and has said or kept quiet long enough.
    pub(super) fn announce_if_new(&mut self) {
        let attaching = matches!(self.stream, Stream::Attaching { .. });
        let new = self.commands.as_ref().is_some_and(|link| !link.announced);
        if new && !attaching {
            self.announce();
        }
    }

    /// The device has kept quiet for long enough; one that is being greeted is announced then.
    pub(super) fn quiet_is_over(&mut self) {
        if let Some(link) = &mut self.commands {
            link.quiet_until = None;
        }
        self.announce_if_new();
    }

    /// The answer to a command.
    pub(super) fn result(&mut self, result: CommandResult) -> Result<(), Ending> {
        self.rejects_in_a_row = 0;
        if self.commands.is_none() {
            // Of a command of before: without an answer the device would send it again for ever.
            let reject = Reject {
                seq: None,
                code: RejectCode::UnknownKind,
                detail: "commands are off at this hub".to_owned(),
            };
            return self.reject_result(result.id, reject);
        }
        self.announce_if_new();
        let device = self.present.device.clone();
        let said = Said {
            id: result.id.into(),
            name: result.name.map(Into::into),
            ok: result.ok,
            value: result
                .value
                .and_then(|value| to_raw_value(&value).ok())
                .map(Into::into),
            error: result.error.map(Into::into),
            more: result.more,
        };
        if let Some(link) = &mut self.commands {
            link.say(FromSession::Result { device, said });
        }
        Ok(())
    }

    /// The device says in which state it is.
    pub(super) fn reported(&mut self, map: Map<String, Value>) -> Result<(), Ending> {
        let Ok(payload) = serde_json::to_vec(&map) else {
            return Ok(());
        };
        if payload.len() > MAX_STATE {
            return self.reject(Reject {
                seq: None,
                code: RejectCode::TooLarge,
                detail: format!("\"reported\" may have {MAX_STATE} bytes as JSON"),
            });
        }
        self.rejects_in_a_row = 0;
        let device = &self.present.device;
        let desired = self.settings.desired.as_ref();
        if !desired.is_some_and(|desired| desired.reported(device, payload.into())) {
            debug!(%device, "a reported state, and the device's entry does not have desired = true");
        }
        Ok(())
    }

    /// A result that is no good: the device hears which, or it would say it again for ever.
    pub(super) fn reject_result(&mut self, id: String, reject: Reject) -> Result<(), Ending> {
        self.refuse(reject, |Reject { code, detail, .. }| {
            ToDevice::ResultReject { id, code, detail }
        })
    }

    /// What the room of the commands has for the device.
    pub(super) fn deliver(&mut self, waiting: ForDevice) -> Result<(), Ending> {
        for order in waiting.orders {
            self.order(order)?;
        }
        if let Some(map) = waiting.desired
            && let Ok(map) = serde_json::from_str(map.get())
        {
            self.send(&ToDevice::Desired { map })?;
        }
        for id in waiting.acks {
            let id = id.to_string();
            self.send(&ToDevice::ResultAck { id })?;
        }
        Ok(())
    }

    fn order(&mut self, order: Order) -> Result<(), Ending> {
        let Order {
            id,
            name,
            args,
            timeout,
            again,
        } = order;
        info!(device = %self.present.device, conn = self.present.conn, %id, %name, again, "command sent");
        self.send(&ToDevice::Command {
            id: id.to_string(),
            name: name.to_string(),
            args: args.and_then(|args| serde_json::from_str(args.get()).ok()),
            timeout: timeout.as_secs_f64(),
            again,
        })
    }
}
