//! The demo: a broker, a link that can be cut, a hub, and three devices, in one command.

mod broker;
mod hub;
mod ledger;
mod uplink;
mod view;

use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::args;
use crate::client::{self, Full, Options, Outcome, Rng, Source, Stats, Stop, Stopper};
use crate::progress::ranges;
use crate::sensors::interrupt;
use crate::sensors::machine::Machine;
use crate::sensors::thermometer::Thermometer;
use crate::sensors::vibration::Vibration;
use crate::wire::Encoding;
use hub::{Hub, Ports};
use ledger::Ledger;
use view::{Keys, Scene, View};

/// Time for all that was acked to arrive once nothing new is sent: a hub that has just lost its
/// link may wait a minute before it tries again.
const SETTLE: Duration = Duration::from_secs(90);
/// Unacked batches that a device of the demo keeps.
const KEEP: usize = 1000;

/// What to show.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Cut and restore the link without a key pressed, then check that all that was acked arrived
    #[arg(long)]
    script: bool,
    /// With --script: how long the link is whole, and then cut
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = args::duration)]
    phase: Duration,
}

/// Runs the demo.
///
/// # Errors
/// When a part of it does not start or does not stop.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let code = runtime.block_on(show(args));
    // The thread that reads keys may be waiting for one still.
    runtime.shutdown_background();
    code
}

async fn show(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let binary = hub::binary().await?;
    let directory = Directory::new()?;
    let [broker_port, devices, admin] = free_ports()?;
    let broker = broker::start(broker_port)?;
    let link = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("the link")?;
    let uplink = link.local_addr().context("the link")?.port();
    let (switch, intact) = watch::channel(true);
    tokio::spawn(uplink::relay(link, broker, intact));
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    tokio::spawn(broker::listen(broker, ledger.clone()));
    while !lock(&ledger).listening {
        sleep(Duration::from_millis(20)).await;
    }
    let page = format!("http://127.0.0.1:{admin}/");
    println!("broker on {broker}; hub for devices on 127.0.0.1:{devices}; its page is {page}");
    let ports = Ports {
        devices,
        admin,
        uplink,
    };
    let hub = hub::start(&binary, &directory.path, ports).await?;
    let mut demo = Demo {
        hub,
        switch,
        ledger,
        page,
        started: Instant::now(),
        most_spooled: 0,
        backlog: 0,
    };
    let (stopper, stop) = Stopper::new();
    let devices = demo.devices(devices, &stop);
    let played = demo.play(&args).await?;
    stopper.stop();
    // What was cut is restored, or what was acked could not arrive.
    demo.switch.send_replace(true);
    println!("waiting for what is on its way; Ctrl-C leaves at once");
    let (outcomes, settled) = tokio::select! {
        end = demo.end(devices) => end?,
        // The hub ends with its handle.
        () = interrupt() => bail!("left before everything was accounted for"),
    };
    let well = demo.summary(&outcomes, args.script && played, settled);
    demo.hub.stop().await?;
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Demo {
    hub: Hub,
    switch: watch::Sender<bool>,
    ledger: Arc<Mutex<Ledger>>,
    /// Where the dashboard is.
    page: String,
    started: Instant,
    most_spooled: u64,
    /// The most batches in the spool since it was empty.
    backlog: u64,
}

/// What the script does next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Connect,
    Live { until: Instant },
    Cut { until: Instant },
    Drain { until: Instant },
}

impl Demo {
    fn devices(&self, port: u16, stop: &Stop) -> Vec<Device> {
        let start = |id: &str, second: u64| -> (Options, Rng) {
            let options = Options {
                hub: format!("ws://127.0.0.1:{port}"),
                others: Vec::new(),
                tls: None,
                id: id.to_owned(),
                token: None,
                encoding: Encoding::Cbor,
                keep: KEEP,
                full: Full::DropOldest,
                window: None,
                model: "demo",
                drain: Duration::from_secs(20),
                no_clock: false,
            };
            (options, Rng::seeded(second))
        };
        let (machine, _) = start("machine", 0);
        let (thermometer, warm) = start("thermometer", 1);
        let (vibration, shaky) = start("vibration", 2);
        let second = Duration::from_secs(1);
        vec![
            Device::start(machine, Machine::new("machine", second), stop),
            Device::start(
                thermometer,
                Thermometer::new("thermometer", second / 4, warm),
                stop,
            ),
            Device::start(
                vibration,
                Vibration::new("vibration", second, 300, 1000.0, shaky),
                stop,
            ),
        ]
    }

    /// Until the person quits or the script is over; `true`: the script ran to its end.
    async fn play(&mut self, args: &DemoArgs) -> anyhow::Result<bool> {
        let view = View::new(args.script);
        let mut keys = Keys::new();
        let mut interrupted = pin!(interrupt());
        let mut draw = interval(view.period());
        draw.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = Step::Connect;
        loop {
            tokio::select! {
                key = keys.next(), if !args.script => match key {
                    b'u' => self.switch.send_modify(|intact| *intact = !*intact),
                    b'q' => return Ok(false),
                    _ => {}
                },
                () = &mut interrupted => return Ok(false),
                _ = draw.tick() => {
                    if !self.hub.is_running() {
                        bail!("the hub has ended by itself:\n{}", self.hub.log_tail());
                    }
                    let status = self.hub.status().await;
                    let spooled = status.as_ref().map_or(0, spooled);
                    self.most_spooled = self.most_spooled.max(spooled);
                    self.backlog = if spooled == 0 { 0 } else { self.backlog.max(spooled) };
                    view.draw(&Scene {
                        elapsed: self.started.elapsed(),
                        intact: *self.switch.borrow(),
                        status: status.as_ref(),
                        page: &self.page,
                        backlog: self.backlog,
                        ledger: &self.ledger,
                    });
                    if args.script {
                        match self.next(step, args.phase, status.as_ref()) {
                            Some(next) => step = next,
                            None => return Ok(true),
                        }
                    }
                }
            }
        }
    }

