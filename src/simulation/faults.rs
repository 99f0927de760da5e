//! What a fault does to the world.

use super::plan::Fault;
use super::world::broker::Refused;
use super::world::{Ev, World};
use crate::spool::simulated::disk::Mood;
use crate::spool::simulated::medium::with_disk;

impl World {
    pub(super) fn strikes(&mut self, fault: Fault) {
        let now = self.now();
        self.stats.faults += 1;
        match fault {
            Fault::Kill { after } => self.crashes(false, after),
            Fault::PowerCut { after } => self.crashes(true, after),
            Fault::Restart => self.stops(),
            Fault::LinkDown { ms } => {
                self.broker.away_until = self.broker.away_until.max(now + ms);
                self.cut(false);
                self.lasts(ms);
            }
            Fault::BrokerDown { ms } => {
                self.broker.away_until = self.broker.away_until.max(now + ms);
                self.cut(true);
                self.lasts(ms);
            }
            Fault::BrokerHangs { ms } => {
                self.broker.hangs_until = self.broker.hangs_until.max(now + ms);
                self.lasts(ms);
            }
            Fault::BrokerSlow { each, ms } => {
                self.broker.service = each;
                self.broker.slow_until = self.broker.slow_until.max(now + ms);
                self.lasts(ms);
                // The last of it, and what waits behind it in the window.
                let window = self.plan.lanes.window as u64 * self.plan.service;
                self.disturbs(ms + each + window);
            }
            Fault::Refuses {
                device,
                topic,
                code,
                ms,
            } => {
                let until = now.saturating_add(ms);
                // Nobody else is to notice: nothing is disturbed.
                let refused = Refused {
                    device,
                    topic,
                    code,
                    until,
                };
                self.broker.refuses.push(refused);
            }
            Fault::Poison { device } => {
                self.poison_next.insert(device);
                self.disturbs(0);
            }
            Fault::DiskFails { permille, ms } => self.moody(Mood::Failing(permille), ms),
            Fault::DiskUnreadable { permille, ms } => {
                self.truth.disturbed.unreadable = true;
                self.moody(Mood::Unreadable(permille), ms);
            }
            Fault::DiskReadOnly { ms } => self.moody(Mood::ReadOnly, ms),
            Fault::DiskFull { ms } => {
                let left = self.chance.pick(&[0, 4096, 40_000]);
                with_disk(|disk| disk.capacity = disk.used() + left);
                self.full_until = self.full_until.max(now + ms);
                self.truth.disturbed.order = true;
                self.truth.disturbed.marks = true;
                self.lasts(ms);
            }
            Fault::DiskStalls { ms } => {
                self.stall += ms;
                self.truth.disturbed.order = true;
                self.disturbs(ms);
            }
            Fault::Damage { which, at } => self.damage(which, at),
            Fault::ClockStep { s } => self.clock_offset += s as f64,
            Fault::DeviceGone { device } => {
                self.close(device);
                self.about(2_000, Ev::Connects(device));
            }
            Fault::DeviceReset { device } => {
                self.close(device);
                self.reset_device(device);
                self.about(2_000, Ev::Connects(device));
            }
            Fault::Burst { device, batches } => {
                self.disturbs(0);
                self.burst(device, batches);
            }
        }
    }

    fn lasts(&mut self, ms: u64) {
        self.disturbs(ms);
        self.at(ms, Ev::Better);
    }

    fn moody(&mut self, mood: Mood, ms: u64) {
        with_disk(|disk| disk.mood = mood);
        self.mood_until = self.mood_until.max(self.now() + ms);
        self.truth.disturbed.order = true;
        self.truth.disturbed.disk = true;
        self.truth.disturbed.marks = true;
        self.lasts(ms);
    }

    fn crashes(&mut self, power: bool, after: u64) {
        /// If the disk is not used any more.
        const PATIENCE: u64 = 5_000;
        let Some(hub) = &self.hub else { return };
        let run = hub.run;
        if after == 0 {
            self.dies(power);
            return;
        }
        self.crash = Some(power);
        with_disk(|disk| disk.stops_in = Some(after));
        self.disturbs(PATIENCE);
        self.at(PATIENCE, Ev::CrashNow(run));
    }
}
