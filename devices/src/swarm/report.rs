//! What a swarm found out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::json;

use super::SwarmArgs;
use crate::client::{Histogram, Stats};
use crate::progress::short;

/// Figures of one run. Rates are those of the time between the moment when all were connected
/// and the end of the load; what is acked while draining counts in the totals only.
#[derive(Debug)]
pub struct Report {
    devices: usize,
    window: Option<(Instant, Totals)>,
    ramp: Duration,
    connected: u64,
    load: Option<(Duration, Totals)>,
    totals: Totals,
    latency: Histogram,
    reasons: BTreeMap<String, u64>,
    /// Batches neither acked nor rejected nor known to be given up, when the time was up.
    pub never_acked: u64,
    /// Devices that have such batches.
    pub unfinished: u64,
    /// Devices that ended before their time, by reason.
    pub fatal: BTreeMap<String, u64>,
    /// Devices that ended by a fault of this program.
    pub crashed: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    made: u64,
    sent: u64,
    sent_bytes: u64,
    acked: u64,
    readings: u64,
    rejected: u64,
    dropped: u64,
    welcomes: u64,
    lost: u64,
    failed_connects: u64,
    violations: u64,
}

impl Totals {
    fn of(stats: &Stats) -> Self {
        Self {
            made: stats.made.load(Relaxed),
            sent: stats.sent.load(Relaxed),
            sent_bytes: stats.sent_bytes.load(Relaxed),
            acked: stats.acked.load(Relaxed),
            readings: stats.acked_readings.load(Relaxed),
            rejected: stats.rejected.load(Relaxed),
            dropped: stats.dropped.load(Relaxed),
            welcomes: stats.welcomes.load(Relaxed),
            lost: stats.lost.load(Relaxed),
            failed_connects: stats.failed_connects.load(Relaxed),
            violations: stats.violations.load(Relaxed),
        }
    }
}

impl Report {
    /// Before anything has happened.
    #[must_use]
    pub fn new(args: &SwarmArgs) -> Self {
        Self {
            devices: args.devices,
            window: None,
            ramp: Duration::ZERO,
            connected: 0,
            load: None,
            totals: Totals::default(),
            latency: Histogram::default(),
            reasons: BTreeMap::new(),
            never_acked: 0,
            unfinished: 0,
            fatal: BTreeMap::new(),
            crashed: 0,
        }
    }

    /// All are connected, or the time for that is up.
    pub fn load_begins(&mut self, stats: &Stats, ramp: Duration) {
        self.ramp = ramp;
        self.connected = stats.connected.load(Relaxed);
        self.window = Some((Instant::now(), Totals::of(stats)));
    }

    /// Nothing new is sent from now on. The first call counts.
    pub fn load_ends(&mut self, stats: &Stats) {
        if let (Some((since, before)), None) = (&self.window, &self.load) {
            let mut during = Totals::of(stats);
            during.acked -= before.acked;
            during.readings -= before.readings;
            self.load = Some((since.elapsed(), during));
        }
    }

    /// All devices have ended.
    pub fn finish(&mut self, stats: &Stats) {
        self.totals = Totals::of(stats);
        self.latency = stats.latency();
        self.reasons = stats.reasons();
    }

    /// Every batch was acked, by a hub that kept to the contract.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let faults = self.never_acked
            + self.crashed
            + self.totals.rejected
            + self.totals.dropped
            + self.totals.violations;
        faults == 0 && self.fatal.is_empty() && self.connected == self.devices as u64
    }

    fn rates(&self) -> (f64, f64, f64) {
        let Some((time, during)) = &self.load else {
            return (0.0, 0.0, 0.0);
        };
        let seconds = time.as_secs_f64().max(0.001);
        (
            seconds,
            during.acked as f64 / seconds,
            during.readings as f64 / seconds,
        )
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let totals = &self.totals;
        let (seconds, batches, readings) = self.rates();
        let mut out = String::new();
        let mut line = |name: &str, text: String| {
            let _ = writeln!(out, "{name:<12} {text}");
        };
        line(
            "devices",
            format!(
                "{} of {} connected within {:.1} s; {} connections lost, {} attempts failed",
                self.connected,
                self.devices,
                self.ramp.as_secs_f64(),
                totals.lost,
                totals.failed_connects
            ),
        );
        line(
            "acked",
            format!("{} batches, {} readings", totals.acked, totals.readings),
        );
        line(
            "rate",
            format!("{batches:.0} batches/s, {readings:.0} readings/s over {seconds:.1} s"),
        );
        line(
            "ack latency",
            format!(
                "p50 {}, p95 {}, p99 {}, max {}",
                short(self.latency.quantile(0.5)),
                short(self.latency.quantile(0.95)),
                short(self.latency.quantile(0.99)),
                short(self.latency.max())
            ),
        );
        line(
            "not acked",
            format!(
                "{} never acked ({} devices), {} rejected, {} given up; {} sent again",
                self.never_acked,
                self.unfinished,
                totals.rejected,
                totals.dropped,
                totals.sent.saturating_sub(totals.made)
            ),
        );
        for (reason, count) in self.reasons.iter().chain(&self.fatal) {
            line("", format!("{count} × {reason}"));
        }
        if self.crashed > 0 {
            line("", format!("{} × fault of this program", self.crashed));
        }
        out
    }

    /// For scripts. Latencies are in seconds.
    #[must_use]
    pub fn json(&self) -> String {
        let totals = &self.totals;
        let (seconds, batches, readings) = self.rates();
        let quantile = |share| self.latency.quantile(share).as_secs_f64();
        json!({
            "ok": self.is_well(),
            "devices": self.devices,
            "connected": self.connected,
            "ramp_seconds": self.ramp.as_secs_f64(),
            "load_seconds": seconds,
            "batches_per_second": batches,
            "readings_per_second": readings,
            "made": totals.made,
            "sent": totals.sent,
            "sent_bytes": totals.sent_bytes,
            "acked": totals.acked,
            "acked_readings": totals.readings,
            "never_acked": self.never_acked,
            "unfinished_devices": self.unfinished,
            "rejected": totals.rejected,
            "given_up": totals.dropped,
            "violations": totals.violations,
            "welcomes": totals.welcomes,
            "lost_connections": totals.lost,
            "failed_connects": totals.failed_connects,
            "latency": {
                "count": self.latency.count(),
                "p50": quantile(0.5),
                "p95": quantile(0.95),
                "p99": quantile(0.99),
                "max": self.latency.max().as_secs_f64(),
            },
            "reasons": self.reasons,
            "fatal": self.fatal,
            "crashed": self.crashed,
        })
        .to_string()
    }
}
