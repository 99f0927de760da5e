//! The way to a broker: which of them, at which address, with which version of MQTT, and when to
//! leave one that works.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Settings;
use super::connection::Leave;
use super::failure::Failure;
use super::publication::Publication;
use super::reasons;
use super::route::{Returns, Route, Target, Versions};
use super::transport::{Attempt, Client, Dial};
use crate::clock;

/// Where the brokers are, and what they speak.
pub(super) struct Paths {
    pub(super) route: Route,
    versions: Versions,
    /// A broker that took nothing of what it was sent: the others are tried first.
    shunned: Option<usize>,
    /// Hosts and ports that do not take a retained will (CONNACK 0x9A).
    plain_will: HashSet<(String, u16)>,
}

impl Paths {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            route: Route::new(&settings.broker.brokers),
            versions: Versions::new(settings.broker.version),
            shunned: None,
            plain_will: HashSet::new(),
        }
    }

    /// This broker is to be tried last the next time; `None`: none is.
    pub(super) fn shun(&mut self, place: Option<usize>) {
        self.shunned = place;
    }

    /// One attempt: every address of every broker, the first choice first. Tells the place of the
    /// broker in the list.
    pub(super) async fn connect<D: Dial>(
        &mut self,
        library: &D,
        settings: &Arc<Settings>,
        client: Client<'_>,
    ) -> Result<(D::Wire, usize, Target), Failure> {
        let mut failures: Vec<Failure> = Vec::new();
        let brokers = self.route.brokers().to_vec();
        let mut brokers: Vec<_> = brokers.into_iter().enumerate().collect();
        brokers.sort_by_key(|(place, _)| Some(*place) == self.shunned);
        for (place, broker) in brokers {
            let addresses = match library.resolve(&broker).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    failures.push(failure);
                    continue;
                }
            };
            // Of several addresses the last one speaks for all.
            let mut last = None;
            for target in self.route.order(place, addresses) {
                match self.dial(library, settings, client, &target).await {
                    Ok(wire) => return Ok((wire, place, target)),
                    Err(failure) => last = Some(failure),
                }
            }
            failures.extend(last);
        }
        Err(together(failures))
    }

    /// One address, with the versions of MQTT that it may speak.
    async fn dial<D: Dial>(
        &mut self,
        library: &D,
        settings: &Arc<Settings>,
        client: Client<'_>,
        target: &Target,
    ) -> Result<D::Wire, Failure> {
        let mut trial = self.versions.begin(target, Instant::now());
        loop {
            let here = (target.host.clone(), target.port);
            let will = match client {
                // The moment of the end is not known now; it is not before this one.
                Client::Hub(publisher) => Some(publisher.hub_status("offline", clock::now())),
                Client::Writer | Client::Reader => None,
            };
            let retain = !self.plain_will.contains(&here);
            let will = will.map(|will| Publication { retain, ..will });
            let retained = will.as_ref().is_some_and(|will| will.retain);
            let attempt = Attempt {
                target: target.clone(),
                version: trial.version,
                will,
                keeps: matches!(client, Client::Reader),
            };
            match library.dial(settings, &attempt).await {
                Ok(wire) => {
                    self.versions.agreed(&trial, target, Instant::now());
                    return Ok(wire);
                }
                Err(missed)
                    if retained && missed.failure.code == Some(reasons::RETAIN_NOT_SUPPORTED) =>
                {
                    self.plain_will.insert(here);
                }
                Err(missed) => {
                    if !self.versions.failed(&mut trial, target, missed.version) {
                        return Err(missed.failure);
                    }
                    debug!(error = %missed.failure.sentence, "trying MQTT {}", trial.version.name());
                }
            }
        }
    }
}

/// Between two looks at the first choice: often enough to notice that it comes and goes.
const LOOKS: u32 = 5;

/// No longer than this between them.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Waits for a reason to leave a connection that works. Cancel safe.
pub(super) async fn reason_to_leave<D: Dial>(
    library: &D,
    settings: &Arc<Settings>,
    paths: &Paths,
    returns: &Returns,
    target: &Target,
) -> Leave {
    let again = async {
        match paths.versions.again(target) {
            Some(time) => tokio::time::sleep_until(time).await,
            None => std::future::pending().await,
        }
    };
    let back = async {
        let (Some(wait), Some(first)) = (returns.wait(), paths.route.brokers().first()) else {
            return std::future::pending().await;
        };
        let mut since = None;
        loop {
            tokio::time::sleep((wait / LOOKS).min(LONGEST_LOOK)).await;
            if !answers(library, settings, first).await {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() >= wait {
                return;
            }
        }
    };
    tokio::select! {
        () = again => Leave::Version,
        () = back => Leave::Return,
    }
}

/// Whether one of a broker's addresses answers.
async fn answers<D: Dial>(library: &D, settings: &Arc<Settings>, broker: &Target) -> bool {
    for address in library.resolve(broker).await.unwrap_or_default() {
        if library.knock(settings, &address).await {
            return true;
        }
    }
    false
}

/// What several brokers said, in one sentence.
fn together(mut failures: Vec<Failure>) -> Failure {
    if failures.len() == 1
        && let Some(only) = failures.pop()
    {
        return only;
    }
    let sentences: Vec<_> = failures.iter().map(|failure| &*failure.sentence).collect();
    Failure {
        needs_someone: failures.iter().any(|failure| failure.needs_someone),
        ..Failure::passing(sentences.join("; "))
    }
}
