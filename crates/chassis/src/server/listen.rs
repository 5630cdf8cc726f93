//! The listening socket: how many connections may wait for the accept loop.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted. Of one too many the kernel drops the first packet, and its
/// client tries again only after a second. The default of the runtime is 128, which a burst of
/// clients fills while the loop is held up for some milliseconds. The kernel has a bound of its own,
/// `net.core.somaxconn`, which is 4096 where nobody changed it.
const BACKLOG: u32 = 4096;

/// Listens at an address, with room for a burst of connections.
///
/// # Errors
///
/// The address is taken, is not of this machine, or needs a privilege.
///
/// # Panics
///
/// Outside of a runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A service that starts again must not wait for the connections of its predecessor to be forgotten.
    // Elsewhere the option means that two programs may share a port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The 130th waited for a second, and longer each time that it came in vain.
    #[tokio::test]
    async fn a_burst_of_connections_waits_in_the_queue_and_loses_no_packet() {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts meanwhile.
        let burst = (0..400).map(|_| tokio::net::TcpStream::connect(address));
        let connected =
            tokio::time::timeout(Duration::from_secs(20), futures_util::future::try_join_all(burst));
        assert_eq!(connected.await.expect("all fit").unwrap().len(), 400);
    }
}
