//! Whatever lies on the disk is read back as it was, or as gap records, and never stops the hub.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telehub::spool::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => fuzzing::group(rest),
        1 => {
            let Some((at, rest)) = rest.split_first() else {
                return;
            };
            let (header, body) = rest.split_at(usize::from(*at).min(rest.len()));
            fuzzing::forged_group(header, body);
        }
        2 => fuzzing::forged_files(rest),
        _ => {
            let Some((damage, rest)) = rest.split_first_chunk::<3>() else {
                return;
            };
            let at = u16::from_le_bytes([damage[0], damage[1]]);
            fuzzing::whole_group(rest, (at, damage[2]));
        }
    }
});
