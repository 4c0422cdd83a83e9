//! Options of the sockets to PostgreSQL. The one unsafe line of this room is here.
//!
//! Nagle's algorithm is switched off. A COPY ends with a packet of five bytes right behind the data. Nagle's algorithm holds it back until the server has
//! acknowledged the data, and the server, which has nothing to say yet, acknowledges late: 40 ms in every transaction.
//! sqlx 0.9.0 no longer sets TCP_NODELAY (sqlx issue 4335, mended after that release) and keeps its socket to itself, so
//! it is looked for among the descriptors of this process.
//!
//! And a path that swallows packets is noticed: by data that nobody acknowledges (TCP_USER_TIMEOUT, RFC 5482), and where none
//! is under way by keepalive probes. Without them a node that is gone would be waited for until the kernel gives up, after a
//! quarter of an hour. sqlx has no option for either.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// How long data may stay without an acknowledgement, and a connection without an answer to a probe.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Silence after which the first probe is sent, and the time between two.
const PROBE: Duration = Duration::from_secs(5);

/// Sets these options on every connection of this process to `port`, on whatever host. What cannot be set is left as it
/// is: that costs time, not correctness.
pub(super) fn set_on_connections_to(port: u16) {
    let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = descriptors.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    for number in numbers {
        // SAFETY: the number comes from the list of open descriptors a moment ago and is never negative. It is only
        // asked for its peer and given an option. Should another thread have closed it meanwhile, the kernel says EBADF;
        // should the number be another socket's by now, that gets the option only if it too is connected to this port.
        #[allow(unsafe_code)]
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let socket = SockRef::from(&descriptor);
        let peer = socket.peer_addr().ok().and_then(|address| address.as_socket());
        if peer.is_some_and(|peer| peer.port() == port)
            && let Err(error) = set(&socket)
        {
            tracing::debug!(%error, "Options of a socket could not be set");
        }
    }
}

fn set(socket: &SockRef<'_>) -> std::io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(2))?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_connections_to_the_port_are_touched() -> std::io::Result<()> {
        let (database, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (ours, theirs) =
            (TcpStream::connect(database.local_addr()?)?, TcpStream::connect(other.local_addr()?)?);
        assert!(!ours.nodelay()?, "the default has changed: is this file still needed?");
        set_on_connections_to(database.local_addr()?.port());
        assert!(ours.nodelay()?);
        assert_eq!(SockRef::from(&ours).tcp_user_timeout()?, Some(DEAD_AFTER));
        assert!(SockRef::from(&ours).keepalive()? && !SockRef::from(&theirs).keepalive()?);
        assert!(!theirs.nodelay()?);
        Ok(())
    }
}
