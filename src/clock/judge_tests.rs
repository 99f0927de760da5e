#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const BOOT: Boot = Boot::from_bytes([1; 16]);

/// The true offset of every world here: the machine started at this time.
const STARTED: f64 = 1.8e9;

/// A machine with the clock of a kernel, and the judge that looks at it.
struct World {
    uptime: f64,
    /// Wall clock minus uptime.
    offset: f64,
    flag: bool,
    judge: Judge,
    /// Batches that have not been published, with the true time of their arrival.
    lane: Vec<(f64, Moment)>,
    published: Vec<(f64, Moment)>,
    was_right: bool,
}

#[derive(Debug, Clone)]
enum Op {
    /// Time goes by.
    Wait(f64),
    Arrive,
    Publish,
    /// An NTP daemon sets the clock and says so.
    Ntp,
    /// The kernel's own account of the error has grown too large.
    FlagRunsOut,
    /// Somebody sets the clock, by so many seconds off the truth.
    Set(f64),
    Look,
}

impl World {
    fn new(off: f64, flag: bool) -> Self {
        let sample = Sample {
            wall: STARTED + off + 5.0,
            uptime: 5.0,
            flag: Some(flag),
            vouched: false,
        };
        Self {
            uptime: 5.0,
            offset: STARTED + off,
            flag,
            judge: Judge::new(BOOT, &sample),
            lane: Vec::new(),
            published: Vec::new(),
            was_right: flag,
        }
    }

