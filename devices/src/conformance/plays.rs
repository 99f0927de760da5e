//! The list of scenarios: what each is called, what it does, and how it is set up.

use super::ends::{self, Back};
use super::hostile::{self, Broken};
use super::network::{self, Flood};
use super::rig::Rig;
use super::tls::{Certificates, Shows};
use super::{numbers, talk};

/// One thing that a hub, a proxy or a network may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Play {
    MergedAcks,
    WindowOfOne,
    ResumeBelow,
    ResumeAt,
    ResumeAbove(u64),
    HubRestart,
    DeviceRestart,
    Reject(&'static str, bool),
    BadSeq,
    Poison,
    AckNeverSent,
    Close(u16, Back),
    Cut,
    Refuse(u16, &'static str, Back),
    Nonsense(&'static str),
    EndlessHead,
    Backoff,
    Tls,
    Untrusted(Shows),
    Bye,
    NoAnswer,
    NoWelcome,
    HalfOpen,
    SlowLink,
    ByteByByte,
    Flooded(Flood),
    Pongs,
    BrokenRules(Broken),
    BadMessages,
    Deep,
    Unknown,
    Floats,
    Clocks,
    Fragments,
    Commands,
    LargeResult,
    Drops,
    MaxRate,
}

/// A play with its name and its set-up.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// For `--only` and the report.
    pub name: String,
    /// What happens.
    pub play: Play,
    /// What the server shows; nothing: plain.
    pub shows: Option<Shows>,
    /// Readings that the device makes.
    pub count: u64,
    /// Protocol seconds between two of them.
    pub interval: f64,
    /// Batches that its queue holds.
    pub queue: usize,
}

fn scenario(name: &str, play: Play) -> Scenario {
    Scenario {
        name: name.to_owned(),
        play,
        shows: None,
        count: 30,
        interval: 0.0,
        queue: 64,
    }
}

/// An ordinary backoff: half a second and more at first, a minute at most.
const USUAL: Back = Back::Between(0.2, 60.0);
/// After a fault of the device, which waiting will hardly mend: a minute.
const FAULT: Back = Back::Between(60.0, 120.0);
/// Soon, but not all at once.
const SOON: Back = Back::Between(1.0, 5.0);

/// Every scenario, in the order of the report.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = vec![
        scenario("merged-acks", Play::MergedAcks),
        scenario("window-of-one", Play::WindowOfOne),
        scenario("resume-below-next", Play::ResumeBelow),
        scenario("resume-all-safe", Play::ResumeAt),
        scenario("resume-at-next", Play::ResumeAbove(0)),
        scenario("resume-above-next", Play::ResumeAbove(1000)),
        scenario("hub-restart-lower-mark", Play::HubRestart),
        scenario("device-restart", Play::DeviceRestart),
        scenario("bad-seq", Play::BadSeq),
        scenario("poison-batch", Play::Poison),
        scenario("ack-never-sent", Play::AckNeverSent),
        scenario("cut", Play::Cut),
        scenario(
            "redirect",
            Play::Refuse(301, "Location: /elsewhere\r\n", USUAL),
        ),
        scenario("nonsense-for-http", Play::Nonsense("HELLO\r\n\r\n")),
        scenario(
            "wrong-accept",
            Play::Nonsense(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
            ),
        ),
        scenario("endless-head", Play::EndlessHead),
        scenario("backoff", Play::Backoff),
        scenario("bye", Play::Bye),
        scenario("no-answer", Play::NoAnswer),
        scenario("no-welcome", Play::NoWelcome),
        scenario("half-open", Play::HalfOpen),
        scenario("slow-link", Play::SlowLink),
        scenario("byte-by-byte", Play::ByteByByte),
        scenario("pongs", Play::Pongs),
        scenario("bad-messages", Play::BadMessages),
        scenario("deep-nesting", Play::Deep),
        scenario("unknown-kinds-and-fields", Play::Unknown),
        scenario("floats", Play::Floats),
        scenario("clock-wrong-or-gone", Play::Clocks),
        scenario("fragments", Play::Fragments),
        scenario("commands", Play::Commands),
        scenario("large-result", Play::LargeResult),
        scenario("max-rate", Play::MaxRate),
    ];
    all.extend(rejects());
    all.extend(ends_and_refusals());
    all.extend(floods());
    all.extend(broken());
    all.extend(over_tls());
    let dropping = scenario("drops", Play::Drops);
    all.push(Scenario {
        count: 400,
        interval: 0.05,
        queue: 20,
        ..dropping
    });
    all
}

fn rejects() -> Vec<Scenario> {
    let mut out = Vec::new();
    for code in ["malformed", "bad-pack", "too-large"] {
        out.push(scenario(
            &format!("reject-{code}"),
            Play::Reject(code, true),
        ));
    }
    out.push(scenario(
        "reject-without-number",
        Play::Reject("malformed", false),
    ));
    out
}

