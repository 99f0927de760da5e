//! What the lamp does with a command. No IO: commands and time in, results out.
//!
//! It is the order of steps that firmware should copy: write the id down, carry the command out,
//! write the result down, send it, and keep it until the hub says that it is safe.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Ids that it keeps: the hub has one command under way at a time, so a few are plenty.
pub const REMEMBERED: usize = 64;

/// The longest `sleep` and `blink`, so that a slip of the finger does not take it away for good.
const LONGEST: f64 = 3_600.0;

/// What is known of one command.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub id: String,
    pub name: String,
    /// `None`: it was begun, and how it ended is not known.
    pub result: Option<Value>,
    /// The hub has it.
    pub safe: bool,
}

/// Something that is to happen later.
#[derive(Debug)]
struct Later {
    at: Instant,
    id: String,
    step: Step,
}

#[derive(Debug)]
enum Step {
    Blink {
        done: u64,
        times: u64,
        every: Duration,
    },
    Wake,
}

/// What it wants from whoever carries it.
#[derive(Debug, PartialEq)]
pub enum Wish {
    /// Write the notes down now, before anything else.
    Save,
    /// Send this.
    Say(Value),
    /// Hang up, and come back.
    HangUp,
}

/// A lamp.
#[derive(Debug, Default)]
pub struct Bulb {
    on: bool,
    notes: VecDeque<Note>,
    later: Vec<Later>,
    /// What was reported last on this connection.
    reported: Option<Value>,
    /// How often each command was really carried out.
    pub carried_out: BTreeMap<String, u64>,
}

impl Bulb {
    /// As it was when it was saved.
    #[must_use]
    pub fn restored(notes: Vec<Note>) -> Self {
        Self {
            notes: notes.into(),
            ..Self::default()
        }
    }