    fn look(&mut self) -> Option<Change> {
        self.judge.see(&Sample {
            wall: self.offset + self.uptime,
            uptime: self.uptime,
            flag: Some(self.flag),
            vouched: false,
        })
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Wait(seconds) => self.uptime += seconds,
            Op::Arrive => {
                let stamp = self.judge.stamp(self.offset + self.uptime, self.uptime);
                if !self.judge.expects(stamp.wall, stamp.uptime) {
                    self.look();
                }
                self.lane.push((STARTED + self.uptime, stamp));
            }
            Op::Publish => {
                for (truth, moment) in std::mem::take(&mut self.lane) {
                    self.published.push((truth, self.judge.corrected(moment)));
                }
            }
            Op::Ntp => {
                self.offset = STARTED;
                self.flag = true;
                self.look();
                self.was_right = true;
            }
            Op::FlagRunsOut => self.flag = false,
            Op::Set(off) => {
                // The kernel takes its word back whenever the clock is set.
                self.offset = STARTED + off;
                self.flag = false;
                self.look();
            }
            Op::Look => _ = self.look(),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let far = prop_oneof![-1e9..-10.0, 10.0..1e9];
    prop_oneof![
        2 => (0.0..1e5).prop_map(Op::Wait),
        4 => Just(Op::Arrive),
        2 => Just(Op::Publish),
        1 => Just(Op::Ntp),
        1 => Just(Op::FlagRunsOut),
        1 => far.prop_map(Op::Set),
        1 => Just(Op::Look),
    ]
}

proptest! {
    #[test]
    fn what_is_not_marked_is_right_and_what_can_be_corrected_is(
        off in prop_oneof![Just(0.0), -1.8e9..-10.0], flag in any::<bool>(),
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        // The kernel does not vouch for a clock that is wrong.
        let mut world = World::new(off, flag && off == 0.0);
        for op in &ops {
            world.step(op);
        }
        world.step(&Op::Publish);
        for (truth, moment) in &world.published {
            if moment.synced {
                prop_assert!((moment.wall - truth).abs() <= JUMP, "{moment:?}, truly {truth}");
            }
        }
        // Whatever waits when the clock becomes right is right.
        world.published.clear();
        world.step(&Op::Arrive);
        world.step(&Op::Ntp);
        world.step(&Op::FlagRunsOut);
        world.step(&Op::Wait(1e5));
        world.step(&Op::Arrive);
        world.step(&Op::Publish);
        for (truth, moment) in &world.published {
            prop_assert!(moment.synced && (moment.wall - truth).abs() < 0.1, "{moment:?}");
        }
    }

    #[test]
    fn what_is_stamped_anew_keeps_its_order(
        uptimes in proptest::collection::vec(0.0..1e6, 2..20), set in -1e9..1e9f64,
    ) {
        let mut world = World::new(-1e9, false);
        let mut uptimes = uptimes;
        uptimes.sort_by(f64::total_cmp);
        for (at, uptime) in uptimes.iter().enumerate() {
            world.uptime = *uptime;
            if at == uptimes.len() / 2 {
                world.step(&Op::Set(set));
            }
            world.step(&Op::Arrive);
        }
        world.step(&Op::Ntp);
        world.step(&Op::Publish);
        prop_assert!(world.published.is_sorted_by(|a, b| a.1.wall <= b.1.wall));
        let before = world.published.first().unwrap().1;
        let after = world.published.last().unwrap().1;
        prop_assert!(before.age(&after).unwrap() >= 0.0);
    }
}

#[test]
fn a_clock_that_was_right_stays_so_through_an_outage_of_its_server() {
    let mut world = World::new(0.0, true);
    world.step(&Op::FlagRunsOut);
    world.step(&Op::Wait(1e6));
    assert_eq!(world.look(), None);
    world.step(&Op::Arrive);
    assert!(world.lane[0].1.synced);
}

#[test]
fn a_step_is_told_once_with_its_size() {
    let mut world = World::new(-50.0 * 365.0 * 86_400.0, false);
    assert_eq!(world.look(), None);
    world.offset = STARTED;
    world.flag = true;
    let change = world.look().unwrap();
    assert!((change.by - 50.0 * 365.0 * 86_400.0).abs() < 0.1);
    assert_eq!((change.was, change.now), (Trust::Unsynced, Trust::Synced));
    assert_eq!(world.look(), None);
}

#[test]
fn a_clock_that_was_set_wrong_and_back_is_right_again() {
    let mut world = World::new(0.0, true);
    world.step(&Op::Set(1e8));
    assert_eq!(world.judge.trust(), Trust::Unsynced);
    world.step(&Op::Arrive);
    world.step(&Op::Set(0.3));
    assert_eq!(world.judge.trust(), Trust::Synced);
    world.step(&Op::Publish);
    let (truth, moment) = world.published[0];
    assert!(moment.synced && (moment.wall - truth).abs() <= JUMP);
}

#[test]
fn what_an_earlier_boot_left_in_doubt_stays_in_doubt() {
    let world = World::new(0.0, true);
    let then = Moment {
        wall: 20.0,
        uptime: 20.0,
        boot: Boot::from_bytes([2; 16]),
        synced: false,
    };
    assert_eq!(world.judge.corrected(then), then);
}

#[test]
fn a_right_clock_that_moves_by_years_is_not_believed_for_an_hour() {
    let mut world = World::new(0.0, true);
    world.offset += 20.0 * 365.0 * 86_400.0;
    world.look();
    // Its daemon says that this is right.
    assert_eq!(world.judge.trust(), Trust::Synced);
    assert!(!world.judge.is_steady(world.uptime));
    assert!(world.judge.is_steady(world.uptime + DOUBT));
    // The first time that anybody tells it is believed at once.
    let mut fresh = World::new(-1e9, false);
    fresh.step(&Op::Ntp);
    assert!(fresh.judge.is_steady(fresh.uptime));
}

#[test]
fn without_the_kernels_word_a_battery_or_the_years_decide() {
    let sample = |wall, flag, vouched| Sample {
        wall,
        uptime: 5.0,
        flag,
        vouched,
    };
    let trust = |wall, flag, vouched| Judge::new(BOOT, &sample(wall, flag, vouched)).trust();
    assert_eq!(trust(STARTED, Some(false), true), Trust::Synced);
    assert_eq!(trust(STARTED, Some(false), false), Trust::Unsynced);
    assert_eq!(trust(1e9, Some(false), true), Trust::Unsynced);
    assert_eq!(trust(STARTED, None, false), Trust::Assumed);
    assert_eq!(trust(1e9, None, false), Trust::Unsynced);

    // Where only jumps are seen, one of them puts right what came before it.
    let mut judge = Judge::new(BOOT, &sample(STARTED - 1e6, None, false));
    let stamp = judge.stamp(STARTED - 1e6 + 10.0, 15.0);
    assert!(!stamp.synced, "nobody has vouched for it");
    assert!(
        judge.corrected(stamp).synced,
        "and nothing speaks against it"
    );
    judge.see(&sample(STARTED, None, false));
    let corrected = judge.corrected(stamp);
    assert!(corrected.synced && (corrected.wall - (STARTED + 10.0)).abs() < 0.1);
}
