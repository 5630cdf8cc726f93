//! The listening socket, with a queue long enough for bursts of connections.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Length of the queue of connections that wait to be accepted. If it is full, the kernel drops the first
/// packet of a connection, and the client retries only after 1 s. The runtime's default is 128, which a burst
/// fills while the accept loop is delayed by a few milliseconds. The kernel caps the length at
/// `net.core.somaxconn`, which is 4096 by default.
const BACKLOG: u32 = 4096;

/// Opens a listening socket.
///
/// # Errors
///
/// The address is in use, does not belong to this machine, or requires a privilege.
///
/// # Panics
///
/// If called outside of a runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted service need not wait until connections of its predecessor leave the state TIME_WAIT.
    // On other systems than Unix the option lets two programs share a port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// With the runtime's queue of 128, the 130th connection was retried after 1 s, then after longer pauses.
    #[tokio::test]
    async fn a_burst_of_connections_fits_into_the_queue() {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // No connection is accepted meanwhile.
        let burst = (0..400).map(|_| tokio::net::TcpStream::connect(address));
        let connected =
            tokio::time::timeout(Duration::from_secs(20), futures_util::future::try_join_all(burst));
        assert_eq!(connected.await.expect("the queue has room for all").unwrap().len(), 400);
    }
}
