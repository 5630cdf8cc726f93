//! Limits of connections: one client cannot lock out all others.

use std::net::SocketAddr;

use phase6_chassis::{
    ConnectionLimits, Definition,
    catalog::Service,
    testing::{TestService, wait_until},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
};

const EMPTY: Definition = Definition::not_built(Service::named("training"));

/// Opens a connection and sends a request. Returns `None` if the service closes it without a response.
async fn open(address: SocketAddr) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await.ok()?;
    let mut buffer = [0; 1024];
    let count = socket.read(&mut buffer).await.ok()?;
    (count > 0).then_some(socket)
}

#[tokio::test]
async fn a_client_has_a_limited_number_of_connections_and_may_reopen_closed_ones() {
    let limits = ConnectionLimits { max_per_client: 2, ..ConnectionLimits::default() };
    let service = TestService::builder(&EMPTY).connections(limits).start().await;
    let first = open(service.address()).await.expect("the first connection");
    let _second = open(service.address()).await.expect("the second connection");
    assert!(open(service.address()).await.is_none(), "a third connection");
    drop(first);
    let reopened = Mutex::new(None);
    wait_until("a closed connection can be reopened", || async {
        let socket = open(service.address()).await;
        let is_open = socket.is_some();
        *reopened.lock().await = socket;
        is_open
    })
    .await;
    service.shutdown().await;
}
