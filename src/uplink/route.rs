//! Where to connect next, and with which version of MQTT. Pure: no IO, no clock.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::terms::Verdict;
use super::terms::Version;
use crate::config::{Broker, MqttVersion, UplinkTls};

/// A broker, or one of its addresses.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<UplinkTls>,
    /// Once the name is resolved.
    pub(super) address: Option<SocketAddr>,
    /// There is no other to try.
    pub(super) alone: bool,
}

impl Target {
    pub(super) fn of(broker: &Broker, alone: bool) -> Self {
        Self {
            host: broker.host.clone(),
            port: broker.port,
            tls: broker.tls.clone(),
            address: None,
            alone,
        }
    }

    /// The broker for people.
    pub(super) fn name(&self) -> String {
        let scheme = if self.tls.is_some() { "mqtts" } else { "mqtt" };
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }

    /// TLS without a client certificate.
    pub(super) fn is_anonymous(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client.is_none())
    }
}

/// The brokers in order of preference, and where in each the next attempt begins.
#[derive(Debug)]
pub(super) struct Route {
    brokers: Vec<Target>,
    begin: Vec<usize>,
}

impl Route {
    pub(super) fn new(brokers: &[Broker]) -> Self {
        let alone = brokers.len() == 1;
        let brokers: Vec<_> = brokers
            .iter()
            .map(|broker| Target::of(broker, alone))
            .collect();
        Self {
            begin: vec![0; brokers.len()],
            brokers,
        }
    }

    pub(super) fn brokers(&self) -> &[Target] {
        &self.brokers
    }

    /// The addresses of a broker in the order of this attempt: each begins one further on, so that
    /// an address that takes the connection and then does nothing is not the first every time.
    pub(super) fn order(&mut self, broker: usize, mut addresses: Vec<Target>) -> Vec<Target> {
        if let Some(begin) = self.begin.get_mut(broker) {
            let by = *begin % addresses.len().max(1);
            addresses.rotate_left(by);
            *begin = begin.wrapping_add(1);
        }
        addresses
    }

    /// A connection to this address was a good one: the next attempt begins there again.
    pub(super) fn stay(&mut self, broker: usize) {
        if let Some(begin) = self.begin.get_mut(broker) {
            *begin = begin.wrapping_sub(1);
        }
    }
}

/// When the first choice is worth leaving another broker for.
#[derive(Debug)]
pub(super) struct Returns {
    after: Duration,
    wait: Duration,
    /// The connection is to another than the first choice.
    away: bool,
    /// Another was left for the first choice, and it is not known yet whether that was right.
    trying: bool,
}

impl Returns {
    /// No wait is longer, unless the setting is.
    const LONGEST: Duration = Duration::from_secs(3600);

    pub(super) fn new(after: Duration) -> Self {
        Self {
            after,
            wait: after,
            away: false,
            trying: false,
        }
    }

    /// A broker has agreed, by its place in the list. One that answers by TCP and TLS may still
    /// refuse: each return in vain makes the next wait twice as long.
    pub(super) fn connected(&mut self, place: usize) {
        self.away = place > 0;
        if !self.away {
            self.wait = self.after;
        } else if self.trying {
            self.wait = (self.wait * 2).min(Self::LONGEST.max(self.after));
        }
        self.trying = false;
    }

    /// Another was left for the first choice.
    pub(super) fn left(&mut self) {
        self.trying = true;
    }

    /// How long the first choice must have answered; `None`: it is the one.
    pub(super) fn wait(&self) -> Option<Duration> {
        self.away.then_some(self.wait)
    }
}

/// How long a broker that says it does not know MQTT 5 is not asked again.
const SAID: Duration = Duration::from_secs(24 * 3600);

/// The same for one that only hung up: it may have been something else.
const GUESSED: Duration = Duration::from_secs(3600);

