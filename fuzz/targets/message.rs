//! Any frame of a device becomes a message or a reject that can be sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telehub::protocol::limits::MAX_DETAIL;
use telehub::protocol::message::{FromDevice, ToDevice};
use telehub::protocol::reject::{Reject};
use telehub::protocol::{decode, decode_to_device, encode};
use telehub::reading::Encoding;

fn check_reject(reject: Reject) {
    assert!(!reject.detail.is_empty() && reject.detail.len() <= MAX_DETAIL);
    let reject = ToDevice::Reject(reject);
    for encoding in [Encoding::Cbor, Encoding::Json] {
        let bytes = encode(encoding, &reject);
        assert_eq!(decode_to_device(encoding, &bytes).as_ref(), Ok(&reject));
    }
}

fuzz_target!(|frame: &[u8]| {
    match decode(telehub_fuzz::encoding(frame), frame) {
        Ok(FromDevice::Data(data)) => {
            assert_ne!(data.seq, Some(0));
            match data.pack.check(1.7e9) {
                Ok(summary) => assert_eq!(summary.readings as usize, data.pack.readings()),
                Err(error) => check_reject(error.into_reject(data.seq)),
            }
        }
        Ok(_) => {}
        Err(reject) => check_reject(reject),
    }
});
