//! Any request head is judged: an upgrade with a valid id, or a refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|head: &[u8]| telehub::listen::fuzzing::upgrade(head));
