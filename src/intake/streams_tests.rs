//! The table of streams alone, and beside a model of devices that count rightly and wrongly.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const WINDOW: usize = 4;

fn streams() -> Streams {
    Streams::new(WINDOW)
}

fn attach(streams: &mut Streams, conn: ConnId, name: &str) -> Attached {
    streams.attach(conn, &"d".into(), Some(name.into()), || unreachable!())
}

/// A batch over connection 1, whose content follows from its number.
fn arrive(streams: &mut Streams, id: StreamId, seq: u64) -> Verdict {
    streams.arrive(1, id, Some(seq), Content(seq))
}

fn mark_of(stream: &str, seq: u64) -> Mark {
    Mark {
        device: "d".into(),
        stream: stream.into(),
        seq,
    }
}

#[test]
fn an_ack_waits_for_every_number_before_it() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    for seq in [1, 2, 5] {
        assert_eq!(arrive(&mut streams, s, seq), Verdict::New);
    }
    assert_eq!(streams.safe(s, 5), None);
    assert_eq!(streams.safe(s, 2), None);
    assert_eq!(streams.safe(s, 1), Some((Some(1), 5)));
}

#[test]
fn a_resent_number_is_acked_again_once_safe_and_never_taken_twice() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    arrive(&mut streams, s, 3);
    assert_eq!(arrive(&mut streams, s, 3), Verdict::Known(None));
    streams.safe(s, 3);
    assert_eq!(arrive(&mut streams, s, 3), Verdict::Known(Some(3)));
    assert_eq!(streams.safe(s, 3), None);
}

#[test]
fn a_named_stream_resumes_on_another_connection_and_its_acks_follow_what_is_sent_again() {
    let mut streams = streams();
    let first = attach(&mut streams, 1, "a");
    assert!(!first.known);
    let s = first.stream;
    for seq in 1..=3 {
        arrive(&mut streams, s, seq);
    }
    streams.safe(s, 1);
    let resumed = attach(&mut streams, 2, "a");
    assert!(resumed.known);
    assert_eq!((resumed.stream, resumed.safe, resumed.taken), (s, 1, 3));
    streams.detach(1);
    // Nobody has said 2 over this connection.
    assert_eq!(streams.safe(s, 2), None);
    assert_eq!(
        streams.arrive(2, s, Some(2), Content(2)),
        Verdict::Known(Some(2))
    );
    assert_eq!(
        streams.arrive(2, s, Some(3), Content(3)),
        Verdict::Known(None)
    );
    assert_eq!(streams.safe(s, 3), Some((Some(2), 3)));
}

#[test]
fn a_number_with_other_content_is_a_conflict_and_no_ack_covers_it_before() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    for seq in 1..=3 {
        arrive(&mut streams, s, seq);
    }
    streams.safe(s, 1);
    // The device has lost its counter, and goes on from what it is told.
    assert_eq!(attach(&mut streams, 2, "a").safe, 1);
    assert_eq!(streams.safe(s, 2), None);
    assert_eq!(streams.safe(s, 3), None);
    let conflict = Verdict::Conflict { highest: 3 };
    assert_eq!(streams.arrive(2, s, Some(2), Content(20)), conflict);
    assert_eq!(streams.arrive(2, s, Some(3), Content(30)), conflict);
    assert_eq!(streams.arrive(2, s, Some(4), Content(30)), Verdict::New);
    assert_eq!(streams.safe(s, 4), Some((Some(2), 4)));
}

#[test]
fn a_number_that_was_skipped_cannot_come_later_however_many_were() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    for seq in (2..=2_000).step_by(2) {
        assert_eq!(arrive(&mut streams, s, seq), Verdict::New);
        streams.safe(s, seq);
    }
    for seq in [1, 3, 999, 1_999] {
        let conflict = Verdict::Conflict { highest: 2_000 };
        assert_eq!(arrive(&mut streams, s, seq), conflict);
    }
}

#[test]
fn after_a_restart_nothing_at_or_below_the_mark_is_acked_unseen() {
    let mut streams = streams();
    streams.restore([mark_of("a", 7)]);
    let attached = attach(&mut streams, 1, "a");
    assert!(attached.known);
    assert_eq!((attached.safe, attached.taken), (7, 7));
    let s = attached.stream;
    for seq in [1, 7] {
        let conflict = Verdict::Conflict { highest: 7 };
        assert_eq!(arrive(&mut streams, s, seq), conflict);
    }
    assert_eq!(arrive(&mut streams, s, 8), Verdict::New);
}

#[test]
fn an_unnamed_stream_ends_with_its_connection_but_not_before_its_last_batch() {
    let mut streams = streams();
    let s = streams.attach(1, &"d".into(), None, || "x".into()).stream;
    arrive(&mut streams, s, 1);
    streams.detach(1);
    assert_eq!(streams.len(), 1);
    assert_eq!(streams.safe(s, 1), Some((None, 1)));
    assert!(streams.is_empty());
    assert_eq!(streams.contents, 0);
}

