//! Messages beyond data and acks: what is unknown, numbers in all their forms, commands, drops.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::frame::{self, BINARY, CONTINUATION, FIN, PING};
use super::ledger::Batch;
use super::rig::{Answer, Rig};
use super::session::{Event, Session};

/// What a machine under load may take to make the readings, in real time.
const DROPS_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether something was dropped.
const QUARTER: Duration = Duration::from_millis(250);

/// Kinds and fields of a later version.
pub async fn unknown(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.session(60.0).await?;
    session
        .send(&json!({"weather": {"tomorrow": "fine"}}))
        .await;
    let mut body = session.welcome_body(0, false, &rig.terms);
    body["colour"] = json!("blue");
    body["nested"] = json!({"a": [1, {"b": null}]});
    session.send(&json!({ "welcome": body })).await;
    session
        .send(&json!({"note": {"code": "implausible-time", "detail": "a note", "seq": 1}}))
        .await;
    session.send(&json!({"desired": {"interval": 5}})).await;
    session.send(&json!({"future": [1, 2, 3]})).await;
    let batches = rig.take(&mut session, 3).await?;
    session.acked(batches[2].seq);
    session
        .send(&json!({"ack": {"zzz": [], "seq": batches[2].seq, "by": "broker"}}))
        .await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// How the numbers of a welcome in CBOR are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Floats of 16 bits.
    Half,
    /// Floats of 32 bits.
    Single,
    /// Floats of 64 bits.
    Double,
    /// Integers, longer than need be.
    Long,
}

/// A welcome whose floats have every form, one connection after the other.
pub async fn floats(rig: &mut Rig) -> Result<(), String> {
    for form in [Form::Half, Form::Single, Form::Double, Form::Long] {
        let mut session = rig.session(120.0).await?;
        if session.json {
            rig.notes
                .push("speaks JSON: its numbers have one form".into());
            rig.welcome(&mut session).await;
            return rig.until_done_with(Some(session), Answer::Ack).await;
        }
        let mark = rig.ledger().mark(&session.stream);
        let body = session.welcome_body(mark, mark > 0, &rig.terms);
        let bytes = welcome_in(&body, form);
        session.raw(&frame::frame(FIN | BINARY, &bytes)).await;
        let batches = rig.take(&mut session, 2).await?;
        session.ack(batches[1].seq).await;
        // The next proves that the ack has come.
        rig.take(&mut session, 1).await?;
        session.close(1001).await;
    }
    rig.until_done().await
}

fn welcome_in(body: &Value, form: Form) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend([0x78, text.len() as u8]);
        out.extend_from_slice(text.as_bytes());
    };
    let map = body.as_object().cloned().unwrap_or_default();
    let mut out = vec![0xa1];
    text(&mut out, "welcome");
    out.extend([0xb8, map.len() as u8]);
    for (key, value) in &map {
        text(&mut out, key);
        match value {
            Value::String(value) => text(&mut out, value),
            Value::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
            value => match (value.as_u64(), value.as_f64().unwrap_or(0.0), form) {
                (Some(value), _, Form::Long) => {
                    out.push(0x1b);
                    out.extend(value.to_be_bytes());
                }
                (Some(value), ..) => {
                    out.push(0x1a);
                    out.extend((value as u32).to_be_bytes());
                }
                // 100 and 50 as halves, and for the time, which has no half, infinity.
                (None, float, Form::Half) => {
                    let half: u16 = match float as u64 {
                        100 => 0x5640,
                        50 => 0x5240,
                        _ => 0x7c00,
                    };
                    out.push(0xf9);
                    out.extend(half.to_be_bytes());
                }
                (None, float, Form::Single) => {
                    out.push(0xfa);
                    out.extend((float as f32).to_be_bytes());
                }
                (None, float, Form::Double) => {
                    out.push(0xfb);
                    out.extend(float.to_be_bytes());
                }
                (None, float, Form::Long) => {
                    out.push(0x1b);
                    out.extend((float as u64).to_be_bytes());
                }
            },
        }
    }
    out
}

