//! What a seed decides before its history begins.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{self, DrainOrder, Format, Overflow, SpoolWrite};
use crate::intake::group_commit::HOLD_BACK;
use crate::intake::lanes;
use crate::reading::Topic;
use crate::spool::simulated::chance::Chance;

/// Where the spool is on the simulated disk.
pub(super) const SPOOL: &str = "/spool";

/// What goes wrong at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// The process is killed, at once or at a later operation of the disk.
    Kill { after: u64 },
    /// The power goes, at once or at a later operation of the disk.
    PowerCut { after: u64 },
    /// An orderly stop and a new start.
    Restart,
    /// The network to the broker is away for so many ms.
    LinkDown { ms: u64 },
    /// The broker closes its connections and refuses new ones for so many ms.
    BrokerDown { ms: u64 },
    /// It takes everything and answers nothing for so many ms.
    BrokerHangs { ms: u64 },
    /// It takes so many ms for one publish, for that long.
    BrokerSlow { each: u64, ms: u64 },
    /// It refuses this topic of one device or of all, with a reason code, for so many ms;
    /// `u64::MAX`: for ever.
    Refuses {
        device: Option<usize>,
        topic: Topic,
        code: u8,
        ms: u64,
    },
    /// The next batch of this device makes the broker hang up whenever it comes.
    Poison { device: usize },
    /// So many of a thousand writes and syncs fail for so many ms.
    DiskFails { permille: u64, ms: u64 },
    /// So many of a thousand reads fail for so many ms.
    DiskUnreadable { permille: u64, ms: u64 },
    /// Nothing can be written for so many ms.
    DiskReadOnly { ms: u64 },
    /// Others fill the disk for so many ms.
    DiskFull { ms: u64 },
    /// The next command to the disk takes so long.
    DiskStalls { ms: u64 },
    /// A stored byte changes.
    Damage { which: u64, at: u64 },
    /// The wall clock steps by so many s.
    ClockStep { s: i64 },
    /// A device loses its connection.
    DeviceGone { device: usize },
    /// A device loses its memory and begins a new stream.
    DeviceReset { device: usize },
    /// A device sends so many batches at once.
    Burst { device: usize, batches: u64 },
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) spool: config::Spool,
    pub(super) uplink: config::Uplink,
    pub(super) lanes: lanes::Settings,
    /// For each device, the mean of the ms between two batches.
    pub(super) intervals: Vec<u64>,
    /// For each device, the largest padding of a batch in bytes.
    pub(super) padding: Vec<u64>,
    /// Batches that a device has on the way.
    pub(super) window: usize,
    /// ms that the broker takes for one publish when it is well.
    pub(super) service: u64,
    /// The same after the end of the faults.
    pub(super) service_in_the_end: u64,
    /// Bytes of the disk.
    pub(super) capacity: u64,
    /// Some devices fill a spool and a disk with room for the fair overflow.
    pub(super) unequal: bool,
    pub(super) strict_entries: bool,
    pub(super) checked_log: bool,
    /// Faults and when they come, in ms, ascending.
    pub(super) faults: Vec<(u64, Fault)>,
    /// When the last of them is over.
    pub(super) healed: u64,
    /// When devices stop sending.
    pub(super) quiet: u64,
}

