//! Any bytes are a certificate with some names and an end, or with none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telehub::certificate::{names, not_after};

fuzz_target!(|der: &[u8]| {
    for name in names(der) {
        let name = name.as_bytes();
        assert!(name.is_empty() || der.windows(name.len()).any(|part| part == name));
    }
    if let Some(end) = not_after(der) {
        // The years 0 to 9999.
        assert!((-62_200_000_000..=253_500_000_000).contains(&end), "{end}");
    }
});
