//! Single devices: what they measure, and the frame in which they run.

mod csv;
pub mod machine;
pub mod replay;
pub mod thermometer;
mod timestamp;
pub mod vibration;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::client::{self, Options, Outcome, Source, Stats, Stopper};
use crate::progress::{Progress, ranges, short};

/// Exit status after a second Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// The clock: Unix seconds, to the millisecond, which is as exact as any of these sensors.
#[must_use]
pub fn now() -> f64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A sensor's beat, begun with the first reading. Beats that were missed are left out.
fn ticks(slot: &mut Option<Interval>, every: Duration) -> &mut Interval {
    slot.get_or_insert_with(|| {
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        ticks
    })
}

/// Runs one device until its source ends or Ctrl-C, and says what became of its batches; `quiet`:
/// between its first and its last line only what goes wrong.
///
/// # Errors
/// When there is no runtime or no signal handler.
pub fn run<S: Source + 'static>(
    options: Options,
    source: S,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(drive(options, source, quiet))
}

async fn drive<S: Source + 'static>(
    options: Options,
    source: S,
    quiet: bool,
) -> anyhow::Result<ExitCode> {
    let id = options.id.clone();
    eprintln!("{id}: to {}; Ctrl-C ends", options.hub);
    let stats = Arc::new(Stats::default());
    let (stopper, stop) = Stopper::new();
    on_interrupt(stopper);
    let device = client::run(options, source, stats.clone(), stop, None);
    let mut device = std::pin::pin!(device);
    let mut progress = Progress::new(quiet);
    let mut tick = tokio::time::interval(progress.period());
    let outcome = loop {
        tokio::select! {
            outcome = &mut device => break outcome,
            _ = tick.tick() => progress.show(&stats, || line(&id, &stats)),
        }
    };
    progress.end(&stats);
    Ok(report(&id, &stats, &outcome))
}

/// The first Ctrl-C (or SIGTERM) ends things in order, the second at once.
pub fn on_interrupt(stopper: Stopper) {
    tokio::spawn(async move {
        interrupt().await;
        stopper.stop();
        interrupt().await;
        std::process::exit(INTERRUPTED);
    });
}

/// Returns at Ctrl-C or SIGTERM.
pub async fn interrupt() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn line(id: &str, stats: &Stats) -> String {
    let (made, acked) = (stats.made.load(Relaxed), stats.acked.load(Relaxed));
    let gone = stats.rejected.load(Relaxed) + stats.dropped.load(Relaxed);
    let state = if stats.connected.load(Relaxed) > 0 {
        "connected"
    } else {
        "not connected"
    };
    format!(
        "{id}: {state}, {acked} batches acked ({} readings), {} waiting, {gone} refused or given \
         up, ack after {}",
        stats.acked_readings.load(Relaxed),
        made.saturating_sub(acked + gone),
        short(stats.latency().quantile(0.5)),
    )
}

fn report(id: &str, stats: &Stats, outcome: &Outcome) -> ExitCode {
    let rejected = stats.rejected.load(Relaxed);
    let dropped = stats.dropped.load(Relaxed);
    eprintln!(
        "{id}: {} batches with {} readings acked, {rejected} rejected, {dropped} given up, {} \
         unacked",
        stats.acked.load(Relaxed),
        stats.acked_readings.load(Relaxed),
        outcome.unacked.len(),
    );
    if !outcome.unacked.is_empty() {
        eprintln!(
            "{id}: unacked in stream {}, where all up to {} is safe: {}",
            outcome.stream,
            outcome.acked,
            ranges(&outcome.unacked)
        );
    }
    if let Some(fatal) = &outcome.fatal {
        eprintln!("{id}: {fatal}");
    }
    let well = rejected == 0
        && dropped == 0
        && stats.violations.load(Relaxed) == 0
        && outcome.unacked.is_empty()
        && outcome.fatal.is_none();
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
