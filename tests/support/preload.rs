//! Libraries that are loaded into the daemon before the C library, compiled here with `cc`.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `tests/support/NAME.c` into `dir`. `None`, said loudly, without a C compiler.
pub fn shim(dir: &Path, name: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/support/{name}.c"));
    let library = dir.join(format!("{name}.so"));
    let compiled = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source)
        .arg("-ldl")
        .status();
    match compiled {
        Ok(status) if status.success() => Some(library),
        Ok(_) => panic!("{} does not compile", source.display()),
        Err(error) => {
            // Past the test harness, which swallows what passing tests print.
            let _ = writeln!(
                std::io::stderr(),
                "\nNOT TESTED: a preloaded library needs cc ({error}); apt-get install gcc\n"
            );
            None
        }
    }
}
