//! The request to stop, as every task sees it.

use tokio::sync::watch;

/// Asks tasks to stop. Dropping it asks too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// The task's end of a [`Stopper`].
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// A connected pair.
#[must_use]
pub fn channel() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Asks every holder of the [`Stop`] to stop. Idempotent.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once the stop has been asked for. Cancel safe.
    pub async fn requested(&mut self) {
        // An error means that the stopper is gone, which asks as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }

    /// Whether the stop has been asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
