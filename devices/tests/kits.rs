//! Every kit, and two devices on foreign libraries, against the conformance test; and devices that
//! break one rule each, to see that the test notices.
//!
//! What a kit needs from a package registry is installed under the build directory. Where a tool is
//! missing, the test says so loudly and does not count as one.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/kits.rs"]
mod support;

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use support::{c_kit, kits, micropython, node_modules, not_tested, python, run};

/// Runs scenarios against a program. The report, and whether all passed.
fn conformance(
    options: &[&str],
    program: &[&OsStr],
    environment: &[(&str, &Path)],
) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_devices"))
        .arg("conformance")
        .args(options)
        .arg("--")
        .args(program)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (format!("{report}{errors}"), output.status.success())
}

/// What fails beside others, on a machine that has other things to do as well, has to fail
/// alone too, and slower: a device that was not given the processor in time has broken no rule.
fn passes(program: &[&OsStr], environment: &[(&str, &Path)]) {
    judged(&[], program, environment);
}

fn judged(options: &[&str], program: &[&OsStr], environment: &[(&str, &Path)]) {
    let (report, passed) = conformance(options, program, environment);
    if passed {
        return;
    }
    let failed: Vec<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("FAIL ")?.split_whitespace().next())
        .collect();
    assert!(!failed.is_empty(), "{report}");
    for name in failed {
        let alone = ["--jobs", "1", "--scale", "0.3", "--only", name];
        let (again, passed) = conformance(&alone, program, environment);
        assert!(passed, "{report}\nalone:\n{again}");
    }
}

#[test]
fn the_c_kit_keeps_the_rules_and_conforms_under_sanitizers() {
    let out = match c_kit() {
        Err(why) => return not_tested("the C kit", &why),
        Ok(out) => out.unwrap(),
    };
    passes(&[out.join("probe").as_ref()], &[]);
    // The same core without commands, through Arduino's Client and ESP-IDF's task: what is theirs
    // alone.
    let options = "--only acks --only resume --only cut --only 1001 --only drops --only pongs \
                   --only byte-by-byte --only half-open --only fragment --skip tls";
    let options: Vec<&str> = options.split_whitespace().collect();
    for program in ["probe-plain", "probe-arduino", "probe-esp-idf"] {
        judged(&options, &[out.join(program).as_ref()], &[]);
    }
}

#[test]
fn the_python_kit_conforms_with_its_queue_in_memory() {
    match python() {
        Err(why) => not_tested("the Python kit", &why),
        Ok(python) => {
            let kit = kits().join("python");
            let probe = kit.join("tests/probe.py");
            let path = kit.join("src");
            passes(&[python.as_ref(), probe.as_ref()], &[("PYTHONPATH", &path)]);
        }
    }
}

#[test]
fn the_python_kit_conforms_with_its_queue_on_disk() {
    match python() {
        Err(why) => not_tested("the Python kit on disk", &why),
        Ok(python) => {
            let kit = kits().join("python");
            let probe = kit.join("tests/probe.py");
            let path = kit.join("src");
            let program: [&OsStr; 3] = [python.as_ref(), probe.as_ref(), "--sqlite".as_ref()];
            // What the disk has no part in is tested with the queue in memory.
            let options: Vec<&str> = ["resume", "restart", "bad-seq", "poison", "reject", "drops"]
                .iter()
                .flat_map(|name| ["--only", name])
                .collect();
            judged(&options, &program, &[("PYTHONPATH", &path)]);
        }
    }
}

#[test]
fn the_python_core_keeps_the_rules() {
    match python() {
        Err(why) => not_tested("the Python core", &why),
        Ok(python) => {
            let kit = kits().join("python");
            let tests = [
                "-m",
                "unittest",
                "discover",
                "-s",
                "tests",
                "-p",
                "test_*.py",
            ];
            run(Command::new(python)
                .args(tests)
                .current_dir(&kit)
                .env("PYTHONPATH", kit.join("src")))
            .unwrap();
        }
    }
}

#[test]
fn a_device_on_websockets_and_cbor2_conforms() {
    match python() {
        Err(why) => not_tested("the device on websockets and cbor2", &why),
        Ok(python) => {
            let program = kits().join("foreign/websockets_cbor2.py");
            passes(&[python.as_ref(), program.as_ref()], &[]);
        }
    }
}

