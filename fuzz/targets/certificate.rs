//! Any bytes are a certificate with some names and an end, or none at all.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telehub::certificate::{Certificate, next_update};

fuzz_target!(|der: &[u8]| {
    // The years 0 to 9999.
    let possible = -62_200_000_000..=253_500_000_000;
    if let Some(read) = Certificate::read(der) {
        for name in read.names(false) {
            let name = name.as_bytes();
            assert!(name.is_empty() || der.windows(name.len()).any(|part| part == name));
        }
        assert!(possible.contains(&read.not_after), "{}", read.not_after);
    }
    if let Some(end) = next_update(der) {
        assert!(possible.contains(&end), "{end}");
    }
});
