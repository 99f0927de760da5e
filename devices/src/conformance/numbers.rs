//! Numbers, windows, acks and rejects; resuming by the rule.

use std::time::Duration;

use serde_json::json;

use super::rig::{Answer, Rig};
use super::session::Event;

/// Real time without an ack, in which a device that ignores the window shows it.
const WITHOUT_ACK: Duration = Duration::from_millis(500);

/// Acks that cover several batches, and a window that is kept.
pub async fn merged_acks(rig: &mut Rig) -> Result<(), String> {
    let session = rig.welcomed(60.0).await?;
    rig.until_done_with(Some(session), Answer::Merge).await
}

/// A window of one batch.
pub async fn window_of_one(rig: &mut Rig) -> Result<(), String> {
    rig.terms.window = 1;
    let mut session = rig.welcomed(60.0).await?;
    // The session notes what comes beyond the window; a device that keeps to it sends nothing.
    rig.take(&mut session, 1).await?;
    let beyond = tokio::time::timeout(WITHOUT_ACK, session.event()).await;
    if let Ok(event @ (Event::Close(_) | Event::Ended(_))) = beyond {
        return Err(format!(
            "the device left while it waited for an ack: {event:?}"
        ));
    }
    rig.until_done_with(Some(session), Answer::Merge).await
}

/// The connection is lost with batches unacked, some of which the hub has; it says so.
pub async fn resume_below(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 6).await?;
    session.ack(batches[0].seq).await;
    // Taken, and the ack is lost with the connection: the welcome tells.
    session.acked(batches[2].seq);
    drop(session);
    let mut session = rig.welcomed(120.0).await?;
    let next = session.hello["next"].as_u64().unwrap_or(0);
    if next <= batches[5].seq {
        return Err(format!(
            "next {next} after number {} was used",
            batches[5].seq
        ));
    }
    let again = rig.take(&mut session, 1).await?;
    if again[0] != batches[3] {
        return Err(format!(
            "after welcome.seq {} the first batch was {:?}, expected number {} with readings {:?} again",
            batches[2].seq, again[0], batches[3].seq, batches[3].readings
        ));
    }
    session.ack(again[0].seq).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// Everything that was sent is safe, and the welcome says so: nothing comes again.
pub async fn resume_at(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, rig.terms.window as usize).await?;
    let last = batches.last().map_or(0, |batch| batch.seq);
    session.acked(last);
    drop(session);
    let mut session = rig.welcomed(120.0).await?;
    let more = rig.take(&mut session, 1).await?;
    if more[0].seq <= last {
        return Err(format!("number {} after welcome.seq {last}", more[0].seq));
    }
    session.ack(more[0].seq).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// The hub knows more of the stream than the device: its counter was lost. All that it holds,
/// sent or not, gets new numbers above.
pub async fn resume_above(rig: &mut Rig, ahead: u64) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    drop(session);
    let mut session = rig.session(120.0).await?;
    let next = session.hello["next"].as_u64().unwrap_or(0);
    let mark = next + ahead;
    session.welcome(mark, true, &rig.terms).await;
    let again = rig.take(&mut session, 3).await?;
    if again[0].seq <= mark {
        return Err(format!(
            "welcome.seq {mark} was not below next {next}, and the device sent number {}: all \
             that it holds is to be renumbered from {}",
            again[0].seq,
            mark + 1
        ));
    }
    for (before, after) in batches.iter().zip(&again) {
        if before.content != after.content {
            return Err(format!(
                "readings {:?} were held and unsafe, and {:?} came in their place",
                before.readings, after.readings
            ));
        }
    }
    session.ack(again[2].seq).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// The hub was killed in a healthy hour: it knows less than it has acked.
pub async fn hub_restart(rig: &mut Rig) -> Result<(), String> {
    rig.terms.window = 5;
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 5).await?;
    session.ack(batches[2].seq).await;
    // The window was full, so one more means that the ack has arrived.
    rig.take(&mut session, 1).await?;
    drop(session);
    let mut session = rig.session(120.0).await?;
    session.welcome(0, false, &rig.terms).await;
    let again = rig.take(&mut session, 1).await?;
    if again[0] != batches[3] {
        return Err(format!(
            "after welcome.seq 0 the first batch was {:?}, expected number {} again",
            again[0], batches[3].seq
        ));
    }
    session.ack(again[0].seq).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// The device loses its power twice in the middle.
pub async fn device_restart(rig: &mut Rig) -> Result<(), String> {
    for life in 1..=2 {
        let mut session = rig.welcomed(60.0).await?;
        let batches = rig.take(&mut session, 5).await?;
        session.ack(batches[2].seq).await;
        rig.restart(life * 1000 + 1).await?;
        drop(session);
    }
    rig.until_done().await
}

/// A batch that is refused for good.
pub async fn reject(rig: &mut Rig, code: &str, with_seq: bool) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.ack(batches[0].seq).await;
    session.reject(&batches[1], code, with_seq).await;
    rig.ledger().refused(&batches[1].readings);
    session.ack(batches[2].seq).await;
    let more = rig.take(&mut session, 1).await?;
    if more[0].seq == batches[1].seq {
        return Err("a rejected batch was sent again".into());
    }
    session.ack(more[0].seq).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// A batch at which the hub ends the connection each time, without naming it: the device finds
/// which one it is, gives it up and goes on.
pub async fn poison(rig: &mut Rig) -> Result<(), String> {
    /// A device that tries one batch more often than this sends nothing else in its life.
    const MOST: usize = 6;
    let mut session = rig.welcomed(60.0).await?;
    let poison = rig.take(&mut session, 1).await?.remove(0);
    rig.ledger().refused(&poison.readings);
    for refusals in 1..=MOST {
        session.close(1009).await;
        session = rig.welcomed(400.0).await?;
        let batch = rig.take(&mut session, 1).await?.remove(0);
        if batch.content != poison.content {
            rig.notes
                .push(format!("given up after {refusals} refusals"));
            session.ack(batch.seq).await;
            return rig.until_done_with(Some(session), Answer::Ack).await;
        }
    }
    Err(format!(
        "a batch was refused {MOST} times by close 1009 and came again"
    ))
}

/// A number that the hub does not take; its content may come under a new one.
pub async fn bad_seq(rig: &mut Rig) -> Result<(), String> {
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 2).await?;
    // The content is safe only if it comes again; `complete` asks for it, or for a `drop`.
    rig.ledger().forget(&session.stream, batches[0].seq);
    session.reject(&batches[0], "bad-seq", true).await;
    session.ack(batches[1].seq).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}

/// An ack for numbers that the device has never used takes nothing from what it holds.
pub async fn ack_never_sent(rig: &mut Rig) -> Result<(), String> {
    rig.terms.window = 3;
    let mut session = rig.welcomed(60.0).await?;
    let batches = rig.take(&mut session, 3).await?;
    session.acked(batches[2].seq);
    let wild = batches[2].seq + 1_000_000;
    session.send(&json!({"ack": {"seq": wild}})).await;
    rig.until_done_with(Some(session), Answer::Ack).await
}