#[test]
fn who_was_attached_before_hears_of_acks_again_when_the_other_has_gone() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    arrive(&mut streams, s, 1);
    assert_eq!(streams.safe(s, 1), Some((Some(1), 1)));
    // A batch by POST, while one of the first connection is under way.
    arrive(&mut streams, s, 2);
    attach(&mut streams, 2, "a");
    assert_eq!(streams.arrive(2, s, Some(3), Content(3)), Verdict::New);
    assert_eq!(streams.safe(s, 2), Some((Some(2), 2)));
    assert_eq!(streams.safe(s, 3), Some((Some(2), 3)));
    // It missed the ack of 2, and 3 never came over it.
    assert_eq!(streams.detach(2), Some((1, 2)));
    arrive(&mut streams, s, 4);
    assert_eq!(streams.safe(s, 4), Some((Some(1), 4)));
    // What comes while the other is there counts as well; who goes first is forgotten.
    attach(&mut streams, 3, "a");
    arrive(&mut streams, s, 5);
    attach(&mut streams, 4, "a");
    assert_eq!(streams.detach(3), None);
    streams.safe(s, 5);
    assert_eq!(streams.detach(4), Some((1, 5)));
    assert_eq!(streams.detach(1), None);
    assert!(streams.by_conn.is_empty());
}

#[test]
fn marks_survive_through_restore_and_dirty_tells_only_what_moved() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    attach(&mut streams, 2, "b");
    arrive(&mut streams, s, 7);
    streams.safe(s, 7);
    let dirty = streams.take_dirty();
    assert_eq!(dirty, [mark_of("a", 7)]);
    assert!(streams.take_dirty().is_empty());
    streams.put_back(&dirty);
    assert_eq!(streams.take_dirty(), dirty);

    let mut restored = self::streams();
    restored.restore(streams.marks());
    assert_eq!(attach(&mut restored, 1, "a").safe, 7);
}

#[test]
fn marks_that_come_late_are_never_lowered_by_what_was_taken_before() {
    let mut streams = streams();
    let s = attach(&mut streams, 1, "a").stream;
    arrive(&mut streams, s, 3);
    streams.restore([mark_of("a", 20)]);
    // The device has sent nothing above 3 over this connection.
    assert_eq!(streams.safe(s, 3), Some((Some(1), 3)));
    assert_eq!(attach(&mut streams, 2, "a").safe, 20);
    assert_eq!(streams.arrive(2, s, Some(21), Content(21)), Verdict::New);
}

#[test]
fn a_device_that_renames_its_stream_at_every_boot_does_not_fill_the_table() {
    let mut streams = streams();
    for boot in 0..100 {
        attach(&mut streams, boot, &format!("boot-{boot}"));
        streams.detach(boot);
    }
    assert_eq!(streams.len(), STREAMS_PER_DEVICE);
    assert_eq!(streams.resting.len(), STREAMS_PER_DEVICE);
    let last = attach(&mut streams, 100, "boot-99");
    assert_eq!(streams.len(), STREAMS_PER_DEVICE);
    assert_eq!(last.name.as_ref(), "boot-99");
}

#[test]
fn contents_are_bounded_in_all_and_whoever_rests_longest_loses_them_first() {
    let mut streams = streams();
    streams.max_contents = 10 * WINDOW;
    for n in 0..1_000_u64 {
        let device: Arc<str> = format!("d{n}").into();
        let attached = streams.attach(n, &device, Some("s".into()), || unreachable!());
        for seq in 1..=WINDOW as u64 {
            streams.arrive(n, attached.stream, Some(seq), Content(seq));
            streams.safe(attached.stream, seq);
        }
        streams.detach(n);
        assert!(streams.contents <= 10 * WINDOW);
        let held: usize = streams.streams.values().map(|s| s.contents.len()).sum();
        assert_eq!(streams.contents, held);
    }
    let mut again = |n: u64| {
        let device: Arc<str> = format!("d{n}").into();
        let attached = streams.attach(n, &device, Some("s".into()), || unreachable!());
        streams.arrive(n, attached.stream, Some(4), Content(4))
    };
    assert_eq!(again(999), Verdict::Known(Some(4)));
    assert_eq!(again(0), Verdict::Conflict { highest: 4 });
}

#[derive(Debug, Clone)]
enum Step {
    /// A new connection. The device has kept its counter, or counts from what it is told.
    Connect { lost: bool },
    /// It sends something new, after skipping some numbers.
    Send { skip: u64 },
    /// It sends again what it has not heard of, the oldest first.
    Resend,
    /// It uses any number for something else.
    Misuse(u64),
    /// One of those under way becomes safe.
    Safe(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => prop::bool::weighted(0.3).prop_map(|lost| Step::Connect { lost }),
        6 => (0..3_u64).prop_map(|skip| Step::Send { skip }),
        3 => Just(Step::Resend),
        2 => (1..40_u64).prop_map(Step::Misuse),
        6 => any::<prop::sample::Index>().prop_map(Step::Safe),
    ]
}