impl Plan {
    pub(super) fn new(chance: &mut Chance) -> Self {
        let always = chance.permille(150);
        let in_order = chance.permille(150);
        let refuse = chance.permille(200);
        let small = chance.permille(400);
        // One or two devices fill a spool that is large enough for the fair overflow.
        let unequal = chance.permille(25);
        let refuse = refuse && !unequal;
        let devices = chance.range(if unequal { 3 } else { 1 }, 5) as usize;
        let spool = config::Spool {
            path: PathBuf::from(SPOOL),
            write: if always {
                SpoolWrite::Always
            } else {
                SpoolWrite::Outage
            },
            max_size: if unequal {
                chance.range(4 << 20, 5 << 20)
            } else if small {
                chance.range(300, 700) * 1024
            } else {
                64 << 20
            },
            min_free: 64 * 1024,
            max_age: Duration::from_secs(if chance.permille(100) {
                60
            } else {
                30 * 86_400
            }),
            commit_interval: Duration::ZERO,
            overflow: if refuse {
                Overflow::Refuse
            } else {
                Overflow::DropOldest
            },
        };
        let inflight = chance.pick(&[1, 2, 4, 8, 16, 100]);
        let ack_timeout = Duration::from_secs(chance.pick(&[2, 5, 10]));
        let uplink = config::Uplink {
            brokers: vec![config::Broker {
                host: "simulated".into(),
                port: 1883,
                tls: None,
            }],
            version: config::MqttVersion::V5,
            return_after: Duration::from_secs(300),
            max_payload: 1 << 20,
            client_id: "sim".into(),
            username: None,
            password_file: None,
            prefix: "t".into(),
            format: Format::Json,
            drain: if in_order {
                DrainOrder::InOrder
            } else {
                DrainOrder::LiveFirst
            },
            inflight,
            ack_timeout,
            keep_alive: Duration::from_secs(30),
            pack: 0,
            pack_delay: Duration::from_secs(1),
            topic_dots: config::TopicDots::Keep,
        };
        let tiny = chance.permille(200);
        let lanes = lanes::Settings {
            write_always: always,
            in_order,
            refuse,
            window: usize::from(inflight),
            pack: 0,
            pack_delay: Duration::ZERO,
            // The largest of `window` below.
            device_window: 32,
            ack_timeout,
            max_age: spool.max_age,
            live_batches: if tiny {
                8
            } else {
                lanes::Settings::LIVE_BATCHES
            },
            live_bytes: lanes::Settings::LIVE_BYTES,
            hold_back: if chance.permille(500) {
                HOLD_BACK
            } else {
                Duration::ZERO
            },
            held_bytes: if tiny {
                64 * 1024
            } else {
                lanes::Settings::HELD_BYTES
            },
            commit_interval: Duration::ZERO,
        };
        let loud = if unequal {
            chance.range(1, 2) as usize
        } else {
            0
        };
        let intervals = (0..devices)
            .map(|device| match device < loud {
                true => 200,
                false => chance.pick(&[200, 1_000, 3_000, 10_000]),
            })
            .collect();
        let padding = (0..devices)
            .map(|device| {
                if device < loud {
                    60_000
                } else if unequal {
                    chance.pick(&[100, 1_000])
                } else if small {
                    chance.pick(&[100, 4_000, 12_000])
                } else {
                    chance.pick(&[10, 100, 1_000])
                }
            })
            .collect();
        let active = chance.range(6_000, 45_000);
        let count = chance.below(8);
        let damages = chance.permille(80);
        let mut faults: Vec<_> = (0..count)
            .map(|_| {
                let at = chance.range(500, active);
                (at, fault(chance, devices, damages))
            })
            .collect();
        if unequal {
            let ms = chance.range(25_000, 40_000);
            faults.push((2_000, Fault::LinkDown { ms }));
        }
        faults.sort_by_key(|(at, _)| *at);
        let over = faults.iter().map(|(at, fault)| at + fault.lasts()).max();
        let healed = over.unwrap_or(0).max(active);
        let quiet = healed + chance.range(4_000, 12_000);
        let window = chance.pick(&[2, 8, 32]);
        let service = chance.pick(&[1, 5, 20]);
        let service_in_the_end = chance.pick(&[1, 20, 150]);
        let capacity = if !unequal && chance.permille(200) {
            chance.range(700, 1500) * 1024
        } else {
            1 << 40
        };
        let strict_entries = chance.coin();
        let checked_log = chance.coin();
        // Drawn last: a seed without it plays as it did before there was one.
        let commit_interval = Duration::from_secs(chance.pick(&[0, 0, 0, 0, 1, 5]));
        let commit_interval = commit_interval.min(ack_timeout);
        let spool = config::Spool {
            commit_interval,
            ..spool
        };
        let lanes = lanes::Settings {
            commit_interval,
            device_window: window,
            ..lanes
        };
        Self {
            spool,
            uplink,
            lanes,
            intervals,
            padding,
            window,
            service,
            service_in_the_end,
            capacity,
            unequal,
            strict_entries,
            checked_log,
            faults,
            healed,
            quiet,
        }
    }
}

