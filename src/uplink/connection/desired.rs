//! Desired states from the broker, and reported ones to it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{error, info};

use super::{Connection, Phase, Record};
use crate::commands::desired::{Desired, MAX_STATE, Report};
use crate::uplink::blame::{Go, Thing};
use crate::uplink::reasons;
use crate::uplink::transport::{Message, Retained, Subscription, Wire};

/// Subscriptions that wait for their answer. More would be no faster, and brokers count them.
const SUBSCRIBING: usize = 8;

/// A desired state that is larger than [`MAX_STATE`] is passed over by name. One that is more than so
/// many times as large is not even read: it is skipped and counted.
const READ: usize = 4;

/// Returns when there may be something to do; never, without desired states. Cancel safe.
pub(super) async fn changed(desired: Option<&Desired>) {
    match desired {
        Some(desired) => desired.changed().await,
        None => std::future::pending().await,
    }
}

impl<W: Wire> Connection<'_, W> {
    /// Follows those devices that have a desired state, a few at a time, and no others.
    pub(super) fn follow_desired(&mut self) {
        let Some(desired) = self.ports.desired.clone() else {
            return;
        };
        while let Some(device) = desired.next_unsubscription() {
            let filter = self.publisher.desired_topic(&device);
            let id = self.subscriptions.unfollow(&filter);
            self.wire.unsubscribe(id, &filter);
        }
        while self.subscriptions.following() < SUBSCRIBING
            && let Some(device) = desired.next_subscription()
        {
            self.subscriptions.follow(Subscription {
                filter: self.publisher.desired_topic(&device),
                at_least_once: true,
                // What stands there is what is wanted.
                retained: Retained::Sent,
                as_published: false,
                limit: READ * MAX_STATE,
            });
        }
    }

    /// The broker has answered the subscription to a desired state.
    pub(super) fn follows(&self, filter: &str, reason: u8) {
        if reason < reasons::ERRORS {
            return info!(filter, "follows a desired state");
        }
        let why = reasons::sentence(reason, "", "");
        error!(
            filter,
            why, "the broker does not let the hub follow a device's desired state; look at its ACL"
        );
    }

    /// What stands now at the topic of a desired state.
    pub(super) fn desired(&self, device: &str, message: &Message) {
        match &self.ports.desired {
            Some(desired) => desired.arrived(device, &message.payload),
            None => self.ports.board.uplink.skipped.add(1),
        }
    }

    fn has_room_for_report(&self) -> bool {
        self.reports < self.window.states && self.ledger.span() < usize::from(self.window.whole)
    }

    /// When the next report may go; `None`: whatever makes room for it will wake the task anyway.
    pub(super) fn next_report(&self) -> Option<Instant> {
        let careful = self.alone || self.ports.blame.is_careful();
        if self.phase != Phase::Serving || careful || !self.has_room_for_report() {
            return None;
        }
        let due = self.ports.desired.as_ref()?.next_due();
        due.map(Instant::from_std)
    }

    /// As many reports as fit.
    pub(super) fn feed_reports(&mut self) {
        while self.has_room_for_report() && self.send_report(None) {}
    }

    /// Sends the next report that may go, of this device or of any. `false`: there is none.
    pub(super) fn send_report(&mut self, device: Option<&Arc<str>>) -> bool {
        let Some(desired) = self.ports.desired.clone() else {
            return false;
        };
        let blame = &self.ports.blame;
        let may = |of: &Arc<str>| {
            device.is_none_or(|device| device == of)
                && blame.may_go(&Thing::Reported(of.clone())) != Go::Later
        };
        // On the way out there is no later.
        let hurry = self.phase != Phase::Serving;
        let Some(report) = desired.next_report(hurry, may) else {
            return false;
        };
        let thing = Thing::Reported(report.device.clone());
        let alone = !blame.is_careful() && blame.may_go(&thing) == Go::Alone;
        if alone && self.phase == Phase::Serving {
            let Report {
                device, version, ..
            } = report;
            let why = "the broker hangs up on it";
            self.report_refused(&device, version, why);
            return true;
        }
        let publication = self.publisher.reported(&report);
        let Report {
            device, version, ..
        } = report;
        if self.publish_state(&publication, Record::Reported(device.clone(), version)) {
            self.reports += 1;
        } else {
            self.report_refused(&device, version, "it is too large for the broker");
        }
        true
    }

    /// Whether nothing is left to report.
    pub(super) fn all_reported(&self) -> bool {
        let desired = self.ports.desired.as_ref();
        desired.is_none_or(|desired| desired.all_reported())
    }

    /// The broker has taken a report.
    pub(super) fn reported(&self, device: &Arc<str>, version: u64) {
        if let Some(desired) = &self.ports.desired {
            desired.taken(device, version);
        }
    }

    /// The broker does not take a report.
    pub(super) fn report_refused(&self, device: &Arc<str>, version: u64, why: &str) {
        if let Some(desired) = &self.ports.desired {
            desired.refused(device, version, why);
        }
    }
}
