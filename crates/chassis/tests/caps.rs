//! Caps on connections: one address cannot lock out all others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use phase6_chassis::{
    Access, ConnectionLimits, Definition, Domain, Enforcer, Host, Needs, Settings, catalog::Service, start,
    store::DatabaseUrl,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use utoipa_axum::router::OpenApiRouter;

const PLAIN: Definition = Definition {
    service: Service::named("training"),
    domain: Domain::NotBuilt,
    needs: Needs { store: None, fallback_labels: None },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};

/// A connection that has had an answer and stays open; none if it was closed instead.
async fn open(address: SocketAddr) -> Option<TcpStream> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    socket.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await.ok()?;
    let mut buffer = [0; 1024];
    let count = socket.read(&mut buffer).await.ok()?;
    (count > 0).then_some(socket)
}

#[tokio::test]
async fn one_address_has_at_most_its_share_and_a_closed_connection_frees_a_place() {
    let host = Host {
        access: Access::open(),
        database: DatabaseUrl::file("unused.db"),
        redis: None,
        shared_as: None,
        spans: None,
        cache_folder: None,
        peers: HashMap::new(),
        patience: std::time::Duration::ZERO,
        connections: ConnectionLimits { max_per_peer: 2, ..ConnectionLimits::default() },
        settings: Settings::default(),
        version: "test",
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = start(&PLAIN, listener, &host, Enforcer::default()).await.unwrap();
    let address = running.address();
    let first = open(address).await.unwrap();
    let _second = open(address).await.unwrap();
    assert!(open(address).await.is_none(), "a third one");
    drop(first);
    let again = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Some(socket) = open(address).await {
                return socket;
            }
            tokio::task::yield_now().await;
        }
    });
    let _again = again.await.expect("the place is free again");
    assert!(running.stop(Duration::from_secs(5)).await);
}
