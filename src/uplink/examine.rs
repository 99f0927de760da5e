//! `telehub check --connect`: what each broker of the configuration says to what the hub publishes.
//!
//! Everything goes to `{prefix}/{hub}/_probe/…`, which is no device's (but an empty pack), under a client id of its own:
//! with the hub's, a hub that runs would lose its connection. One publish is out at a time, so that
//! whatever the broker does is its answer to that one.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Settings;
use super::failure::Failure;
use super::mqtt::Library;
use super::paths::Paths;
use super::publication::{Publication, Publisher};
use super::reasons::{self, ERRORS};
use super::route::Target;
use super::terms::{Terms, Version};
use super::transport::{Client, Retained, Signal, Subscription, Wire};
use crate::clock;
use crate::packed;

/// A broker that does not answer to one packet within this is silent: two round trips on a bad link.
const ANSWER: Duration = Duration::from_secs(10);

/// What comes back comes right behind the PUBACK; some brokers send it before.
const ECHO: Duration = Duration::from_secs(3);

/// Bytes of the large payload that is tried, if the hub may send as much: four times the largest
/// message that devices send by default, resolved.
const LARGE: usize = 256 << 10;

/// Room for the topic and the head of a packet.
const HEAD: usize = 1 << 10;

/// How something that was tried went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As the hub needs it.
    Good,
    /// Worth knowing, or not to be seen from here.
    Note,
    /// Data would be refused or lost.
    Bad,
}

/// One thing that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The broker's address.
    pub broker: String,
    /// How it went.
    pub outcome: Outcome,
    /// One sentence without its subject, which is the broker.
    pub text: String,
}

/// Connects to each broker and tries out what it takes. `commands`: the hub is to take commands.
pub async fn examine(settings: Settings, commands: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for broker in settings.broker.brokers.clone() {
        let mut one = settings.clone();
        one.broker.client_id.push_str("-check");
        one.broker.brokers = vec![broker.clone()];
        let broker = Target::of(&broker, true).name();
        let mut examination = Examination::new(one, commands, broker);
        examination.run().await;
        findings.append(&mut examination.findings);
    }
    findings
}

/// What the broker said to a publish.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused(String),
    Silent,
    Ended(String),
}

struct Examination {
    settings: Arc<Settings>,
    publisher: Publisher,
    paths: Paths,
    commands: bool,
    broker: String,
    findings: Vec<Finding>,
}

/// A connection, and what came on it that was not asked about yet.
struct Line<W> {
    wire: W,
    id: u16,
    /// Topics of messages that came, and whether they were retained.
    came: Vec<(String, bool)>,
}

impl Examination {
    fn new(settings: Settings, commands: bool, broker: String) -> Self {
        let uplink = &settings.broker;
        let publisher = Publisher::new(
            &uplink.prefix,
            &settings.hub,
            uplink.format,
            &settings.version,
            uplink.max_payload,
            commands,
        )
        .with_dots(uplink.topic_dots);
        Self {
            paths: Paths::new(&settings),
            publisher,
            settings: Arc::new(settings),
            commands,
            broker,
            findings: Vec::new(),
        }
    }

    fn say(&mut self, outcome: Outcome, text: impl Into<String>) {
        self.findings.push(Finding {
            broker: self.broker.clone(),
            outcome,
            text: text.into(),
        });
    }

    async fn run(&mut self) {
        let Some(mut line) = self.connect().await else {
            return;
        };
        self.tell_terms(&line.wire.terms().clone());
        for publication in self.small() {
            let left = self.publish(line, &publication).await;
            let Some(next) = self.go_on(left).await else {
                return;
            };
            line = next;
        }
        let left = self.retained(line).await;
        let Some(mut line) = self.go_on(left).await else {
            return;
        };
        if self.commands {
            let left = self.command_subscription(line).await;
            let Some(next) = self.go_on(left).await else {
                return;
            };
            line = next;
        }
        let large = self.large(line.wire.terms().max_packet);
        if let Some(mut line) = self.publish(line, &large).await {
            line.wire.disconnect();
            let until = Instant::now() + ECHO;
            while let Ok(Some(signal)) = line.next(until).await {
                if signal == Signal::SaidGoodbye {
                    break;
                }
            }
        }
    }

    /// The connection that is left, or another one.
    async fn go_on(
        &mut self,
        left: Option<Line<super::mqtt::Wire>>,
    ) -> Option<Line<super::mqtt::Wire>> {
        match left {
            Some(line) => Some(line),
            None => self.connect().await,
        }
    }

    async fn connect(&mut self) -> Option<Line<super::mqtt::Wire>> {
        let connect = self
            .paths
            .connect(&Library, &self.settings, Client::Hub(&self.publisher));
        match connect.await {
            Ok((wire, ..)) => Some(Line {
                wire,
                id: 0,
                came: Vec::new(),
            }),
            Err(failure) => {
                let text = format!("gives no connection: {}", failure.sentence);
                self.say(Outcome::Bad, text);
                None
            }
        }
    }

