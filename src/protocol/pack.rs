//! SenML packs (RFC 8428).

use std::marker::PhantomData;

/// A pack as the device sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pack<'a>(PhantomData<&'a ()>);
