//! Any bytes are a certificate with some names, or with none.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| telehub::listen::fuzzing::certificate(der));
