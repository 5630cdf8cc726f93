//! Client behavior against a real Redis server, while it is available and during outages.
//!
//! Connections pass through a relay that can freeze or cut them.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use phase6_redis::{CALL_LIMIT, Redis, RedisError, Script, cmd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// State of the relayed connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    /// Bytes pass.
    Open,
    /// Connections stay open and no bytes pass.
    Frozen,
    /// Existing connections are closed, and so is every new one.
    Cut,
}

/// A relay between the client and the server.
struct Relay {
    address: SocketAddr,
    wire: Arc<watch::Sender<Wire>>,
    /// Number of connections refused while cut.
    refused: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Relay {
    async fn start() -> Self {
        let url = std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server");
        let server = url.trim_start_matches("redis://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(watch::Sender::new(Wire::Open));
        let refused = Arc::new(AtomicUsize::new(0));
        let (state, count) = (Arc::clone(&wire), Arc::clone(&refused));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() == Wire::Cut {
                    count.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let server = TcpStream::connect(&server).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(forward(from_client, to_server, state.subscribe()));
                tokio::spawn(forward(from_server, to_client, state.subscribe()));
            }
        });
        Self { address, wire, refused, accepting }
    }

    fn client(&self) -> Redis {
        Redis::new(&format!("redis://{}", self.address).parse().unwrap(), "test").unwrap()
    }

    fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.set(Wire::Cut);
        self.accepting.abort();
    }
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut wire: watch::Receiver<Wire>,
) {
    let mut bytes = [0; 4096];
    loop {
        let state = *wire.borrow_and_update();
        tokio::select! {
            changed = wire.changed() => if changed.is_err() { return },
            read = from.read(&mut bytes), if state == Wire::Open => match read {
                Ok(read @ 1..) if to.write_all(&bytes[..read]).await.is_ok() => {}
                _ => return,
            },
            () = std::future::ready(()), if state == Wire::Cut => return,
        }
    }
}

async fn ping(redis: &Redis) -> Result<String, RedisError> {
    redis.command(&cmd("PING")).await
}

fn in_outage(redis: &Redis) -> bool {
    redis.status().outage.is_some()
}

/// Waits until the outage ends; returns the time waited.
async fn wait_for_recovery(redis: &Redis) -> Duration {
    let started = Instant::now();
    while in_outage(redis) {
        assert!(started.elapsed() < Duration::from_secs(10), "the outage did not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

/// Calls until an outage begins; returns the errors of those calls.
async fn call_until_outage(redis: &Redis) -> Vec<RedisError> {
    let mut errors = Vec::new();
    while !in_outage(redis) {
        assert!(errors.len() < 10, "{errors:?}");
        errors.push(ping(redis).await.unwrap_err());
    }
    errors
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn runs_commands_and_scripts() {
    let relay = Relay::start().await;
    let redis = relay.client();
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
    let add = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let key = format!("phase6-test:{}", relay.address.port());
    for expected in [5, 10] {
        assert_eq!(redis.script::<i64>(add.key(&key).arg(5)).await, Ok(expected));
    }
    assert_eq!(redis.command::<i64>(cmd("DEL").arg(&key)).await, Ok(1));
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn a_rejected_command_is_not_an_outage() {
    let relay = Relay::start().await;
    let redis = relay.client();
    for _ in 0..5 {
        let error = redis.command::<String>(&cmd("NONSENSE")).await.unwrap_err();
        assert!(matches!(&error, RedisError::Rejected(text) if text.contains("NONSENSE")), "{error}");
    }
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn three_calls_wait_for_a_frozen_server_and_later_calls_fail_at_once() {
    let relay = Relay::start().await;
    let redis = relay.client();
    ping(&redis).await.unwrap();
    relay.set(Wire::Frozen);
    assert_eq!(
        call_until_outage(&redis).await,
        [RedisError::TimedOut, RedisError::TimedOut, RedisError::TimedOut]
    );
    let started = Instant::now();
    for _ in 0..1000 {
        assert_eq!(ping(&redis).await, Err(RedisError::Unavailable));
    }
    assert!(started.elapsed() < CALL_LIMIT * 10, "1,000 failed calls took {:?}", started.elapsed());
    relay.set(Wire::Open);
    wait_for_recovery(&redis).await;
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn an_outage_ends_within_2_s_of_the_servers_return() {
    let relay = Relay::start().await;
    let redis = relay.client();
    ping(&redis).await.unwrap();
    for _ in 0..3 {
        relay.set(Wire::Cut);
        call_until_outage(&redis).await;
        // A failed probe is followed by another.
        let before = relay.refused.load(Ordering::SeqCst);
        let due = Instant::now() + Duration::from_secs(10);
        while relay.refused.load(Ordering::SeqCst) < before + 2 {
            assert!(Instant::now() < due, "the probe has stopped");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(in_outage(&redis));
        relay.set(Wire::Open);
        let took = wait_for_recovery(&redis).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(ping(&redis).await.unwrap(), "PONG");
        assert!(!in_outage(&redis));
    }
}

#[tokio::test]
async fn a_client_without_a_server_can_be_created_and_its_calls_fail_fast() {
    // The listener is dropped, so nothing listens on its port.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let redis = Redis::new(&format!("redis://:secret@{address}").parse().unwrap(), "test").unwrap();
    let errors = call_until_outage(&redis).await;
    assert_eq!(errors.len(), 3);
    for error in &errors {
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(ping(&redis).await, Err(RedisError::Unavailable));
    assert_eq!(redis.status().address, format!("redis://{address}/0"));
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn the_probe_ends_when_the_last_client_is_dropped() {
    let relay = Relay::start().await;
    let redis = relay.client();
    relay.set(Wire::Cut);
    call_until_outage(&redis).await;
    drop(redis);
    // The probe is a task: it shows in the task count until it ends.
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let due = Instant::now() + Duration::from_secs(5);
    while tasks() > 1 {
        assert!(Instant::now() < due, "{} tasks apart from the relay", tasks() - 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn blocking_commands_begin_an_outage_while_no_server_can_be_located() {
    for url in ["redis-sentinel://127.0.0.1:1/main", "redis-cluster://127.0.0.1:1"] {
        let redis = Redis::new(&url.parse().unwrap(), "test").unwrap();
        redis.warm_up().await;
        for _ in 0..3 {
            let result = redis.blocking_command::<String>(&cmd("PING")).await;
            assert!(matches!(result, Err(RedisError::ConnectionFailed(_))), "{result:?}");
        }
        assert_eq!(ping(&redis).await, Err(RedisError::Unavailable));
    }
}
