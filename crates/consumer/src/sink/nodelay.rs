//! Nagle's algorithm switched off for the connections to PostgreSQL. The one unsafe line of this room is here.
//!
//! A COPY ends with a packet of five bytes right behind the data. Nagle's algorithm holds it back until the server has
//! acknowledged the data, and the server, which has nothing to say yet, acknowledges late: 40 ms in every transaction.
//! sqlx 0.9.0 no longer sets TCP_NODELAY (sqlx issue 4335, mended after that release) and keeps its socket to itself, so
//! it is looked for among the descriptors of this process. With a newer sqlx this file can go.

use std::os::fd::{BorrowedFd, RawFd};

use socket2::SockRef;

/// Sets TCP_NODELAY on every connection of this process to `port`, on whatever host. What cannot be set is left as it
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
            && let Err(error) = socket.set_tcp_nodelay(true)
        {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
    }
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
        assert!(!theirs.nodelay()?);
        Ok(())
    }
}
