//! A Redis that falls silent: all that one request waits for it stays within one limit. On the runtime's own
//! clock, which goes on at once where everybody waits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

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
use phase6_cache::{Ask, Cache, CacheLayer, Client, Level, Remote, Terms};
use phase6_redis::{CALL_LIMIT, Redis, WaitBudget};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tower::{Layer, ServiceExt, service_fn};

const TERMS: Terms = Terms {
    ttl: Duration::from_mins(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 100,
};

const ASK: Ask = Ask {
    terms: |_| Some(&TERMS),
    client: |_| Client { tenant: "", authorised: false },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

/// The server of the tests, until `silent` is set: then nothing that it says arrives any more.
async fn redis(silent: &Arc<AtomicBool>) -> Redis {
    let server = std::env::var("PHASE6_TEST_REDIS").unwrap();
    let server = server.trim_start_matches("redis://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let silent = Arc::clone(silent);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (mut asks, mut hears) = client.into_split();
            let (mut tells, mut answers) = TcpStream::connect(&server).await.unwrap().into_split();
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut answers).await });
            let silent = Arc::clone(&silent);
            tokio::spawn(async move {
                let mut said = [0; 4096];
                while let Ok(count @ 1..) = tells.read(&mut said).await {
                    if !silent.load(Ordering::Relaxed) && hears.write_all(&said[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Redis::new(&url.parse().unwrap(), &format!("phase6:test:patience:{:x}", rand::random::<u64>())).unwrap()
}

#[tokio::test]
async fn a_request_that_has_waited_for_redis_waits_for_what_is_left_of_its_patience() {
    let silent = Arc::default();
    let level = Arc::new(Remote::new(redis(&silent).await));
    let cache = Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>));
    let layer = CacheLayer::new(cache, "test", ASK);
    let inner = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"yes"))))
    });
    let ask = async |uri: &str, waited: Duration| {
        let mut request = Request::get(uri).body(Full::default()).unwrap();
        request.extensions_mut().insert(WaitBudget::default().after(waited));
        let begun = Instant::now();
        let Ok(answer) = layer.layer(inner).oneshot(request).await;
        assert_eq!(answer.status(), 200);
        begun.elapsed()
    };
    while !level.is_in_touch() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It connects.
    ask("/first", Duration::ZERO).await;
    silent.store(true, Ordering::Relaxed);
    tokio::time::pause();
    for waited in [CALL_LIMIT, CALL_LIMIT * 4 / 5, CALL_LIMIT / 5, Duration::ZERO] {
        let took = ask(&format!("/{}", waited.as_millis()), waited).await;
        let left = CALL_LIMIT.saturating_sub(waited);
        // The runtime counts in whole milliseconds.
        assert!((left..=left + Duration::from_millis(2)).contains(&took), "{waited:?} before, {took:?} now");
    }
}
