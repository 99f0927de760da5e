//! Registries of devices that have their ids as tokens.
#![allow(dead_code, missing_docs, unreachable_pub)]

use telehub::listen::registry::token_hash;

/// A device's entry. `rights`: what else stands in it.
pub fn entry(id: &str, rights: &str) -> String {
    let hash = token_hash(id);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("[[device]]\nid = \"{id}\"\ntoken_sha256 = \"{hex}\"\n{rights}\n")
}

/// The entries of these devices, each with its rights.
pub fn registry(devices: &[(&str, &str)]) -> String {
    let entries = devices.iter().map(|(id, rights)| entry(id, rights));
    entries.collect()
}
