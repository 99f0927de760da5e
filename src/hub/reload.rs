//! SIGHUP: what of the configuration can change while the hub runs.

use std::path::PathBuf;

use crate::config::{self, Config};
use crate::log;

/// The configuration that the hub runs with, and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Reload {
    file: PathBuf,
    started: Config,
}

impl Reload {
    pub(super) fn new(file: PathBuf, started: Config) -> Self {
        Self { file, started }
    }

    /// Reads the file and follows it as far as that is possible: the log level. What else is
    /// different from what the hub was started with is named. Blocks.
    pub(super) fn read(&self) {
        let config = match config::load(&self.file) {
            Ok(checked) => checked.config,
            Err(errors) => {
                for problem in &errors.0 {
                    tracing::error!(
                        file = problem.file,
                        line = problem.line,
                        key = problem.key,
                        "{}",
                        problem.text
                    );
                }
                let file = self.file.display();
                tracing::error!(%file, "the configuration has errors; what was read before stays in force");
                return;
            }
        };
        // What there is to say about it is said at the louder of the two levels.
        log::set_level(config.log.level.max(log::level()));
        let changed = config::changes(&self.started, &config);
        let restart: Vec<_> = changed.iter().filter(|key| *key != "log.level").collect();
        if restart.is_empty() {
            tracing::info!(file = %self.file.display(), "configuration read again");
        } else {
            let keys = restart.iter().map(|key| key.as_str()).collect::<Vec<_>>();
            tracing::warn!(
                keys = keys.join(", "),
                "the configuration has changes that need a restart"
            );
        }
        log::set_level(config.log.level);
    }
}
