//! The wiring.

use crate::config::Config;

/// Runs the hub until it is asked to stop.
///
/// # Errors
///
/// What ended it early.
#[expect(clippy::unused_async, reason = "the rooms are not wired yet")]
pub async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(hub = config.hub.id, "started");
    Ok(())
}
