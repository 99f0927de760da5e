//! A Python with packages of its own, for clients that nobody here wrote the libraries of.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The environment's Python, made on first use; the reason when that is not possible here. Or the
/// one that `TELEHUB_TEST_PYTHON` names, which has the packages.
pub fn python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("TELEHUB_TEST_PYTHON") {
        return Ok(python.into());
    }
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-venv");
    let python = venv.join("bin/python");
    let run = |command: &mut Command| -> Result<Output, String> {
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
    };
    // Several tests may want it at the same time.
    let lock = std::fs::File::create(venv.with_extension("lock")).map_err(|e| e.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if run(Command::new(&python).args(["-c", "import websockets, cbor2"])).is_err() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        let packages = ["websockets>=14", "cbor2>=5"];
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages))?;
    }
    Ok(python)
}