    /// The script's next step; `None` at its end.
    fn next(&self, step: Step, phase: Duration, status: Option<&Value>) -> Option<Step> {
        let now = Instant::now();
        match step {
            Step::Connect
                if lock(&self.ledger).devices.values().all(|d| d.data > 0)
                    && lock(&self.ledger).devices.len() >= 3 =>
            {
                println!("         all devices are heard");
                Some(Step::Live { until: now + phase })
            }
            Step::Live { until } if now >= until => {
                println!("         the link is cut");
                self.switch.send_replace(false);
                Some(Step::Cut { until: now + phase })
            }
            Step::Cut { until } if now >= until => {
                println!("         the link is restored");
                self.switch.send_replace(true);
                Some(Step::Drain {
                    until: now + SETTLE,
                })
            }
            Step::Drain { until } => {
                let drained = status.is_some_and(|status| {
                    status["uplink"]["state"] == "connected" && spooled(status) == 0
                });
                (!drained && now < until).then_some(step)
            }
            step => Some(step),
        }
    }

    /// Lets the devices end, and waits until everything acked has arrived.
    async fn end(&self, devices: Vec<Device>) -> anyhow::Result<(Vec<Ended>, bool)> {
        let mut outcomes = Vec::new();
        for device in devices {
            outcomes.push(device.finish().await?);
        }
        let settled = self.settle(&outcomes).await;
        Ok((outcomes, settled))
    }

    /// Waits until everything acked has arrived; `false` when it does not.
    async fn settle(&self, outcomes: &[Ended]) -> bool {
        let deadline = Instant::now() + SETTLE;
        loop {
            let all = outcomes.iter().all(|(id, outcome, _)| {
                let ledger = lock(&self.ledger);
                let device = ledger.devices.get(id);
                device
                    .is_some_and(|device| device.missing(&outcome.stream, outcome.acked).is_empty())
            });
            if all || Instant::now() > deadline {
                return all;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Prints what became of everything; `true` when all is as it should be.
    fn summary(&self, outcomes: &[Ended], script: bool, settled: bool) -> bool {
        let ledger = lock(&self.ledger);
        let mut well = settled && ledger.unreadable == 0;
        let mut history = 0;
        println!();
        for (id, outcome, stats) in outcomes {
            let none = ledger::Arrived::default();
            let arrived = ledger.devices.get(id).unwrap_or(&none);
            let missing = arrived.missing(&outcome.stream, outcome.acked);
            let (batches, readings) = (
                stats.acked.load(Relaxed),
                stats.acked_readings.load(Relaxed),
            );
            println!(
                "{id}: {batches} batches with {readings} readings acked; arrived: {} data, {} \
                 history, {} twice, {} in gaps, {} readings",
                arrived.data, arrived.history, arrived.twice, arrived.gaps, arrived.readings,
            );
            history += arrived.history;
            if !missing.is_empty() {
                println!("{id}: MISSING {}", ranges(&missing));
            }
            if !outcome.unacked.is_empty() {
                println!("{id}: never acked {}", ranges(&outcome.unacked));
            }
            if let Some(fatal) = &outcome.fatal {
                println!("{id}: {fatal}");
            }
            let (notes, _) = stats.take_notes();
            for note in notes {
                println!("{note}");
            }
            well &= missing.is_empty()
                && outcome.unacked.is_empty()
                && outcome.fatal.is_none()
                && stats.violations.load(Relaxed) + stats.rejected.load(Relaxed) == 0
                && arrived.gaps == 0
                && arrived.readings == readings;
        }
        if outcomes
            .iter()
            .any(|(id, ..)| ledger.devices.get(id).is_some_and(|d| d.twice > 0))
        {
            println!(
                "twice: a cut swallowed the broker's answer, so the hub sent it again; stream and number \
                 tell a consumer"
            );
        }
        println!("at most {} batches in the spool", self.most_spooled);
        if ledger.unreadable > 0 {
            println!("{} messages could not be read", ledger.unreadable);
        }
        if script && history == 0 {
            println!("nothing went through the spool, although the link was cut");
            well = false;
        }
        println!(
            "{}",
            if well {
                "every batch acked has arrived"
            } else {
                "NOT everything is accounted for"
            }
        );
        well
    }
}

/// Batches in the spool, from `/api/status`.
fn spooled(status: &Value) -> u64 {
    status["spool"]["batches"].as_u64().unwrap_or(0)
}

/// A device that has ended: its id, how, and what it counted.
type Ended = (String, Outcome, Arc<Stats>);

struct Device {
    id: String,
    stats: Arc<Stats>,
    task: JoinHandle<Outcome>,
}

impl Device {
    fn start<S: Source + 'static>(options: Options, source: S, stop: &Stop) -> Self {
        let stats = Arc::new(Stats::default());
        Self {
            id: options.id.clone(),
            stats: stats.clone(),
            task: tokio::spawn(client::run(options, source, stats, stop.clone(), None)),
        }
    }

    async fn finish(self) -> anyhow::Result<Ended> {
        let outcome = self.task.await.context("a device has failed")?;
        Ok((self.id, outcome, self.stats))
    }
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ports that nobody listens on; all are held until all are found, so that they differ.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        *port = listener.local_addr().context("no free port")?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// A place for the hub's files, removed at the end.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new() -> anyhow::Result<Self> {
        let name = format!(
            "telehub-demo-{}-{:08x}",
            std::process::id(),
            Rng::fresh().bits() as u32
        );
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