    fn tell_terms(&mut self, terms: &Terms) {
        let version = terms.version.name();
        let mut text = format!("speaks MQTT {version} to this user name and password");
        if terms.version == Version::V5 {
            let (window, packet) = (terms.window, terms.max_packet);
            text = format!(
                "{text}, takes {window} publishes at a time and packets of up to {packet} bytes that \
                 the hub would send"
            );
        }
        self.say(Outcome::Good, text);
        if terms.version == Version::V311 {
            let text = "cannot refuse a publish in MQTT 3.1.1: what it may not take it acknowledges \
                        and throws away, so only what comes back below is known to be taken";
            self.say(Outcome::Note, text);
        }
        if !terms.retain {
            let text = "keeps no retained messages: who subscribes later does not hear which devices \
                        are online";
            self.say(Outcome::Note, text);
        }
    }

    /// A batch on each lane and a gap record, all empty; or where they go together, an empty pack,
    /// whose topic has no device's part to put another into.
    fn small(&self) -> Vec<Publication> {
        let probe = self.publisher.probe(clock::now());
        if self.settings.broker.pack > 0 {
            let mut payload = Vec::new();
            packed::seal(&[], &mut payload);
            let topic = self.publisher.packed_topic();
            return vec![Publication {
                topic,
                payload,
                ..probe
            }];
        }
        let levels = ["data", "history", "gap"].into_iter();
        levels
            .map(|level| Publication {
                topic: self.publisher.probe_topic_of(level),
                ..probe.clone()
            })
            .collect()
    }

    /// As large as anything that the hub will send here, up to [`LARGE`].
    fn large(&self, max_packet: usize) -> Publication {
        let most = self
            .settings
            .broker
            .max_payload
            .min(max_packet.saturating_sub(HEAD));
        let mut probe = self.publisher.probe(clock::now());
        // Blanks behind JSON, and in line protocol, mean nothing. Whoever reads CBOR stops at the end.
        probe.payload.resize(most.min(LARGE), b' ');
        probe
    }

    /// Publishes one, and sees whether it comes back. `None`: the connection is of no use any more.
    async fn publish<W: Wire>(
        &mut self,
        mut line: Line<W>,
        publication: &Publication,
    ) -> Option<Line<W>> {
        let topic = &publication.topic;
        let bytes = publication.payload.len();
        let what = match bytes > HEAD {
            true => format!("{topic} with {bytes} bytes"),
            false => topic.clone(),
        };
        let readable = line.subscribe(topic, bytes + HEAD, Retained::NotSent).await;
        let readable = match readable {
            Ok(readable) => readable,
            Err(failure) => {
                let text = format!("ends the connection at a subscription to {topic}: {failure}");
                self.say(Outcome::Note, text);
                return None;
            }
        };
        let version = line.wire.terms().version;
        match line.publish(publication).await {
            // Mosquitto 2.0 closes the connection behind the PUBACK that refuses.
            Answer::Refused(why) => {
                self.say(Outcome::Bad, format!("does not take {what}: {why}"));
                return None;
            }
            Answer::Silent => {
                let text = format!("does not answer to {what} within {} s", ANSWER.as_secs());
                self.say(Outcome::Bad, text);
                return None;
            }
            Answer::Ended(why) => {
                let text = format!("ends the connection at {what}: {why}");
                self.say(Outcome::Bad, text);
                return None;
            }
            Answer::Taken if !readable => {
                let text = format!(
                    "acknowledges {what}; whether it arrives cannot be seen, because this user may \
                     not subscribe to it"
                );
                let outcome = match version {
                    Version::V5 => Outcome::Good,
                    Version::V311 => Outcome::Note,
                };
                self.say(outcome, text);
            }
            // Large messages come to nobody who has said that he takes small ones, as the hub does.
            Answer::Taken if version == Version::V5 && bytes > HEAD => {
                self.say(Outcome::Good, format!("takes {what}"));
            }
            Answer::Taken => match (line.came_back(topic, false).await, version) {
                (true, _) => self.say(Outcome::Good, format!("takes {what}")),
                (false, Version::V5) => {
                    let text = format!("acknowledges {what}, and does not send it to this client");
                    self.say(Outcome::Note, text);
                }
                (false, Version::V311) => {
                    let text = format!(
                        "acknowledges {what} and throws it away: look at its access rules and its \
                         limit of size"
                    );
                    self.say(Outcome::Bad, text);
                    // Mosquitto 2.0 closes the connection behind this PUBACK, too.
                    return None;
                }
            },
        }
        Some(line)
    }

    /// A status that is kept for later, and taken back. `None`: the connection is over.
    async fn retained<W: Wire>(&mut self, mut line: Line<W>) -> Option<Line<W>> {
        let topic = self.publisher.probe_topic_of("status");
        let mut status = Publication {
            topic: topic.clone(),
            payload: b"{\"state\":\"offline\",\"reason\":\"check\"}".to_vec(),
            retain: true,
        };
        let readable = line.subscribe(&topic, HEAD, Retained::NotSent).await;
        let (outcome, text) = match line.publish(&status).await {
            Answer::Taken => line.is_kept(&topic, readable == Ok(true)).await,
            Answer::Refused(why) => {
                self.say(Outcome::Bad, format!("does not take {topic}: {why}"));
                return None;
            }
            Answer::Silent => {
                let seconds = ANSWER.as_secs();
                let text = format!("does not answer to {topic} within {seconds} s");
                (Outcome::Bad, text)
            }
            Answer::Ended(why) => {
                let text = format!("ends the connection at {topic}: {why}");
                self.say(Outcome::Bad, text);
                return None;
            }
        };
        self.say(outcome, text);
        status.payload.clear();
        match line.publish(&status).await {
            Answer::Ended(_) => None,
            _ => Some(line),
        }
    }

