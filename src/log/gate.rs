//! What passes into the log: events of the hub's own code, up to the level, within the limit.
//!
//! What the libraries under the hub log is never printed, at no level: it may hold what devices
//! sent.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, debug, error, info, trace, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::fields::{Fields, read};
use super::limit::{Limit, Verdict, WINDOW};
use crate::config::LogLevel;

/// Every module of the hub logs under its path.
const OURS: &str = "telehub";

/// Where the lines that count come from. They are not counted themselves.
const COUNTS: &str = "telehub::log::more";

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

/// Kind of event and device, if it is of one.
type Key = (Identifier, Box<str>);

struct What {
    level: Level,
    message: String,
}

static LIMIT: Mutex<Option<Limit<Key, What>>> = Mutex::new(None);

/// Something is held back.
static HELD: Notify = Notify::const_new();

/// Sets the level, for every event from now on.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// The present level.
#[must_use]
pub fn level() -> LogLevel {
    use LogLevel::{Debug, Error, Info, Trace, Warn};
    let set = LEVEL.load(Relaxed);
    let known = [Error, Warn, Info, Debug];
    let found = known.into_iter().find(|level| *level as u8 == set);
    found.unwrap_or(Trace)
}

fn filter() -> LevelFilter {
    match level() {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let rest = metadata.target().strip_prefix(OURS);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The layer before the one that prints.
#[derive(Debug)]
pub(super) struct Gate;

impl<S: Subscriber> Layer<S> for Gate {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_ours(metadata) {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_ours(metadata) && *metadata.level() <= filter()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(filter())
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Who asks for more than the events that matter gets all of it.
        if *metadata.level() > Level::INFO || metadata.target() == COUNTS {
            return true;
        }
        let Fields { message, device } = read(event);
        let kind = metadata.callsite();
        let shared = (kind.clone(), Box::default());
        let what = || What {
            level: *metadata.level(),
            message,
        };
        let mut limit = LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = limit.get_or_insert_default();
        match limit.note((kind, device.into()), shared, Instant::now(), what) {
            Verdict::Print => true,
            Verdict::Hold { first } => {
                if first {
                    HELD.notify_one();
                }
                false
            }
        }
    }
}

/// Tells, once a minute at most and only if there is something, how much was held back. For one
/// task; does not return.
pub async fn tell_held_back() {
    loop {
        HELD.notified().await;
        tokio::time::sleep(WINDOW).await;
        tell_held_back_now();
    }
}

/// Tells how much was held back. For the end.
pub fn tell_held_back_now() {
    let held = {
        let mut limit = LIMIT.lock().unwrap_or_else(PoisonError::into_inner);
        limit.as_mut().map(Limit::held).unwrap_or_default()
    };
    for ((_, device), What { level, message }, more) in held {
        let device = (!device.is_empty()).then_some(&*device);
        macro_rules! tell {
            ($level:ident) => {
                $level!(target: COUNTS, device, more, "… and {more} more: {message}")
            };
        }
        match level {
            Level::ERROR => tell!(error),
            Level::WARN => tell!(warn),
            Level::INFO => tell!(info),
            Level::DEBUG => tell!(debug),
            Level::TRACE => tell!(trace),
        }
    }
}