/// A hub whose clock is wrong, or gone.
pub async fn clocks(rig: &mut Rig) -> Result<(), String> {
    let times = [
        json!({"time": 0.0, "time_s": 0}),
        json!({"time": 1e300, "time_s": u64::MAX}),
        json!({"time": -5.5, "time_s": null}),
        Value::Null,
    ];
    for time in times {
        let mut session = rig.session(120.0).await?;
        let mark = rig.ledger().mark(&session.stream);
        let mut body = session.welcome_body(mark, mark > 0, &rig.terms);
        if let Some(body) = body.as_object_mut() {
            body.remove("time");
            body.remove("time_s");
            body.extend(time.as_object().cloned().unwrap_or_default());
        }
        session.send(&json!({ "welcome": body })).await;
        let batches = rig.take(&mut session, 2).await?;
        session.ack(batches[1].seq).await;
        rig.take(&mut session, 1).await?;
        session.close(1001).await;
    }
    rig.until_done().await
}

/// A message in three fragments with a ping between them.
async fn fragmented(session: &mut Session, message: &Value) -> Result<(), String> {
    let bytes = session.encoded(message);
    let first = if session.json { frame::TEXT } else { BINARY };
    let (a, rest) = bytes.split_at(bytes.len() / 3);
    let (b, c) = rest.split_at(rest.len() / 2);
    session.raw(&frame::frame(first, a)).await;
    session.raw(&frame::frame(FIN | PING, b"between")).await;
    session.raw(&frame::frame(CONTINUATION, b)).await;
    session.raw(&frame::frame(CONTINUATION, b"")).await;
    session.raw(&frame::frame(FIN | CONTINUATION, c)).await;
    Ok(())
}

