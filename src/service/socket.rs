//! The device port as systemd hands it over: one listening TCP socket. See sd_listen_fds(3).

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// Why what was handed over cannot be the device port.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// More than one.
    #[error("systemd handed over {0} sockets; write exactly one ListenStream= in telehub.socket")]
    Several(usize),
    /// Of another kind.
    #[error(
        "what systemd handed over {0}; write ListenStream= with an address and a port in \
         telehub.socket, without Accept=yes"
    )]
    Kind(&'static str),
    /// The environment or the descriptor makes no sense.
    #[error("cannot take over the socket from systemd: {0}")]
    Io(#[from] io::Error),
}

/// The listening socket, if this process was given one. Call once, before anything is opened.
///
/// # Errors
/// [`Unfit`], when something else was given.
pub fn take() -> Result<Option<TcpListener>, Unfit> {
    let mut descriptors = sd_notify::listen_fds()?;
    let count = descriptors.len();
    let Some(first) = descriptors.next() else {
        return Ok(None);
    };
    if count > 1 {
        return Err(Unfit::Several(count));
    }
    #[expect(unsafe_code, reason = "the descriptor exists as a number only")]
    // SAFETY: LISTEN_PID names this process, so the descriptor was opened for it and is owned by
    // nobody else; this is called once.
    let socket = unsafe { OwnedFd::from_raw_fd(first) };
    check(&socket)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

fn check(socket: &OwnedFd) -> Result<(), Unfit> {
    let family = sockopt::socket_domain(socket).map_err(|_| Unfit::Kind("is no socket"))?;
    let kind = sockopt::socket_type(socket).map_err(io::Error::from)?;
    let listens = sockopt::socket_acceptconn(socket).map_err(io::Error::from)?;
    if !matches!(family, AddressFamily::INET | AddressFamily::INET6) {
        return Err(Unfit::Kind("is no internet socket"));
    }
    if kind != SocketType::STREAM {
        return Err(Unfit::Kind("is no TCP socket"));
    }
    if !listens {
        return Err(Unfit::Kind("does not listen"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_listening_tcp_socket_is_fit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        check(&listener.into()).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(other.local_addr().unwrap()).unwrap();
        let unfit: [(OwnedFd, &str); 4] = [
            (UdpSocket::bind(address).unwrap().into(), "no TCP socket"),
            (stream.into(), "does not listen"),
            (
                UnixListener::bind(dir.path().join("s")).unwrap().into(),
                "no internet socket",
            ),
            (tempfile::tempfile().unwrap().into(), "no socket"),
        ];
        for (socket, why) in unfit {
            let said = check(&socket).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }
}
