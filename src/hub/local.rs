//! The socket for the local operator, where systemd gives the hub a directory for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tokio::net::UnixListener;

/// Owner and group: root and the members of the group telehub under the shipped unit.
const MODE: u32 = 0o660;

const NAME: &str = "admin.sock";

/// Listens in the directory that `RuntimeDirectory=` has made. That it cannot is no reason not to
/// start: devices do not need it.
pub(super) fn listen() -> Option<UnixListener> {
    let directory: PathBuf = std::env::var_os("RUNTIME_DIRECTORY")?.into();
    let path = directory.join(NAME);
    // Of a run that was killed: the directory is this service's alone.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).and_then(|listener| {
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE))?;
        Ok(listener)
    });
    match listener {
        Ok(listener) => {
            tracing::info!(path = %path.display(), "the local operator can ask");
            Some(listener)
        }
        Err(error) => {
            tracing::warn!(
                path = %path.display(), %error,
                "cannot listen for the local operator; telehub status needs [admin] listen"
            );
            None
        }
    }
}
