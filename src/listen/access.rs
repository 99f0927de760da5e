//! Who may connect as which device.

use super::refusal::Refusal;
use super::registry::{Judgement, Registry, TokenHash};

/// The rule of `devices.auth`.
#[derive(Debug)]
pub(super) enum Access {
    Open,
    Token(Registry),
    Certificate,
}

/// What a device has shown, as far as it has to hold on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant(Option<TokenHash>);

impl Access {
    /// Judges a device's credentials. `names`: those of its client certificate, verified.
    pub(super) fn judge(
        &self,
        device: &str,
        token: Option<&str>,
        names: &[String],
    ) -> Result<Grant, Refusal> {
        match self {
            Self::Open => Ok(Grant(None)),
            Self::Token(registry) => match registry.judge(device, token.ok_or(Refusal::NoToken)?) {
                Judgement::Own(hash) => Ok(Grant(Some(hash))),
                Judgement::OfAnother => Err(Refusal::OtherDevice),
                Judgement::Unknown => Err(Refusal::WrongToken),
            },
            Self::Certificate if names.iter().any(|name| name == device) => Ok(Grant(None)),
            Self::Certificate => Err(Refusal::OtherDevice),
        }
    }

    /// Whether what was granted before still holds.
    pub(super) fn still_holds(&self, device: &str, grant: Grant) -> bool {
        match (self, grant) {
            (Self::Token(registry), Grant(Some(hash))) => registry.holds(device, &hash),
            _ => true,
        }
    }
}
