//! A Redis that stops replying: all waits of one request for it stay within one limit. Uses tokio's paused
//! clock, which advances at once while every task waits.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer, Level, Remote};
use phase6_redis::{CALL_LIMIT, Redis, WaitBudget};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tower::{Layer, ServiceExt, service_fn};

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_mins(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 100,
};

const ACCESSORS: Accessors = Accessors {
    policy: |_| Some(&POLICY),
    client: |_| Client { tenant: "", has_credentials: false },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

/// Connects to the test server through a proxy that drops every reply while `silent` is set.
async fn connect_through_proxy(silent: &Arc<AtomicBool>) -> Redis {
    let server = std::env::var("PHASE6_TEST_REDIS").unwrap();
    let server = server.trim_start_matches("redis://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let silent = Arc::clone(silent);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = TcpStream::connect(&server).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                    if !silent.load(Ordering::Relaxed) && to_client.write_all(&buffer[..count]).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    let prefix = format!("phase6:test:patience:{:x}", rand::random::<u64>());
    Redis::new(&url.parse().unwrap(), &prefix).unwrap()
}

#[tokio::test]
#[ignore = "needs Redis: run by cargo xtask test"]
async fn a_request_waits_for_redis_no_longer_than_its_remaining_budget() {
    let silent = Arc::default();
    let level = Arc::new(Remote::new(connect_through_proxy(&silent).await));
    let cache = Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>));
    let layer = HttpCacheLayer::new(cache, "test", ACCESSORS);
    let inner = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"yes"))))
    });
    let time_request = async |uri: &str, waited: Duration| {
        let mut request = Request::get(uri).body(Full::default()).unwrap();
        request.extensions_mut().insert(WaitBudget::default().after(waited));
        let started = Instant::now();
        let Ok(response) = layer.layer(inner).oneshot(request).await;
        assert_eq!(response.status(), 200);
        started.elapsed()
    };
    while !level.is_in_sync() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Opens the connection.
    time_request("/first", Duration::ZERO).await;
    silent.store(true, Ordering::Relaxed);
    tokio::time::pause();
    for waited in [CALL_LIMIT, CALL_LIMIT * 4 / 5, CALL_LIMIT / 5, Duration::ZERO] {
        let elapsed = time_request(&format!("/{}", waited.as_millis()), waited).await;
        let budget = CALL_LIMIT.saturating_sub(waited);
        // The runtime counts in whole milliseconds.
        assert!(
            (budget..=budget + Duration::from_millis(2)).contains(&elapsed),
            "waited {waited:?} before, {elapsed:?} now"
        );
    }
}