/// Hang-ups on a CONNECT of MQTT 5, one after the other, before 3.1.1 is tried. A broker that
/// crashes or restarts during one is not there, or answers, at the next.
const HANG_UPS: u8 = 2;

/// Addresses that are remembered. More than a list of names has.
const REMEMBERED: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It has spoken MQTT 5.
    Five,
    /// It speaks 3.1.1 only, as far as is known, until then.
    Old { until: Instant },
}

/// Which version each address speaks, for this run of the hub.
#[derive(Debug)]
pub(super) struct Versions {
    setting: MqttVersion,
    known: HashMap<(String, u16, Option<SocketAddr>), Known>,
}

/// The versions that one attempt tries at one address.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) version: Version,
    hang_ups: u8,
    /// Why 3.1.1 is tried.
    refused: bool,
}

impl Versions {
    pub(super) fn new(setting: MqttVersion) -> Self {
        Self {
            setting,
            known: HashMap::new(),
        }
    }

    fn key(target: &Target) -> (String, u16, Option<SocketAddr>) {
        (target.host.clone(), target.port, target.address)
    }

    /// The first version to try.
    pub(super) fn begin(&self, target: &Target, now: Instant) -> Trial {
        let version = match self.setting {
            MqttVersion::V5 => Version::V5,
            MqttVersion::V311 => Version::V311,
            MqttVersion::Auto => match self.known.get(&Self::key(target)) {
                Some(Known::Old { until }) if now < *until => Version::V311,
                _ => Version::V5,
            },
        };
        Trial {
            version,
            hang_ups: 0,
            refused: false,
        }
    }

    /// After an attempt that failed: whether another one follows at once.
    pub(super) fn failed(&mut self, trial: &mut Trial, target: &Target, verdict: Verdict) -> bool {
        if self.setting != MqttVersion::Auto {
            return false;
        }
        let key = Self::key(target);
        match (trial.version, verdict) {
            (Version::V5, Verdict::Unsupported) => {
                trial.refused = true;
                trial.version = Version::V311;
                true
            }
            (Version::V5, Verdict::HungUp) if self.known.get(&key) != Some(&Known::Five) => {
                trial.hang_ups += 1;
                if trial.hang_ups >= HANG_UPS {
                    trial.version = Version::V311;
                }
                true
            }
            // It was 3.1.1 alone, and is another broker now.
            (Version::V311, Verdict::Unsupported) if !trial.refused && trial.hang_ups == 0 => {
                self.known.remove(&key);
                trial.refused = true;
                trial.version = Version::V5;
                true
            }
            _ => false,
        }
    }

