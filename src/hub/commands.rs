//! The ways between the room of the commands and everybody else, where commands are on.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::admin::Commander;
use crate::commands::Settings;
use crate::commands::authority::Authority;
use crate::commands::desired::Desired;
use crate::commands::local::ASKING;
use crate::commands::port::{CommandPort, FINALS, FROM_BROKER, FROM_SESSIONS, REPLIES, UplinkWays};
use crate::commands::run::Wiring;
use crate::config;
use crate::intake::port::Answers;
use crate::pulse::Pulse;
use crate::status::board::Board;
use crate::stop::Stop;

/// All ends of all ways but the room's own.
pub(super) struct Ends {
    pub(super) sessions: CommandPort,
    pub(super) desired: Arc<Desired>,
    pub(super) uplink: UplinkWays,
    pub(super) operator: Commander,
    pub(super) intake: Answers,
}

/// What the room is told of the rest of the hub.
pub(super) struct Around {
    pub(super) prefix: String,
    pub(super) hub: String,
    pub(super) authority: watch::Receiver<Arc<Authority>>,
    pub(super) board: Arc<Board>,
    pub(super) pulse: Pulse,
    pub(super) stop: Stop,
}

pub(super) fn open(commands: &config::Commands, around: Around) -> (Wiring, Ends) {
    let (sessions, from_sessions) = mpsc::channel(FROM_SESSIONS);
    let (incoming, from_broker) = mpsc::channel(FROM_BROKER);
    let (replies, to_uplink) = mpsc::channel(REPLIES);
    let (news, from_uplink) = mpsc::unbounded_channel();
    let (ask, asked) = mpsc::channel(ASKING);
    let port = commands.admin.then_some(ask);
    let operator = Commander::new(around.authority.clone(), commands.max_size, port);
    let desired = Desired::new(around.board.clone());
    let (finals, come) = mpsc::channel(FINALS);
    let (safe, from_intake) = mpsc::unbounded_channel();
    let wiring = Wiring {
        settings: Settings {
            prefix: around.prefix,
            hub: around.hub,
            max_size: commands.max_size,
            response_prefixes: commands.response_prefixes.clone(),
            // An id of an earlier run must not be taken for one of this.
            run: format!("{:x}", RandomState::new().hash_one(0)),
        },
        sessions: from_sessions,
        broker: from_broker,
        asked,
        desired: desired.clone(),
        authority: around.authority.clone(),
        replies,
        finals,
        safe: from_intake,
        news: from_uplink,
        board: around.board,
        pulse: around.pulse,
        stop: around.stop,
    };
    let ends = Ends {
        sessions,
        desired: desired.clone(),
        uplink: UplinkWays {
            incoming,
            replies: to_uplink,
            news,
            desired,
            authority: around.authority,
            max_size: commands.max_size,
        },
        operator,
        intake: Answers { come, safe },
    };
    (wiring, ends)
}
