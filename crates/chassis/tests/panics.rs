//! A handler that panics costs its own request, and nothing else.

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
use utoipa_axum::{router::OpenApiRouter, routes};

#[utoipa::path(get, path = "/bug", responses((status = 200)))]
async fn bug() -> &'static str {
    panic!("a bug of this test's own")
}

#[utoipa::path(get, path = "/fine", responses((status = 200)))]
async fn fine() -> &'static str {
    "fine"
}

const BUGGY: Definition = Definition {
    service: Service::named("training"),
    domain: Domain::Built,
    needs: Needs { store: None, fallback_labels: None },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new().routes(routes!(bug)).routes(routes!(fine))) }),
};

async fn get(address: SocketAddr, path: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Under a policy with a cache a handler runs as the leader of a flight, which must end too.
#[tokio::test]
async fn a_handler_that_panics_answers_500_is_counted_and_ends_nothing() {
    for policy in ["{}", r#"{"cache":{"ttl":"5s"}}"#] {
        let enforcer = Enforcer::default();
        let document = format!(
            r#"{{"ownerUid":"u","revision":1,"generation":1,"hash":"","publishedAt":"","policy":{policy}}}"#
        );
        enforcer.apply(serde_json::from_str(&document).unwrap());
        let host = Host {
            access: Access::open(),
            database: DatabaseUrl::file("unused.db"),
            redis: None,
            shared_as: None,
            spans: None,
            cache_folder: None,
            peers: HashMap::new(),
            patience: std::time::Duration::ZERO,
            connections: ConnectionLimits::default(),
            settings: Settings::default(),
            version: "test",
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let running = start(&BUGGY, listener, &host, enforcer).await.unwrap();
        let address = running.address();
        for _ in 0..3 {
            let answer = get(address, "/bug").await;
            assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
            assert!(answer.contains(r#""ok":false"#) && answer.contains(r#""code":"internal""#), "{answer}");
            assert!(!answer.contains("bug of this test"), "what went wrong is for the log: {answer}");
            assert!(get(address, "/fine").await.ends_with("fine"));
        }
        let metrics = get(address, "/metrics").await;
        let counted = metrics.lines().find(|line| line.starts_with("phase6_panics_total")).unwrap();
        assert!(counted.ends_with(" 3"), "{counted}");
        assert!(running.stop(Duration::from_secs(5)).await);
    }
}