#[test]
fn the_javascript_kit_keeps_the_rules_and_conforms() {
    match node_modules() {
        Err(why) => not_tested("the JavaScript kit", &why),
        Ok(modules) => {
            let kit = kits().join("javascript");
            run(Command::new("node")
                .args(["--test", "tests/core.test.js"])
                .current_dir(&kit))
            .unwrap();
            let probe = kit.join("tests/probe.js");
            let ws = modules.join("node_modules/ws/wrapper.mjs");
            passes(&["node".as_ref(), probe.as_ref()], &[("TELEHUB_WS", &ws)]);
        }
    }
}

#[test]
fn a_device_on_ws_and_cbor_x_conforms() {
    match node_modules() {
        Err(why) => not_tested("the device on ws and cbor-x", &why),
        Ok(modules) => {
            let program = kits().join("foreign/ws_cborx.mjs");
            let environment = [("TELEHUB_MODULES", modules.as_path())];
            passes(&["node".as_ref(), program.as_ref()], &environment);
        }
    }
}

/// On CPython the whole kit, sockets and all; on MicroPython its core, with Node's sockets.
#[test]
fn the_micropython_kit_conforms_on_cpython() {
    match run(Command::new("python3").arg("--version")) {
        Err(why) => not_tested("the MicroPython kit on CPython", &why),
        Ok(_) => {
            let hostile = ["-m", "unittest", "discover", "-s", "tests"];
            run(Command::new("python3")
                .args(hostile)
                .current_dir(kits().join("micropython")))
            .unwrap();
            let probe = kits().join("micropython/tests/probe.py");
            passes(&["python3".as_ref(), probe.as_ref()], &[]);
        }
    }
}

#[test]
fn the_micropython_kit_runs_in_a_heap_of_64_kib() {
    match micropython() {
        Err(why) => not_tested("the heap of the MicroPython kit", &why),
        Ok(bin) => {
            let kit = kits().join("micropython");
            let compiled = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-mpy");
            std::fs::create_dir_all(&compiled).unwrap();
            run(Command::new(bin.join("mpy-cross"))
                .arg(kit.join("telehub.py"))
                .arg("-o")
                .arg(compiled.join("telehub.mpy")))
            .unwrap();
            run(Command::new(bin.join("micropython"))
                .args(["-X", "heapsize=64wk"])
                .arg(kit.join("tests/heap.py"))
                .arg(&compiled))
            .unwrap();
        }
    }
}

#[test]
fn the_micropython_kit_conforms_on_micropython() {
    match node_modules() {
        Err(why) => not_tested("the MicroPython kit on MicroPython", &why),
        Ok(modules) => {
            let program = kits().join("micropython/tests/bridge.mjs");
            let command: [&OsStr; 2] = ["node".as_ref(), program.as_ref()];
            // What the other interpreter may do otherwise; it is slow to start.
            let options = "--only resume --only commands --only floats --only 1001 --only drops \
                           --only fragment --only bad-messages --only deep --only pongs";
            let options: Vec<&str> = options.split_whitespace().collect();
            let environment = [("TELEHUB_MODULES", modules.as_path())];
            judged(&options, &command, &environment);
        }
    }
}

/// A conformance test that passes everything would pass everything.
#[test]
fn a_device_that_breaks_a_rule_does_not_conform() {
    let python = match python() {
        Err(why) => return not_tested("devices that break a rule", &why),
        Ok(python) => python,
    };
    let program = kits().join("foreign/websockets_cbor2.py");
    for (wrong, scenario, said) in [
        (
            "sends-on-from-there",
            "hub-restart-lower-mark",
            "expected number",
        ),
        (
            "same-stream",
            "device-restart",
            "no number may be used for other content",
        ),
        ("no-backoff", "backoff", "a pause of"),
        ("comes-back", "close-4002", "it is to stop"),
        (
            "trusts-anyone",
            "tls-wrong-name",
            "told an untrusted server",
        ),
        ("ignores-window", "window-of-one", "although the window is"),
        ("drops-silently", "drops", "no drop was reported"),
    ] {
        let command: [&OsStr; 4] = [
            python.as_ref(),
            program.as_ref(),
            "--wrong".as_ref(),
            wrong.as_ref(),
        ];
        let (report, passed) = conformance(&["--only", scenario], &command, &[]);
        assert!(!passed, "{wrong} was not noticed:\n{report}");
        assert!(
            report.contains(said),
            "{wrong}: expected `{said}`:\n{report}"
        );
    }
}