/// A device, and what it was told.
#[derive(Default)]
struct Device {
    conn: ConnId,
    id: Option<StreamId>,
    next: u64,
    contents: u64,
    /// Not known to be safe.
    kept: BTreeMap<u64, Content>,
    /// What it sent over the present connection and was not refused.
    said: BTreeMap<u64, Content>,
    /// What the broker gets.
    published: BTreeMap<u64, Content>,
    under_way: Vec<u64>,
    /// It has used numbers as it liked, and pushed its own batches out of the hub's memory.
    misused: bool,
    safe: std::collections::BTreeSet<u64>,
}

impl Device {
    fn hears(&mut self, ack: u64) -> Result<(), TestCaseError> {
        for (seq, content) in self.said.range(..=ack) {
            prop_assert_eq!(
                self.published.get(seq),
                Some(content),
                "acked {} unread",
                seq
            );
            prop_assert!(self.safe.contains(seq), "{} is not safe", seq);
        }
        self.kept.retain(|seq, _| *seq > ack);
        Ok(())
    }

    fn sends(
        &mut self,
        streams: &mut Streams,
        seq: u64,
        content: Content,
    ) -> Result<Verdict, TestCaseError> {
        let id = self.id.unwrap();
        let verdict = streams.arrive(self.conn, id, Some(seq), content);
        match verdict {
            Verdict::New => {
                prop_assert!(self.published.insert(seq, content).is_none());
                self.under_way.push(seq);
                self.said.insert(seq, content);
            }
            Verdict::Known(ack) => {
                prop_assert_eq!(self.published.get(&seq), Some(&content));
                self.said.insert(seq, content);
                if let Some(ack) = ack {
                    prop_assert!(ack >= seq);
                    self.hears(ack)?;
                }
            }
            Verdict::Conflict { highest } => {
                prop_assert_eq!(self.published.keys().max(), Some(&highest));
                prop_assert!(seq <= highest);
            }
        }
        Ok(verdict)
    }
}

proptest! {
    /// However a device counts, nothing that it says is acked unless just that is published and
    /// safe; and one that keeps to the rule is never refused.
    #[test]
    fn nothing_is_acked_that_was_not_taken_as_it_was_said(
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let mut streams = streams();
        let mut device = Device::default();
        for step in [Step::Connect { lost: false }].into_iter().chain(steps) {
            match step {
                Step::Connect { lost } => {
                    device.conn += 1;
                    let attached = attach(&mut streams, device.conn, "s");
                    device.id = Some(attached.stream);
                    device.said.clear();
                    if lost {
                        device.next = attached.safe + 1;
                        device.kept.clear();
                    } else {
                        device.kept.retain(|seq, _| *seq > attached.safe);
                    }
                    prop_assert!(attached.safe == 0 || device.safe.contains(&attached.safe));
                }
                Step::Send { .. } if device.kept.len() >= WINDOW => {}
                Step::Send { skip } => {
                    device.next = device.next.max(1) + skip;
                    device.contents += 1;
                    let content = Content(1_000 + device.contents);
                    let seq = device.next;
                    device.next += 1;
                    match device.sends(&mut streams, seq, content)? {
                        Verdict::New => _ = device.kept.insert(seq, content),
                        Verdict::Conflict { highest } => device.next = highest + 1,
                        Verdict::Known(_) => prop_assert!(false, "content is unique"),
                    }
                }
                Step::Resend => {
                    // As after every connection: all of it, in order, within the window.
                    let kept: Vec<_> = device.kept.clone().into_iter().collect();
                    for (seq, content) in kept {
                        let verdict = device.sends(&mut streams, seq, content)?;
                        let known = matches!(verdict, Verdict::Known(_));
                        prop_assert!(known || device.misused, "{} {:?}", seq, verdict);
                    }
                }
                Step::Misuse(seq) => {
                    device.contents += 1;
                    let content = Content(1_000 + device.contents);
                    let verdict = device.sends(&mut streams, seq, content)?;
                    prop_assert!(!matches!(verdict, Verdict::Known(_)));
                    device.misused = true;
                    device.next = device.next.max(seq + 1);
                }
                Step::Safe(which) => if !device.under_way.is_empty() {
                    let at = which.index(device.under_way.len());
                    let seq = device.under_way.remove(at);
                    device.safe.insert(seq);
                    if let Some((conn, ack)) = streams.safe(device.id.unwrap(), seq)
                        && conn == Some(device.conn)
                    {
                        device.hears(ack)?;
                    }
                },
            }
        }
    }
}

#[test]
fn streams_that_were_only_named_make_room_before_those_that_hold_a_mark() {
    let mut streams = streams();
    let used = attach(&mut streams, 1, "used");
    arrive(&mut streams, used.stream, 1);
    streams.safe(used.stream, 1);
    for n in 0..STREAMS_PER_DEVICE * 3 {
        attach(&mut streams, 2, &format!("named-{n}"));
    }
    assert_eq!(streams.len(), STREAMS_PER_DEVICE);
    assert!(attach(&mut streams, 1, "used").known);
    // A mark that comes from the disk makes a stream worth keeping too.
    streams.restore([mark_of("restored", 7)]);
    for n in 0..STREAMS_PER_DEVICE * 3 {
        attach(&mut streams, 2, &format!("again-{n}"));
    }
    assert_eq!(attach(&mut streams, 1, "restored").safe, 7);
}
