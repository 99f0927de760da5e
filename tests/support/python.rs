//! Programs of others in Python: a virtual environment with packages from PyPI, made on first use
//! under the build directory.

#![allow(clippy::unwrap_used, unreachable_pub, dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// The environment's Python; the reason when there can be none here. `name` names the environment,
/// `modules` are what the packages are imported as. `TELEHUB_TEST_PYTHON` may name a Python that
/// has all of them.
pub fn python(name: &str, packages: &[&str], modules: &str) -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("TELEHUB_TEST_PYTHON") {
        return Ok(python.into());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = venv.join("bin/python");
    let import = format!("import {modules}");
    // Several tests of a program want it at once; the first makes it.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if run(Command::new(&python).args(["-c", &import])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages))?;
    }
    Ok(python)
}

/// Its output, or why it failed.
pub fn run(command: &mut Command) -> Result<Output, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Says so past the test harness, which swallows what passing tests print.
pub fn not_tested(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "\nNOT TESTED: {what}: {why}\n");
}
