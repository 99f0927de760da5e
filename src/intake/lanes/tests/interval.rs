//! `spool.commit_interval`: acks wait for a common commit, and for nothing else.

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

fn world() -> World {
    World::new(Settings {
        hold_back: HOLD_BACK,
        commit_interval: INTERVAL,
        device_window: 32,
        ..settings(false, false)
    })
}

fn in_commit(world: &World) -> usize {
    world.commit.as_ref().map_or(0, |(_, items, _)| items.len())
}

#[test]
fn batches_of_an_interval_are_acked_by_one_commit_within_it() {
    let mut world = world();
    let begin = world.now.mono;
    for d in 0..DEVICES {
        world.step(&Op::Send(d));
        world.step(&Op::Wait(2_000));
        assert_eq!(in_commit(&world), 0);
    }
    let due = world.lanes.next_deadline().unwrap();
    assert!(due < begin + INTERVAL && due > begin + INTERVAL * 9 / 10);
    world.step(&Op::Wait(4_000));
    assert_eq!(in_commit(&world), DEVICES);
    world.step(&Op::CommitDone);
    assert_eq!(world.acked, [1, 1, 1]);
}

#[test]
fn a_stop_does_not_wait_for_the_interval() {
    let mut world = world();
    world.step(&Op::Send(0));
    assert_eq!(in_commit(&world), 0);
    world.apply(Event::Finish);
    assert_eq!(in_commit(&world), 1);
    world.step(&Op::CommitDone);
    assert!(world.lanes.all_safe());
}

#[test]
fn an_uplink_that_comes_back_ends_the_wait() {
    let mut world = world();
    world.step(&Op::Send(0));
    world.step(&Op::Up);
    assert_eq!(in_commit(&world), 1);
    world.step(&Op::CommitDone);
    assert_eq!(world.acked[0], 1);
}

#[test]
fn a_device_whose_window_is_used_up_does_not_wait_for_the_others() {
    let mut world = World::new(Settings {
        device_window: 2,
        ..world().settings
    });
    world.step(&Op::Send(0));
    world.step(&Op::Send(1));
    world.step(&Op::Wait(50));
    assert_eq!(in_commit(&world), 0);
    world.step(&Op::Send(0));
    world.step(&Op::Wait(100));
    assert_eq!(in_commit(&world), 3);
}

#[test]
fn what_was_under_way_when_the_link_went_waits_no_longer_than_what_came_then() {
    let mut world = world();
    world.step(&Op::Up);
    world.step(&Op::Send(0));
    world.step(&Op::Wait(4_000));
    world.step(&Op::Down(false));
    assert_eq!(in_commit(&world), 0);
    // From its arrival, not from the end of the link.
    world.step(&Op::Wait(6_000));
    assert_eq!(in_commit(&world), 1);
}

#[test]
fn a_failed_commit_is_tried_again_after_its_pause_and_a_full_spool_refuses_at_once() {
    let mut world = World::new(Settings {
        refuse: true,
        ..world().settings
    });
    world.step(&Op::Send(0));
    world.step(&Op::Wait(10_000));
    assert_eq!(in_commit(&world), 1);
    world.step(&Op::CommitFails(true));
    let mut out = Vec::new();
    let arrival = Arrival {
        resolved: 100,
        conn: 1,
        stream: world.streams[1],
        batch: Batch {
            device: device(1),
            stream: "s".into(),
            seq: Some(1),
            received: world.now.moment,
            readings: 1,
            encoding: Encoding::Cbor,
            frame: Bytes::from_static(b"x"),
        },
        content: Content(1),
    };
    world
        .lanes
        .apply(world.now, Event::Arrived(arrival), &mut out);
    let refused = |action: &Action| matches!(action, Action::Refuse { conn: 1 });
    assert!(out.iter().any(refused), "{out:?}");
    world.step(&Op::Wait(1_000));
    assert_eq!(in_commit(&world), 1);
}

#[test]
fn a_puback_that_comes_during_the_wait_spares_the_card_the_batch() {
    let mut world = world();
    world.step(&Op::Up);
    // More than window and queue hold: all of it is on its way to the disk.
    let sent = WINDOW + world.settings.live_batches + 1;
    for _ in 0..sent {
        world.step(&Op::Send(0));
    }
    assert_eq!((world.unacked.len(), in_commit(&world)), (WINDOW, 0));
    for _ in 0..WINDOW {
        world.step(&Op::Puback);
    }
    assert_eq!(in_commit(&world), sent - WINDOW);
}
