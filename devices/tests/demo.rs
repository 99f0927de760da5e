//! The demo from end to end: broker, hub and devices as they are, with the link cut in between.

#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

#[test]
fn what_was_acked_before_during_and_after_a_cut_arrives() {
    let output = Command::new(env!("CARGO_BIN_EXE_devices"))
        .args(["demo", "--script", "--phase", "2s"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for told in [
        "the link is cut",
        "the link is restored",
        "every batch acked has arrived",
    ] {
        assert!(text.contains(told), "no word of `{told}`:\n{text}");
    }
}