    /// What has to be written down.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter()
    }

    /// The hub has welcomed it: results that it has not confirmed are said again, and so is how the
    /// lamp is, because nobody confirms that.
    pub fn welcomed(&mut self, out: &mut Vec<Wish>) {
        self.reported = None;
        let open = self.notes.iter().filter(|note| !note.safe);
        out.extend(open.filter_map(|note| Some(Wish::Say(note.result.clone()?))));
        self.report(None, out);
    }

    /// It is to be in this state, whatever it is in now. What it does not know of stays as it is,
    /// and is not reported.
    pub fn desired(&mut self, map: &Value, out: &mut Vec<Wish>) {
        let wrong = match &map["on"] {
            Value::Bool(on) => {
                self.on = *on;
                None
            }
            Value::Null => None,
            _ => Some("on is true or false"),
        };
        self.report(wrong, out);
    }

    /// Says how it is, if it has not said that already.
    fn report(&mut self, wrong: Option<&str>, out: &mut Vec<Wish>) {
        let mut map = json!({ "on": self.on });
        if let Some(wrong) = wrong {
            map["error"] = wrong.into();
        }
        if self.reported.as_ref() != Some(&map) {
            out.push(Wish::Say(json!({ "reported": map })));
            self.reported = Some(map);
        }
    }

    /// The hub says that the result is safe, or that it does not want it.
    pub fn settled(&mut self, id: &str, out: &mut Vec<Wish>) {
        if let Some(note) = self.notes.iter_mut().find(|note| note.id == id) {
            note.safe = true;
            out.push(Wish::Save);
        }
    }

    /// A command has come.
    pub fn command(&mut self, now: Instant, body: &Value, out: &mut Vec<Wish>) {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let (id, name, args) = (text("id"), text("name"), &body["args"]);
        if let Some(known) = self.notes.iter().find(|note| note.id == id) {
            let waits = self.later.iter().any(|later| later.id == id);
            match &known.result {
                Some(result) => out.push(Wish::Say(result.clone())),
                None if waits => {}
                // It was cut short, and a lamp cannot know whether it did it.
                None => self.end(&id, Err("interrupted"), out),
            }
            return;
        }
        if self.notes.len() == REMEMBERED {
            self.notes.pop_front();
        }
        self.notes.push_back(Note {
            id: id.clone(),
            name: name.clone(),
            result: None,
            safe: false,
        });
        out.push(Wish::Save);
        *self.carried_out.entry(id.clone()).or_default() += 1;
        self.carry_out(now, &id, &name, args, out);
    }

    fn carry_out(&mut self, now: Instant, id: &str, name: &str, args: &Value, out: &mut Vec<Wish>) {
        match name {
            "on" | "off" => {
                self.on = name == "on";
                self.end(id, Ok(json!({ "on": self.on })), out);
                self.report(None, out);
            }
            "blink" => {
                let times = args["times"].as_u64().unwrap_or(3).min(1_000);
                let every = seconds(args, "every", 1.0);
                self.later.push(Later {
                    at: now + every,
                    id: id.to_owned(),
                    step: Step::Blink {
                        done: 0,
                        times,
                        every,
                    },
                });
            }
            "sleep" => self.later.push(Later {
                at: now + seconds(args, "seconds", 60.0),
                id: id.to_owned(),
                step: Step::Wake,
            }),
            "fail" => self.end(id, Err("the bulb is broken"), out),
            // It is done, and nobody is told, ever.
            "forget" => {}
            "twice" => {
                self.end(id, Ok(json!(1)), out);
                let again = json!({"result": {"id": id, "name": name, "ok": true, "value": 2}});
                out.push(Wish::Say(again));
            }
            "drop" => {
                self.end(id, Ok(json!("back again")), out);
                out.retain(|wish| !matches!(wish, Wish::Say(_)));
                out.push(Wish::HangUp);
            }
            _ => self.end(
                id,
                Err("a lamp knows on, off, blink, sleep, fail, forget, twice and drop"),
                out,
            ),
        }
    }

    fn end(&mut self, id: &str, outcome: Result<Value, &str>, out: &mut Vec<Wish>) {
        let Some(note) = self.notes.iter_mut().find(|note| note.id == id) else {
            return;
        };
        let mut body = json!({"id": id, "name": note.name, "ok": outcome.is_ok()});
        match outcome {
            Ok(value) => body["value"] = value,
            Err(error) => body["error"] = error.into(),
        }
        let result = json!({ "result": body });
        note.result = Some(result.clone());
        out.push(Wish::Save);
        out.push(Wish::Say(result));
    }

    /// When [`Bulb::tick`] is due.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.later.iter().map(|later| later.at).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Wish>) {
        while let Some(at) = self.later.iter().position(|later| later.at <= now) {
            let Later { id, step, .. } = self.later.swap_remove(at);
            match step {
                Step::Wake => self.end(&id, Ok(json!("slept")), out),
                Step::Blink { done, times, .. } if done + 1 >= times => {
                    self.end(&id, Ok(json!({ "blinked": times })), out);
                }
                Step::Blink { done, times, every } => {
                    let done = done + 1;
                    self.on = done % 2 == 1;
                    let part = json!({"id": id, "name": "blink", "ok": true, "more": true,
                        "value": {"blinked": done, "of": times}});
                    out.push(Wish::Say(json!({ "result": part })));
                    self.later.push(Later {
                        at: now + every,
                        id,
                        step: Step::Blink { done, times, every },
                    });
                }
            }
        }
    }
}