fn ends_and_refusals() -> Vec<Scenario> {
    let closes = [
        (1000, USUAL),
        (1001, SOON),
        (1002, FAULT),
        (1007, FAULT),
        (1009, SOON),
        (1011, USUAL),
        (1013, SOON),
        (4000, USUAL),
        (4001, FAULT),
        (4002, Back::Never),
        (4003, FAULT),
        (4999, USUAL),
    ];
    let refusals = [
        (400, "", Back::Hardly),
        (401, "", Back::Hardly),
        (403, "", Back::Hardly),
        (404, "", Back::Hardly),
        (429, "Retry-After: 30\r\n", Back::Between(30.0, 60.0)),
        (500, "", USUAL),
        (503, "Retry-After: 45\r\n", Back::Between(45.0, 90.0)),
        (503, "", USUAL),
    ];
    let mut out = Vec::new();
    for (code, back) in closes {
        out.push(scenario(&format!("close-{code}"), Play::Close(code, back)));
    }
    for (status, headers, back) in refusals {
        let after = if headers.is_empty() {
            ""
        } else {
            "-retry-after"
        };
        let name = format!("http-{status}{after}");
        out.push(scenario(&name, Play::Refuse(status, headers, back)));
    }
    out
}

fn floods() -> Vec<Scenario> {
    vec![
        scenario("flood-of-notes", Play::Flooded(Flood::Notes)),
        scenario("flood-of-commands", Play::Flooded(Flood::Commands)),
        scenario("flood-of-pings", Play::Flooded(Flood::Pings)),
        scenario("flood-of-acks", Play::Flooded(Flood::Acks)),
    ]
}

fn broken() -> Vec<Scenario> {
    let rules = [
        ("frame-of-a-terabyte", Broken::Oversized),
        ("frame-of-negative-length", Broken::Negative),
        ("endless-fragments", Broken::Endless),
        ("masked-frame", Broken::Masked),
        ("reserved-bits", Broken::Reserved),
        ("unknown-opcode", Broken::Opcode),
        ("long-ping", Broken::LongControl),
        ("stray-fragment", Broken::Stray),
        ("message-within-message", Broken::Interleaved),
    ];
    let play = |(name, rule)| scenario(name, Play::BrokenRules(rule));
    rules.into_iter().map(play).collect()
}

fn over_tls() -> Vec<Scenario> {
    let servers = [
        ("tls-unknown-ca", Shows::OtherCa),
        ("tls-wrong-name", Shows::OtherName),
        ("tls-expired", Shows::Expired),
    ];
    let mut out = vec![Scenario {
        shows: Some(Shows::Good),
        ..scenario("tls", Play::Tls)
    }];
    for (name, shows) in servers {
        out.push(Scenario {
            shows: Some(shows),
            ..scenario(name, Play::Untrusted(shows))
        });
    }
    out
}

impl Play {
    /// Plays it.
    ///
    /// # Errors
    /// What the device did not do.
    pub async fn run(self, rig: &mut Rig, certificates: &Certificates) -> Result<(), String> {
        match self {
            Self::MergedAcks => numbers::merged_acks(rig).await,
            Self::WindowOfOne => numbers::window_of_one(rig).await,
            Self::ResumeBelow => numbers::resume_below(rig).await,
            Self::ResumeAt => numbers::resume_at(rig).await,
            Self::ResumeAbove(ahead) => numbers::resume_above(rig, ahead).await,
            Self::HubRestart => numbers::hub_restart(rig).await,
            Self::DeviceRestart => numbers::device_restart(rig).await,
            Self::Reject(code, with_seq) => numbers::reject(rig, code, with_seq).await,
            Self::BadSeq => numbers::bad_seq(rig).await,
            Self::Poison => numbers::poison(rig).await,
            Self::AckNeverSent => numbers::ack_never_sent(rig).await,
            Self::Close(code, back) => ends::close(rig, code, back).await,
            Self::Cut => ends::cut(rig).await,
            Self::Refuse(status, headers, back) => ends::refuse(rig, status, headers, back).await,
            Self::Nonsense(answer) => ends::nonsense(rig, answer.as_bytes()).await,
            Self::EndlessHead => ends::endless_head(rig).await,
            Self::Backoff => ends::backoff(rig).await,
            Self::Tls => rig.until_done().await,
            Self::Untrusted(_) => ends::untrusted(rig, certificates.acceptor(Shows::Good)).await,
            Self::Bye => ends::bye(rig).await,
            Self::NoAnswer => network::no_answer(rig).await,
            Self::NoWelcome => network::no_welcome(rig).await,
            Self::HalfOpen => network::half_open(rig).await,
            Self::SlowLink => network::slow_link(rig).await,
            Self::ByteByByte => network::byte_by_byte(rig).await,
            Self::Flooded(of) => network::flood(rig, of).await,
            Self::Pongs => network::pongs(rig).await,
            Self::BrokenRules(how) => hostile::broken(rig, how).await,
            Self::BadMessages => hostile::bad_messages(rig).await,
            Self::Deep => hostile::deep(rig).await,
            Self::Unknown => talk::unknown(rig).await,
            Self::Floats => talk::floats(rig).await,
            Self::Clocks => talk::clocks(rig).await,
            Self::Fragments => talk::fragments(rig).await,
            Self::Commands => talk::commands(rig).await,
            Self::LargeResult => talk::large_result(rig).await,
            Self::Drops => talk::drops(rig).await,
            Self::MaxRate => talk::max_rate(rig).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|scenario| &scenario.name).collect();
        assert_eq!(names.len(), all.len());
    }
}