impl Plan {
    /// In some histories the broker refuses topics, for a while; for ever where age makes an end
    /// of it.
    pub(super) fn add_refusals(&mut self, chance: &mut Chance) {
        if !chance.permille(400) {
            return;
        }
        let devices = self.intervals.len();
        for _ in 0..chance.range(1, 4) {
            let topic = chance.pick(&[
                Topic::Data,
                Topic::Data,
                Topic::History,
                Topic::Gap,
                Topic::Result,
                Topic::Response,
            ]);
            let at = chance.range(0, self.healed);
            let ends = self.lanes.max_age < Duration::from_secs(3_600);
            let ms = if ends && topic != Topic::Gap && chance.permille(300) {
                u64::MAX
            } else {
                chance.pick(&[1_000, 10_000, 40_000])
            };
            let device = (!chance.permille(250)).then(|| chance.below(devices));
            let code = chance.pick(&[0x80, 0x87, 0x97, 0x99]);
            let fault = Fault::Refuses {
                device,
                topic,
                code,
                ms,
            };
            self.faults.push((at, fault));
            if ms < u64::MAX {
                let over = at + ms;
                self.quiet += over.saturating_sub(self.healed);
                self.healed = self.healed.max(over);
            }
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

fn fault(chance: &mut Chance, devices: usize, damages: bool) -> Fault {
    let after = if chance.coin() {
        0
    } else {
        chance.range(1, 60)
    };
    let ms = chance.pick(&[300, 2_000, 8_000, 20_000]) + chance.range(0, 2_000);
    let device = chance.below(devices);
    let permille = chance.pick(&[20, 200, 1000]);
    match chance.below(if damages { 20 } else { 18 }) {
        0 | 1 => Fault::Kill { after },
        2 | 3 => Fault::PowerCut { after },
        4 => Fault::Restart,
        5 | 6 => Fault::LinkDown { ms },
        7 => Fault::BrokerDown { ms },
        8 => Fault::BrokerHangs { ms },
        9 => Fault::BrokerSlow {
            each: chance.pick(&[100, 700, 3_000]),
            ms,
        },
        10 => match chance.below(3) {
            0 => Fault::Poison { device },
            1 => Fault::ClockStep {
                s: chance.pick(&[-1_000_000, -50, 50, 90, 1_000_000]),
            },
            _ => Fault::DeviceReset { device },
        },
        11 => Fault::DiskFails { permille, ms },
        12 => Fault::DiskUnreadable { permille, ms },
        13 => Fault::DiskReadOnly { ms },
        14 => Fault::DiskFull { ms },
        15 => Fault::DiskStalls { ms },
        16 => Fault::DeviceGone { device },
        17 => Fault::Burst {
            device,
            batches: chance.range(2, 40),
        },
        _ => Fault::Damage {
            which: chance.next(),
            at: chance.range(0, 1000),
        },
    }
}

impl Fault {
    fn lasts(self) -> u64 {
        match self {
            Self::LinkDown { ms }
            | Self::BrokerDown { ms }
            | Self::BrokerHangs { ms }
            | Self::BrokerSlow { ms, .. }
            | Self::Refuses { ms, .. }
            | Self::DiskFails { ms, .. }
            | Self::DiskUnreadable { ms, .. }
            | Self::DiskReadOnly { ms }
            | Self::DiskFull { ms }
            | Self::DiskStalls { ms } => ms,
            _ => 0,
        }
    }
}