    /// The broker has agreed.
    pub(super) fn agreed(&mut self, trial: &Trial, target: &Target, now: Instant) {
        if self.setting != MqttVersion::Auto {
            return;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let key = Self::key(target);
        match trial.version {
            Version::V5 => _ = self.known.insert(key, Known::Five),
            Version::V311 if trial.refused || trial.hang_ups > 0 => {
                let time = if trial.refused { SAID } else { GUESSED };
                self.known.insert(key, Known::Old { until: now + time });
            }
            Version::V311 => {}
        }
    }

    /// When a connection of 3.1.1 is to be left for a try with 5; `None`: it is not.
    pub(super) fn again(&self, target: &Target) -> Option<Instant> {
        match self.known.get(&Self::key(target)) {
            Some(Known::Old { until }) if self.setting == MqttVersion::Auto => Some(*until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> Target {
        Target {
            host: "h".into(),
            port,
            tls: None,
            address: None,
            alone: true,
        }
    }

    #[tokio::test]
    async fn a_broker_that_says_no_to_5_is_spoken_to_in_3_1_1_for_a_day() {
        let (mut versions, now) = (Versions::new(MqttVersion::Auto), Instant::now());
        let mut trial = versions.begin(&target(1), now);
        assert_eq!(trial.version, Version::V5);
        assert!(versions.failed(&mut trial, &target(1), Verdict::Unsupported));
        assert_eq!(trial.version, Version::V311);
        versions.agreed(&trial, &target(1), now);
        assert_eq!(
            versions.begin(&target(1), now + SAID / 2).version,
            Version::V311
        );
        assert_eq!(versions.begin(&target(1), now + SAID).version, Version::V5);
        assert_eq!(versions.again(&target(1)), Some(now + SAID));
        assert_eq!(versions.begin(&target(2), now).version, Version::V5);
    }

    #[tokio::test]
    async fn a_crash_during_one_connect_does_not_cost_a_day() {
        let (mut versions, now) = (Versions::new(MqttVersion::Auto), Instant::now());
        // The broker is back at the second try.
        let mut trial = versions.begin(&target(1), now);
        assert!(versions.failed(&mut trial, &target(1), Verdict::HungUp));
        assert_eq!(trial.version, Version::V5);
        versions.agreed(&trial, &target(1), now);
        // From now on a hang-up says nothing about the version.
        let mut trial = versions.begin(&target(1), now);
        assert!(!versions.failed(&mut trial, &target(1), Verdict::HungUp));
        // Or it is not back: the failure is that nobody answers.
        let mut trial = versions.begin(&target(2), now);
        assert!(versions.failed(&mut trial, &target(2), Verdict::HungUp));
        assert!(!versions.failed(&mut trial, &target(2), Verdict::Open));
        assert_eq!(versions.begin(&target(2), now).version, Version::V5);
    }

    #[tokio::test]
    async fn one_that_hangs_up_on_5_twice_and_takes_3_1_1_is_asked_again_after_an_hour() {
        let (mut versions, now) = (Versions::new(MqttVersion::Auto), Instant::now());
        let mut trial = versions.begin(&target(1), now);
        for expected in [Version::V5, Version::V311] {
            assert!(versions.failed(&mut trial, &target(1), Verdict::HungUp));
            assert_eq!(trial.version, expected);
        }
        assert!(!versions.failed(&mut trial, &target(1), Verdict::HungUp));
        versions.agreed(&trial, &target(1), now);
        assert_eq!(versions.begin(&target(1), now).version, Version::V311);
        assert_eq!(
            versions.begin(&target(1), now + GUESSED).version,
            Version::V5
        );
    }

    #[tokio::test]
    async fn a_version_that_is_set_is_the_only_one() {
        for (setting, version) in [
            (MqttVersion::V5, Version::V5),
            (MqttVersion::V311, Version::V311),
        ] {
            let mut versions = Versions::new(setting);
            let mut trial = versions.begin(&target(1), Instant::now());
            assert_eq!(trial.version, version);
            for verdict in [Verdict::Unsupported, Verdict::HungUp, Verdict::Open] {
                assert!(!versions.failed(&mut trial, &target(1), verdict));
            }
        }
    }

    #[test]
    fn returns_in_vain_become_rare() {
        let mut returns = Returns::new(Duration::from_secs(300));
        returns.connected(0);
        assert_eq!(returns.wait(), None);
        let mut waits = Vec::new();
        for _ in 0..6 {
            returns.connected(1);
            waits.push(returns.wait().map_or(0, |wait| wait.as_secs()));
            returns.left();
        }
        assert_eq!(waits, [300, 600, 1200, 2400, 3600, 3600]);
        returns.connected(0);
        returns.connected(1);
        assert_eq!(returns.wait(), Some(Duration::from_secs(300)));
    }

    #[test]
    fn each_attempt_begins_at_the_next_address_unless_the_last_was_good() {
        let broker = Broker {
            host: "h".into(),
            port: 1,
            tls: None,
        };
        let mut route = Route::new(&[broker]);
        let all = vec![target(1), target(2), target(3)];
        let first = |route: &mut Route| route.order(0, all.clone())[0].port;
        assert_eq!([(); 4].map(|()| first(&mut route)), [1, 2, 3, 1]);
        route.stay(0);
        assert_eq!(first(&mut route), 1);
    }
}