/// Fragments with pings between: each message counts, and each ping.
pub async fn fragments(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.session(60.0).await?;
    let body = session.welcome_body(0, false, &rig.terms);
    fragmented(&mut session, &json!({ "welcome": body })).await?;
    let (mut pongs, mut batches) = (0, Vec::<Batch>::new());
    while batches.len() < 3 || pongs < 1 {
        match session.next("data and a pong").await? {
            Event::Pong(payload) if payload == b"between" => pongs += 1,
            Event::Pong(payload) => return Err(format!("a pong with {payload:?}")),
            Event::Data(batch) => batches.push(batch),
            Event::Close(code) => return Err(format!("the device left with {code:?}")),
            Event::Ended(why) => return Err(format!("the device left: {why}")),
            _ => {}
        }
    }
    session.acked(batches[2].seq);
    fragmented(&mut session, &json!({"ack": {"seq": batches[2].seq}})).await?;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// Waits for the result of one command; batches meanwhile are acked.
async fn result_of(session: &mut Session, id: &str) -> Result<Value, String> {
    loop {
        match session.next("result").await? {
            Event::Result(result) if result["id"] == id && result["more"] != true => {
                return Ok(result);
            }
            Event::Result(result) if result["id"] != id => {
                return Err(format!("a result of {}, expected of {id}", result["id"]));
            }
            Event::Data(batch) => session.ack(batch.seq).await,
            Event::Close(_) | Event::Ended(_) => return Err("the device left a good hub".into()),
            _ => {}
        }
    }
}

/// Commands, whose results come again until they are acked, and are carried out once.
pub async fn commands(rig: &mut Rig) -> Result<(), String> {
    let args = json!({"a": [1, 2.5, "x", true, null], "n": -7});
    let mut session = rig.welcomed(60.0).await?;
    let echo = json!({"command": {"id": "c-1", "name": "echo", "args": args, "timeout": 30}});
    session.send(&echo).await;
    let result = result_of(&mut session, "c-1").await?;
    if result["ok"] != true || result["value"] != args {
        return Err(format!("echo of {args} gave {result}"));
    }
    drop(session);

    let mut session = rig.welcomed(120.0).await?;
    if session.hello["remembers"].as_u64() > Some(0) {
        let mut again = echo.clone();
        again["command"]["again"] = json!(true);
        session.send(&again).await;
    }
    let result = result_of(&mut session, "c-1").await.map_err(|fault| {
        format!("a result that was not acked is to come again after a reconnect: {fault}")
    })?;
    if result["value"] != args {
        return Err(format!("the result came again as {result}"));
    }
    session.send(&json!({"ack": {"result": "c-1"}})).await;
    session
        .send(&json!({"command": {"id": "c-2", "name": "no-such", "timeout": 30}}))
        .await;
    let result = result_of(&mut session, "c-2").await?;
    if result["ok"] != false {
        return Err(format!("a command that nobody knows gave {result}"));
    }
    // A reject ends a result as an ack does.
    let reject = json!({"reject": {"result": "c-2", "code": "malformed", "detail": "no"}});
    session.send(&reject).await;
    // Its result proves that the reject was read: a pong would come from below the application.
    session
        .send(&json!({"command": {"id": "c-3", "name": "echo", "args": 3, "timeout": 30}}))
        .await;
    result_of(&mut session, "c-3").await?;
    drop(session);

    let mut session = rig.welcomed(120.0).await?;
    // Only this one comes again: both before it are settled.
    result_of(&mut session, "c-3").await?;
    session.send(&json!({"ack": {"result": "c-3"}})).await;
    let end = rig.until_done_with(Some(session), Answer::Ack).await;
    let carried_out = rig.program.said().commands.clone();
    let times = carried_out.iter().filter(|id| *id == "c-1").count();
    if times != 1 {
        return Err(format!("command c-1 was carried out {times} times"));
    }
    end
}

/// A result above what the hub takes is told as too large.
pub async fn large_result(rig: &mut Rig) -> Result<(), String> {
    rig.terms.max_message = 160;
    let mut session = rig.welcomed(60.0).await?;
    if session.hello["max_message"]
        .as_u64()
        .is_some_and(|max| max < 300)
    {
        rig.notes
            .push("takes no command so long that its echo would be too large".into());
        return rig.until_done_with(Some(session), Answer::Ack).await;
    }
    let args = "x".repeat(200);
    session
        .send(&json!({"command": {"id": "big", "name": "echo", "args": args, "timeout": 30}}))
        .await;
    let result = result_of(&mut session, "big").await?;
    if result["error"] != "too-large" {
        return Err(format!("a result above max_message came as {result}"));
    }
    session.send(&json!({"ack": {"result": "big"}})).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// A hub that is away for longer than the queue lasts: what is dropped is told.
pub async fn drops(rig: &mut Rig) -> Result<(), String> {
    // All readings are made within 20 s; the queue holds a small part of them.
    let patience = rig.scale.real(60.0) + DROPS_PATIENCE;
    let start = Instant::now();
    while rig.ledger().drops() == 0 {
        if start.elapsed() > patience {
            return Err("no drop was reported although the queue is full".into());
        }
        if let Ok(Ok((stream, _))) = timeout(QUARTER, rig.listener.accept()).await {
            drop(stream);
        }
    }
    rig.until_done().await?;
    let (drops, safe) = {
        let ledger = rig.ledger();
        (ledger.drops(), ledger.safe_readings())
    };
    rig.notes
        .push(format!("{drops} dropped and told, {safe} safe"));
    Ok(())
}

/// A welcome that allows five messages a second.
pub async fn max_rate(rig: &mut Rig) -> Result<(), String> {
    rig.terms.max_rate = 5;
    rig.terms.window = 32;
    let rate = 5.0;
    let mut session = rig.session(60.0).await?;
    let start = Instant::now();
    rig.welcome(&mut session).await;
    let mut messages = 0.0;
    while !rig.program.said().done {
        match session.next("data").await? {
            Event::Data(batch) => {
                session.ack(batch.seq).await;
                messages += 1.0;
            }
            Event::Close(code) => {
                session.raw(&frame::close(code.unwrap_or(1000), "")).await;
                session.linger().await;
                break;
            }
            Event::Ended(_) => break,
            _ => {}
        }
        // The hub's burst is twice the rate; what comes late has come no faster.
        let allowed = 2.0 * rate + rate * rig.scale.protocol(start.elapsed());
        if messages > allowed + 1.0 {
            return Err(format!(
                "{messages} messages where max_rate {rate} allows {allowed:.0}"
            ));
        }
    }
    rig.until_done().await
}