    async fn command_subscription<W: Wire>(&mut self, mut line: Line<W>) -> Option<Line<W>> {
        let filter = self.publisher.command_filter();
        match line.subscribe(&filter, HEAD, Retained::NotSent).await {
            Ok(true) => self.say(Outcome::Good, format!("lets the hub subscribe to {filter}")),
            Ok(false) => {
                let text =
                    format!("does not let the hub subscribe to {filter}: no command comes in");
                self.say(Outcome::Bad, text);
            }
            Err(failure) => {
                let text = format!("ends the connection at a subscription to {filter}: {failure}");
                self.say(Outcome::Bad, text);
                return None;
            }
        }
        Some(line)
    }
}

impl<W: Wire> Line<W> {
    /// The next signal; `None`: none until then.
    async fn next(&mut self, until: Instant) -> Result<Option<Signal>, Failure> {
        loop {
            if let Some(signal) = self.wire.take() {
                if let Signal::Message(message) = &signal {
                    self.came.push((message.topic.clone(), message.retain));
                }
                return Ok(Some(signal));
            }
            let wire = &mut self.wire;
            match timeout_at(until, poll_fn(|cx| wire.poll(cx))).await {
                Ok(result) => result?,
                Err(_) => return Ok(None),
            }
        }
    }

    fn next_id(&mut self) -> u16 {
        self.id += 1;
        self.id
    }

    /// Whether the broker agrees. Silence is no.
    async fn subscribe(
        &mut self,
        filter: &str,
        limit: usize,
        retained: Retained,
    ) -> Result<bool, String> {
        let id = self.next_id();
        let subscription = Subscription {
            filter: filter.to_owned(),
            at_least_once: false,
            retained,
            as_published: retained == Retained::NotSent,
            limit,
        };
        self.wire.subscribe(id, &subscription);
        let until = Instant::now() + ANSWER;
        loop {
            match self.next(until).await {
                Ok(Some(Signal::Subscribed { id: of, reason })) if of == id => {
                    return Ok(reason < ERRORS);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(failure) => return Err(failure.sentence),
            }
        }
    }

    async fn publish(&mut self, publication: &Publication) -> Answer {
        let id = self.next_id();
        let written = self.wire.publish(id, &publication.head(), |out| {
            out.extend_from_slice(&publication.payload);
            Ok(())
        });
        if let Err(error) = written {
            return Answer::Refused(error);
        }
        let until = Instant::now() + ANSWER;
        loop {
            match self.next(until).await {
                Ok(Some(Signal::Acked(of) | Signal::Unheard(of))) if of == id => {
                    return Answer::Taken;
                }
                Ok(Some(Signal::Refused {
                    id: of,
                    reason,
                    words,
                })) if of == id => return Answer::Refused(reasons::sentence(reason, &words, "")),
                Ok(Some(_)) => {}
                Ok(None) => return Answer::Silent,
                Err(failure) => return Answer::Ended(failure.sentence),
            }
        }
    }

    /// Whether a message of this topic has come, or comes soon.
    async fn came_back(&mut self, topic: &str, retained: bool) -> bool {
        let until = Instant::now() + ECHO;
        loop {
            let is_it = |(of, kept): &(String, bool)| of == topic && (*kept || !retained);
            if let Some(at) = self.came.iter().position(is_it) {
                self.came.remove(at);
                return true;
            }
            if !matches!(self.next(until).await, Ok(Some(_))) {
                return false;
            }
        }
    }

    /// Whether a status that was taken stays for who comes later.
    async fn is_kept(&mut self, topic: &str, readable: bool) -> (Outcome, String) {
        let (terms, came) = (
            self.wire.terms().clone(),
            self.came_back(topic, false).await,
        );
        if !terms.retain {
            return (Outcome::Good, format!("takes {topic}"));
        }
        let again = self.subscribe(topic, HEAD, Retained::Sent).await;
        if again.is_ok() && self.came_back(topic, true).await {
            let text = format!("takes {topic} and keeps it for who comes later");
            return (Outcome::Good, text);
        }
        if came {
            let text = format!(
                "takes {topic} and does not keep it: who subscribes later does not hear which devices \
                 are online; allow retained messages there"
            );
            return (Outcome::Bad, text);
        }
        if readable && terms.version == Version::V311 {
            let text = format!(
                "acknowledges {topic} and throws it away, or lets this user not read it: look at its \
                 access rules"
            );
            return (Outcome::Bad, text);
        }
        let text = format!(
            "takes {topic}; this user may not read it, so the hub cannot correct a state that it left \
             behind there"
        );
        (Outcome::Note, text)
    }
}
