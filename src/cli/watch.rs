//! `telehub status --watch`: the page again and again, until ctrl-c.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::terminal::Screen;

/// How often the hub is asked.
const EVERY: Duration = Duration::from_secs(2);

/// One look at the hub.
pub(super) struct Look {
    /// What is to be shown.
    pub(super) page: String,
    /// Whether all is well.
    pub(super) verdict: anyhow::Result<()>,
}

/// Shows what `look` returns every two seconds, on a screen of its own when stdout is a terminal,
/// and one after the other else. Ctrl-c and SIGTERM end it, with the verdict of the last look. A
/// hub that does not answer is asked again.
///
/// # Errors
///
/// The verdict; what is printed cannot be written.
pub(super) fn watch(
    look: impl Fn() -> anyhow::Result<Look> + Clone + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = super::runtime()?;
    let last = runtime.block_on(show(look));
    // A hub that does not answer must not hold up the end.
    runtime.shutdown_background();
    last?
}

async fn show(
    look: impl Fn() -> anyhow::Result<Look> + Clone + Send + 'static,
) -> anyhow::Result<anyhow::Result<()>> {
    let mut ends = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ]
    .into_iter()
    .map(|kind| signal(kind).context("cannot listen for signals"))
    .collect::<anyhow::Result<Vec<_>>>()?;
    let screen = if io::stdout().is_terminal() {
        Some(Screen::open()?)
    } else {
        None
    };
    let mut verdict = Ok(());
    loop {
        let look = look.clone();
        let asked = tokio::select! {
            asked = tokio::task::spawn_blocking(look) => asked.context("the look failed")?,
            () = any(&mut ends) => return Ok(verdict),
        };
        let page = match asked {
            Ok(look) => {
                verdict = look.verdict;
                look.page
            }
            Err(error) => {
                let page = format!("{error:#}\n");
                verdict = Err(error);
                page
            }
        };
        match &screen {
            Some(screen) => screen.show(&page)?,
            None => {
                let mut out = io::stdout().lock();
                out.write_all(page.as_bytes())?;
                out.flush()?;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = any(&mut ends) => return Ok(verdict),
        }
    }
}

/// Returns when one of the signals comes.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|cx| {
        let came = signals
            .iter_mut()
            .any(|signal| signal.poll_recv(cx).is_ready());
        if came {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