fn seconds(args: &Value, key: &str, default: f64) -> Duration {
    let seconds = args[key].as_f64().unwrap_or(default);
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: &str, name: &str, args: Value) -> Value {
        json!({"id": id, "name": name, "args": args, "timeout": 30.0})
    }

    fn said(out: &[Wish]) -> Vec<&Value> {
        let said = out.iter().filter_map(|wish| match wish {
            Wish::Say(message) => message.get("result"),
            _ => None,
        });
        said.collect()
    }

    #[test]
    fn an_id_is_written_down_before_anything_is_done_and_a_repeat_does_nothing_new() {
        let (now, mut bulb, mut out) = (Instant::now(), Bulb::default(), Vec::new());
        bulb.command(now, &command("1", "on", Value::Null), &mut out);
        assert_eq!(out[0], Wish::Save);
        assert_eq!(said(&out)[0]["value"]["on"], true);
        let mut again = Vec::new();
        bulb.command(now, &command("1", "on", Value::Null), &mut again);
        assert_eq!(said(&again), said(&out));
        assert_eq!(bulb.carried_out["1"], 1);
    }

    #[test]
    fn it_follows_what_is_desired_and_says_how_it_is_once() {
        let (now, mut bulb) = (Instant::now(), Bulb::default());
        let reports = |out: &[Wish]| -> Vec<Value> {
            let said = out.iter().filter_map(|wish| match wish {
                Wish::Say(message) => message.get("reported").cloned(),
                _ => None,
            });
            said.collect()
        };
        let mut heard = |step: &mut dyn FnMut(&mut Bulb, &mut Vec<Wish>)| {
            let mut out = Vec::new();
            step(&mut bulb, &mut out);
            reports(&out)
        };
        let (on, off) = (json!({"on": true}), json!({"on": false}));
        assert_eq!(heard(&mut |bulb, out| bulb.welcomed(out)), [off.clone()]);
        assert_eq!(heard(&mut |bulb, out| bulb.desired(&on, out)), [on.clone()]);
        assert!(heard(&mut |bulb, out| bulb.desired(&on, out)).is_empty());
        let other = json!({"colour": "red"});
        assert!(heard(&mut |bulb, out| bulb.desired(&other, out)).is_empty());
        let wrong = json!({"on": 7});
        assert_eq!(
            heard(&mut |bulb, out| bulb.desired(&wrong, out))[0]["on"],
            true
        );
        // A command changes it as well, and after a reconnect it is said again.
        let turn_off = command("1", "off", Value::Null);
        let said = heard(&mut |bulb, out| bulb.command(now, &turn_off, out));
        assert_eq!(said, [off.clone()]);
        assert_eq!(heard(&mut |bulb, out| bulb.welcomed(out)), [off]);
    }

    #[test]
    fn a_result_is_said_again_until_it_is_safe() {
        let (now, mut bulb, mut out) = (Instant::now(), Bulb::default(), Vec::new());
        bulb.command(now, &command("1", "drop", Value::Null), &mut out);
        assert!(said(&out).is_empty() && out.contains(&Wish::HangUp));
        for expected in [1, 0] {
            let mut out = Vec::new();
            bulb.welcomed(&mut out);
            assert_eq!(said(&out).len(), expected);
            bulb.settled("1", &mut out);
        }
    }

    #[test]
    fn a_lamp_that_was_cut_short_says_so_and_does_not_begin_anew() {
        let (now, mut bulb, mut out) = (Instant::now(), Bulb::default(), Vec::new());
        bulb.command(now, &command("1", "sleep", json!({"seconds": 5})), &mut out);
        let mut restored = Bulb::restored(bulb.notes().cloned().collect());
        let mut out = Vec::new();
        restored.command(now, &command("1", "sleep", json!({"seconds": 5})), &mut out);
        assert_eq!(said(&out)[0]["error"], "interrupted");
        assert!(restored.carried_out.is_empty());
    }

    #[test]
    fn blinking_tells_how_far_it_is_and_then_that_it_is_done() {
        let (mut now, mut bulb, mut out) = (Instant::now(), Bulb::default(), Vec::new());
        bulb.command(
            now,
            &command("1", "blink", json!({"times": 3, "every": 2})),
            &mut out,
        );
        while let Some(at) = bulb.due() {
            now = at;
            bulb.tick(now, &mut out);
        }
        let said = said(&out);
        assert_eq!(said.len(), 3);
        assert!(said[0]["more"] == true && said[2].get("more").is_none());
        assert_eq!(said[2]["value"]["blinked"], 3);
    }

    #[test]
    fn it_remembers_a_bounded_number() {
        let (now, mut bulb, mut out) = (Instant::now(), Bulb::default(), Vec::new());
        for n in 0..500 {
            bulb.command(
                now,
                &command(&n.to_string(), "forget", Value::Null),
                &mut out,
            );
        }
        assert_eq!(bulb.notes().count(), REMEMBERED);
    }
}
