//! Devices that misbehave, to see that a hub holds its own against them.
//!
//! They speak raw TCP and write their frames by hand. Whatever they do, they do for a bounded
//! time and from a bounded number of connections: they are for a hub of one's own.

mod frame;
mod junk;
mod liar;
mod link;
mod loud;
mod quiet;
mod tally;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use crate::args::{self, at_least_one};
use crate::client::Rng;
use crate::swarm::parse_tokens;
use crate::wire::senml::{Pack, Record};
use crate::wire::{Encoding, message};
use link::Rogue;
use tally::Tally;

/// A rogue whose time is up gets this long to look at what the hub did.
const LOOK: Duration = Duration::from_secs(2);

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Connects and never answers a ping
    Silent,
    /// Connects, and then neither sends nor reads
    HalfOpen,
    /// Sends batches, pings or tiny fragments as fast as the hub takes them
    Flood,
    /// Sends noise instead of HTTP, of frames, of messages
    Garbage,
    /// Sends its request, or a frame, one byte at a time
    SlowLoris,
    /// Connects and leaves in a tight loop
    Flapping,
    /// Sends sequence numbers backwards, far ahead, twice; answers commands that others were asked, or
    /// nobody, late, twice, and with nonsense
    Liar,
    /// Sends deep nesting, huge lengths, messages that grow
    Bomb,
    /// Tries wrong tokens
    Thief,
    /// Asks for answers and never reads them
    Hoarder,
}

/// Rogue devices.
#[derive(Debug, Clone, clap::Args)]
pub struct RogueArgs {
    /// What is wrong with them
    #[arg(value_enum)]
    kind: Kind,
    /// The hub
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:8787")]
    hub: String,
    /// How many at once; their ids are KIND-0, KIND-1, …
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: usize,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = args::duration)]
    duration: Duration,
    /// The same seed makes the same choices [default: random, and named in the report]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The address that they come from
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// A file with a line `ID TOKEN` for every device
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Print the report as one JSON object
    #[arg(long)]
    report_json: bool,
}

/// Runs them and prints what the hub did about them.
///
/// # Errors
/// When an option makes no sense or there is no runtime.
pub fn run(args: &RogueArgs) -> anyhow::Result<ExitCode> {
    at_least_one(args.count, "--count")?;
    let hub = address(&args.hub)?;
    let mut tokens = match &args.tokens {
        Some(file) => parse_tokens(&args::read(file)?).context("--tokens")?,
        None => std::collections::HashMap::new(),
    };
    let seed = args.seed.unwrap_or_else(|| Rng::fresh().bits());
    let name = args
        .kind
        .to_possible_value()
        .map_or(String::new(), |kind| kind.get_name().into());
    let tally = Arc::new(Mutex::new(Tally::default()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let mut rng = Rng::seeded(seed);
    runtime.block_on(async {
        let mut rogues = JoinSet::new();
        for index in 0..args.count {
            let id = format!("{name}-{index}");
            let rogue = Rogue {
                hub,
                from: args.from,
                token: tokens.remove(&id),
                id,
                rng: Rng::seeded(rng.bits()),
                until: Instant::now() + args.duration,
                tally: tally.clone(),
            };
            rogues.spawn(live(args.kind, rogue));
        }
        while rogues.join_next().await.is_some() {}
    });
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    if args.report_json {
        println!("{}", tally.json(json!({"kind": name, "seed": seed})));
    } else {
        println!("{name} (seed {seed}): {}", tally.text());
    }
    Ok(ExitCode::SUCCESS)
}

fn address(hub: &str) -> anyhow::Result<SocketAddr> {
    let Some(host) = hub.strip_prefix("ws://") else {
        bail!("--hub {hub}: expected ws://HOST:PORT");
    };
    let mut found = host
        .trim_end_matches('/')
        .to_socket_addrs()
        .with_context(|| format!("--hub {hub}: expected ws://HOST:PORT"))?;
    found
        .next()
        .with_context(|| format!("--hub {hub}: no such host"))
}

/// One rogue, connection after connection, until its time is up.
async fn live(kind: Kind, mut rogue: Rogue) {
    let end = rogue.until + LOOK;
    while Instant::now() < rogue.until {
        let one = async {
            match kind {
                Kind::Silent => quiet::silent(&mut rogue).await,
                Kind::HalfOpen => quiet::half_open(&mut rogue).await,
                Kind::Flood => loud::flood(&mut rogue).await,
                Kind::Garbage => junk::garbage(&mut rogue).await,
                Kind::SlowLoris => quiet::slow_loris(&mut rogue).await,
                Kind::Flapping => loud::flapping(&mut rogue).await,
                Kind::Liar => liar::liar(&mut rogue).await,
                Kind::Bomb => junk::bomb(&mut rogue).await,
                Kind::Thief => loud::thief(&mut rogue).await,
                Kind::Hoarder => quiet::hoarder(&mut rogue).await,
            }
        };
        // An error is an end that the hub, or its kernel, chose; most are counted already.
        let _ = timeout_at(end, one).await;
        sleep(Duration::from_millis(match kind {
            Kind::Flapping | Kind::Thief => 1 + rogue.below(20),
            _ => 50 + rogue.below(200),
        }))
        .await;
    }
}

/// A hello.
fn hello(encoding: Encoding, stream: &str) -> Vec<u8> {
    let hello = message::Hello {
        stream: stream.to_owned(),
        next: 1,
        clock: "unsure",
        model: "rogue",
        firmware: env!("CARGO_PKG_VERSION"),
    };
    hello.encode(encoding)
}

/// A good batch of one reading.
fn batch(encoding: Encoding, seq: u64) -> Vec<u8> {
    let mut pack = Pack::new("rogue/".into(), None);
    pack.records.push(Record::number("x", None, 1.0));
    message::data(encoding, seq, &pack)
}
