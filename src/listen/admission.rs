//! Who may come, by WebSocket or by POST: the questions that both are asked.

use std::net::IpAddr;
use std::time::Duration;

use hyper::HeaderMap;
use tracing::debug;

use super::Shared;
use super::access::{Grant, Shown};
use super::attempts::Origin;
use super::gate::Gate;
use super::refusal::Refusal;
use crate::config::is_id;

/// Logs a refusal. Only what may be a device's id is repeated of the request.
pub(super) fn note(shared: &Shared, gate: &Gate, origin: Origin, refusal: Refusal, path: &str) {
    if refusal == Refusal::Stopping {
        return debug!(address = %origin, "refused while stopping");
    }
    let id = path.rsplit('/').next().filter(|id| is_id(id));
    let (loudness, reason) = (refusal.loudness(), refusal.detail());
    gate.log(loudness, origin, reason, id.unwrap_or_default());
    if let Some(id) = id {
        let remote = origin.to_string();
        shared.roster.board().devices.refused(id, reason, remote);
    }
}

/// Refuses a web page that may not be a device; it counts as an attempt without credentials.
pub(super) fn refuse_page(
    shared: &Shared,
    gate: &Gate,
    headers: &HeaderMap,
    local: Option<IpAddr>,
    origin: Origin,
) -> Result<(), Refusal> {
    let judged = shared.pages.judge(headers, local);
    judged.map_err(|refusal| match gate.failure(origin) {
        Ok(()) => refusal,
        Err(wait) => Refusal::TooManyAttempts(whole_seconds(wait)),
    })
}

/// Whether somebody may come as this device now.
pub(super) fn admit(
    shared: &Shared,
    gate: &Gate,
    device: &str,
    token: Option<&str>,
    shown: Option<&Shown>,
    origin: Origin,
) -> Result<Grant, Refusal> {
    let judged = shared.access.judge(device, token, shown);
    let grant = judged.map_err(|refusal| match gate.failure(origin) {
        Ok(()) => refusal,
        Err(wait) => Refusal::TooManyAttempts(whole_seconds(wait)),
    })?;
    if shared.stop.is_requested() {
        return Err(Refusal::Stopping);
    }
    // A device that sleeps and comes when it said that it would has no fault.
    if !shared.roster.is_on_time(device) {
        gate.entry(device)
            .map_err(|wait| Refusal::TooOften(whole_seconds(wait)))?;
    }
    Ok(grant)
}

/// `Retry-After` has whole seconds: never less than it takes.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + 1
}
