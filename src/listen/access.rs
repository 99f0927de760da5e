//! Who may connect as which device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::refusal::Refusal;
use super::registry::{Judgement, Registry, TokenHash};
use super::tls::{Chain, Tls};
use crate::certificate::Certificate;

/// The rule of `devices.auth`.
pub(super) enum Access {
    Open,
    Token(Registry),
    Certificate(Certificates),
}

/// A certificate that a device has shown, verified.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) chain: Chain,
    /// Of the files that it was verified against.
    pub(super) generation: u64,
    /// When it has to be verified again, because something that it rests on ends: Unix seconds.
    pub(super) until: i64,
}

/// What a device has shown, as far as it has to hold on.
#[derive(Debug, Clone)]
pub(super) enum Grant {
    Free,
    Token(TokenHash),
    Certificate(Shown),
}

/// The certificates of the devices that are connected, to judge them anew when the authorities
/// change: about 1 KiB each.
pub(super) struct Certificates {
    tls: Arc<Tls>,
    present: Mutex<HashMap<Arc<str>, Shown>>,
}

impl Certificates {
    pub(super) fn new(tls: Arc<Tls>) -> Self {
        Self {
            tls,
            present: Mutex::default(),
        }
    }

    fn present(&self) -> MutexGuard<'_, HashMap<Arc<str>, Shown>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connected devices whose certificates have ended, or rest on something that has.
    pub(super) fn over(&self, now: i64) -> Vec<Arc<str>> {
        let mut over = Vec::new();
        for (device, shown) in self.present().iter_mut() {
            if shown.until > now {
                continue;
            }
            if self.tls.accepts(&shown.chain) {
                shown.until = self.tls.until(&shown.chain, now);
            } else {
                // The session is asked to end once, not each time until it has.
                shown.until = i64::MAX;
                over.push(device.clone());
            }
        }
        over
    }

    /// The connected devices whose certificates are no longer accepted, by files that are new.
    pub(super) fn rejected(&self) -> Vec<Arc<str>> {
        let present: Vec<_> = {
            let present = self.present();
            let pairs = present.iter();
            pairs
                .map(|(id, shown)| (id.clone(), shown.clone()))
                .collect()
        };
        present
            .into_iter()
            .filter(|(_, shown)| !self.tls.still_accepts(&shown.chain, shown.generation))
            .map(|(device, _)| device)
            .collect()
    }
}

impl Access {
    /// Judges a device's credentials.
    pub(super) fn judge(
        &self,
        device: &str,
        token: Option<&str>,
        shown: Option<&Shown>,
    ) -> Result<Grant, Refusal> {
        match self {
            Self::Open => Ok(Grant::Free),
            Self::Token(registry) => match registry.judge(device, token.ok_or(Refusal::NoToken)?) {
                Judgement::Own(hash) => Ok(Grant::Token(hash)),
                Judgement::OfAnother => Err(Refusal::OtherDevice),
                Judgement::Unknown => Err(Refusal::WrongToken),
            },
            Self::Certificate(Certificates { tls, .. }) => {
                let own = |shown: &&Shown| {
                    let own = shown.chain.first();
                    let own = own.and_then(|own| Certificate::read(own));
                    let limited = tls.limits_names(&shown.chain);
                    own.is_some_and(|own| own.names(limited).contains(&device))
                };
                let shown = shown.filter(own).ok_or(Refusal::OtherDevice)?;
                Ok(Grant::Certificate(shown.clone()))
            }
        }
    }

    /// A device is connected with this; returns whether it still holds.
    pub(super) fn enter(&self, device: &Arc<str>, grant: &Grant) -> bool {
        match (self, grant) {
            (Self::Token(registry), Grant::Token(hash)) => registry.holds(device, hash),
            (Self::Certificate(certificates), Grant::Certificate(shown)) => {
                certificates.present().insert(device.clone(), shown.clone());
                let Shown {
                    chain, generation, ..
                } = shown;
                certificates.tls.still_accepts(chain, *generation)
            }
            _ => true,
        }
    }

    /// The connection that was entered with this has ended.
    pub(super) fn leave(&self, device: &str, grant: &Grant) {
        if let (Self::Certificate(certificates), Grant::Certificate(shown)) = (self, grant) {
            let mut present = certificates.present();
            // A newer connection may have taken the place.
            let same = |found: &Shown| Arc::ptr_eq(&found.chain, &shown.chain);
            if present.get(device).is_some_and(same) {
                present.remove(device);
            }
        }
    }
}
