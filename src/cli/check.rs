//! `telehub check`.

use std::io::{self, Write};

use anyhow::anyhow;
use clap::Args;
use telehub::config::{self, Checked, Config};
use telehub::spool::look::{Make, is_of_another, look};
use telehub::uplink::Settings;
use telehub::uplink::examine::{Finding, Outcome, examine};

use super::{ConfigFile, Failure, complain, load};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Connect to each broker as well, and say what it takes: every topic that the hub publishes to,
    /// retained messages, a large payload. Takes some seconds and some 300 KiB; a hub that runs keeps
    /// its connection
    #[arg(long)]
    connect: bool,
}

pub(super) fn check(arguments: &Arguments) -> Result<(), Failure> {
    let Checked { config, warnings } = load(&arguments.file.config)?;
    for warning in &warnings {
        complain(&format!("warning: {warning}"));
    }
    write!(io::stdout(), "{config}")?;
    let brokers = match arguments.connect {
        true => {
            writeln!(io::stdout())?;
            examine_brokers(&config)?
        }
        false => true,
    };
    spool(&config.spool)?;
    if brokers {
        return Ok(());
    }
    Err(anyhow!("not everything that the hub publishes would arrive: see the lines above").into())
}

// The hub starts without a spool (P8, P9), so that this is no fault of the configuration.
fn spool(spool: &config::Spool) -> Result<(), Failure> {
    let config::Spool { path, min_free, .. } = spool;
    match look(path, Some(*min_free), Make::No) {
        Err(error) if is_of_another(path) => {
            complain(&format!(
                "warning: whether the hub can use its spool cannot be seen as this user; sudo telehub \
                 check tells ({error})"
            ));
            Ok(())
        }
        Err(error) => Err(anyhow!("the spool cannot be used by this user: {error}").into()),
        Ok(()) => Ok(()),
    }
}

/// Prints what each broker says, as comments that may stand behind a configuration. Whether all is
/// well.
pub(super) fn examine_brokers(config: &Config) -> anyhow::Result<bool> {
    let runtime = super::runtime()?;
    let settings = Settings::new(config.uplink.clone(), &config.hub.id);
    let findings = runtime.block_on(examine(settings, config.commands.enabled));
    // A name look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    let mut out = io::stdout();
    for Finding {
        broker,
        outcome,
        text,
    } in &findings
    {
        let word = match outcome {
            Outcome::Good => "ok",
            Outcome::Note => "note",
            Outcome::Bad => "BAD",
        };
        writeln!(out, "# {word:<4} {broker} {text}")?;
    }
    Ok(findings.iter().all(|one| one.outcome != Outcome::Bad))
}
