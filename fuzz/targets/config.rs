//! Any text is a configuration, or a list of problems with the lines where they are.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match telehub::config::parse(text, "telehub.toml") {
        Ok(checked) => {
            assert!(checked.config.devices.max_connections > 0);
            assert!(checked.config.devices.window > 0);
            assert!(checked.config.uplink.inflight > 0);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            let lines = text.split('\n').count();
            for problem in &errors.0 {
                assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!problem.text.is_empty());
            }
            let _ = errors.to_string();
        }
    }
});
