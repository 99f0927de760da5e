//! What really happened to every final answer to a command, seen from outside.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Broken, Link};

/// One answer, known by its payload.
#[derive(Debug, Clone, Default)]
struct Fact {
    /// The command that it is of.
    which: usize,
    arrived: bool,
    pubacked: bool,
    synced: bool,
    /// The hub has called it safe.
    safe: bool,
    /// The world has damaged it, or it was given up for room.
    excused: bool,
    published: Option<Link>,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::simulation) struct Answers {
    facts: HashMap<Bytes, Fact>,
    /// Some are too old before they come out.
    pub(in crate::simulation) may_expire: bool,
}

impl Answers {
    /// A command has ended.
    pub(in crate::simulation) fn made(&mut self, payload: &Bytes, which: usize) {
        let fact = self.facts.entry(payload.clone()).or_default();
        fact.which = which;
    }

    fn fact(&mut self, payload: &Bytes) -> Option<&mut Fact> {
        self.facts.get_mut(payload)
    }

    /// A group with it has reached the medium.
    pub(in crate::simulation) fn synced(&mut self, payload: &Bytes) {
        if let Some(fact) = self.fact(payload) {
            fact.synced = true;
        }
    }

    /// It cannot come any more, and that is nobody's fault.
    pub(in crate::simulation) fn excuse(&mut self, payload: &Bytes) {
        if let Some(fact) = self.fact(payload) {
            fact.excused = true;
        }
    }

    /// P2: a group with it is deleted.
    pub(in crate::simulation) fn deleted(&mut self, payload: &Bytes) -> Result<(), Broken> {
        let may_expire = self.may_expire;
        let Some(fact) = self.fact(payload) else {
            return Ok(());
        };
        if !fact.pubacked && may_expire {
            fact.excused = true;
        }
        if fact.pubacked || fact.excused {
            return Ok(());
        }
        Err(format!(
            "P2: an answer is deleted that was not PUBACKed: {fact:?}"
        ))
    }

    /// P1: the hub calls it safe.
    pub(in crate::simulation) fn called_safe(&mut self, payload: &Bytes) -> Result<(), Broken> {
        let Some(fact) = self.fact(payload) else {
            return Err("P1: an answer is called safe that was never made".into());
        };
        fact.safe = true;
        if fact.pubacked || fact.synced || fact.excused {
            return Ok(());
        }
        Err(format!(
            "P1: an answer is called safe, and is not: {fact:?}"
        ))
    }

    /// P1: a device is told that its result is safe.
    pub(in crate::simulation) fn result_acked(&self, which: usize) -> Result<(), Broken> {
        let mut of_it = self.facts.values().filter(|fact| fact.which == which);
        let well = |fact: &Fact| fact.pubacked || fact.synced || fact.excused;
        if of_it.any(well) {
            return Ok(());
        }
        Err(format!(
            "P1: the result of command {which} is acked, and no answer of it is safe"
        ))
    }

    /// It reaches the broker.
    pub(in crate::simulation) fn arrives(
        &mut self,
        payload: &Bytes,
        link: Link,
    ) -> Result<(), Broken> {
        let Some(fact) = self.fact(payload) else {
            return Err("an answer arrives that was never made".into());
        };
        if fact.published == Some(link) {
            return Err(format!(
                "P4: an answer is published twice on one connection: {fact:?}"
            ));
        }
        fact.arrived = true;
        fact.published = Some(link);
        Ok(())
    }

    /// The broker has said so.
    pub(in crate::simulation) fn pubacked(&mut self, payload: &Bytes) {
        if let Some(fact) = self.fact(payload) {
            fact.pubacked = true;
        }
    }

    /// Commands of which an answer was called safe that has not arrived.
    pub(in crate::simulation) fn missing(&self) -> Vec<usize> {
        let facts = self.facts.values();
        let missing = facts.filter(|fact| fact.safe && !fact.arrived && !fact.excused);
        let mut missing: Vec<usize> = missing.map(|fact| fact.which).collect();
        missing.sort_unstable();
        missing
    }

    pub(in crate::simulation) fn len(&self) -> u64 {
        self.facts.len() as u64
    }
}
