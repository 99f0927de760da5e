//! Every kit, and two devices on foreign libraries, against the conformance test; and devices that
//! break one rule each, to see that the test notices.
//!
//! What a kit needs from a package registry is installed under the build directory. Where a tool is
//! missing, the test says so loudly and does not count as one.
#![allow(clippy::unwrap_used, missing_docs)]

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

fn kits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kits")
}

fn not_tested(what: &str, why: &str) {
    // Past the test harness, which swallows what passing tests print.
    let _ = writeln!(std::io::stderr(), "\nNOT TESTED: {what}: {why}\n");
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Err(format!("{command:?}: {out}{err}"))
}

/// A Python with the packages that the kit names, made on first use. `TELEHUB_TEST_PYTHON` names one
/// that has them.
fn python() -> Result<PathBuf, String> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PYTHON.get_or_init(make_python).clone()
}

fn make_python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("TELEHUB_TEST_PYTHON") {
        return Ok(python.into());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-venv");
    let python = venv.join("bin/python");
    let wanted = "import cbor2, websockets; assert int(websockets.__version__.split('.')[0]) >= 15";
    if run(Command::new(&python).args(["-c", wanted])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        // Through its own metadata, so that these are known to be right.
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .arg(kits().join("python")))?;
    }
    Ok(python)
}

/// Runs scenarios against a program. The report, and whether all passed.
fn conformance(
    options: &[&str],
    program: &[&OsStr],
    environment: &[(&str, &Path)],
) -> (String, bool) {
    let output = Command::new(env!("CARGO_BIN_EXE_devices"))
        .args(["conformance", "--jobs", "8"])
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

fn passes(program: &[&OsStr], environment: &[(&str, &Path)]) {
    let (report, passed) = conformance(&[], program, environment);
    assert!(passed, "{report}");
}

/// Builds the C kit and its tests into the build directory.
fn c_kit() -> Result<PathBuf, String> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-c");
    run(Command::new("make")
        .arg(format!("OUT={}", out.display()))
        .args(["all", "check", "ROUNDS=20000"])
        .current_dir(kits().join("c")))?;
    Ok(out)
}

#[test]
fn the_c_kit_keeps_the_rules_and_conforms_under_sanitizers() {
    for (tool, header) in [("make", None), ("cc", Some("/usr/include/openssl/ssl.h"))] {
        let there = run(Command::new(tool).arg("--version"));
        if let Err(why) = there {
            return not_tested("the C kit", &why);
        }
        if header.is_some_and(|header| !Path::new(header).exists()) {
            return not_tested(
                "the C kit",
                "OpenSSL's headers are not installed (libssl-dev)",
            );
        }
    }
    let out = c_kit().unwrap();
    passes(&[out.join("probe").as_ref()], &[]);
    // The same core without commands, and through Arduino's Client: what is theirs alone.
    let options = "--only acks --only resume --only cut --only 1001 --only drops --only pongs \
                   --only byte-by-byte --only half-open --only fragment --skip tls";
    let options: Vec<&str> = options.split_whitespace().collect();
    for program in ["probe-plain", "probe-arduino"] {
        let (report, passed) = conformance(&options, &[out.join(program).as_ref()], &[]);
        assert!(passed, "{program}: {report}");
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
            let (report, passed) = conformance(&options, &program, &[("PYTHONPATH", &path)]);
            assert!(passed, "{report}");
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

const WS: &str = "ws";
const CBOR: &str = "cbor-x";
/// MicroPython itself, in WebAssembly: there is no Debian package of it.
const MICROPYTHON: &str = "@micropython/micropython-webassembly-pyscript";

/// A folder with the packages from npm, made on first use.
fn node_modules() -> Result<PathBuf, String> {
    static MODULES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-npm");
        let there = |package: &str| dir.join("node_modules").join(package).is_dir();
        run(Command::new("node").arg("--version"))?;
        if ![WS, CBOR, MICROPYTHON].into_iter().all(there) {
            std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
            std::fs::write(dir.join("package.json"), "{}").map_err(|error| error.to_string())?;
            // Without the native parts, which would be compiled or downloaded.
            run(Command::new("npm")
                .args([
                    "install",
                    "--silent",
                    "--no-audit",
                    "--no-fund",
                    "--omit=optional",
                ])
                .args([
                    format!("{WS}@8"),
                    format!("{CBOR}@1"),
                    format!("{MICROPYTHON}@1"),
                ])
                .current_dir(&dir))?;
        }
        Ok(dir)
    };
    MODULES.get_or_init(make).clone()
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
            let probe = kits().join("micropython/tests/probe.py");
            passes(&["python3".as_ref(), probe.as_ref()], &[]);
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
            let (report, passed) = conformance(&options, &command, &environment);
            assert!(passed, "{report}");
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
