//! Against a real Redis: what callers see of it, and of its absence.
//!
//! Connections go through a relay of the test's own, which can be frozen and cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use phase6_redis::{LIMIT, Redis, RedisError, Script, cmd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// How the wire is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Whole,
    /// Bytes stay where they are; connections stay open.
    Frozen,
    /// Connections break, and new ones are closed at once.
    Cut,
}

/// A relay between the client and the server.
struct Relay {
    address: SocketAddr,
    wire: Arc<watch::Sender<Wire>>,
    /// Connections that found the wire cut.
    refused: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Relay {
    async fn start() -> Self {
        let url = std::env::var("PHASE6_TEST_REDIS").expect("PHASE6_TEST_REDIS names a server");
        let server = url.trim_start_matches("redis://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let wire = Arc::new(watch::Sender::new(Wire::Whole));
        let refused = Arc::new(AtomicUsize::new(0));
        let (of_wire, count) = (Arc::clone(&wire), Arc::clone(&refused));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *of_wire.borrow() == Wire::Cut {
                    count.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let server = TcpStream::connect(&server).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, of_wire.subscribe()));
                tokio::spawn(pass(from_server, to_client, of_wire.subscribe()));
            }
        });
        Self { address, wire, refused, accepting }
    }

    fn client(&self) -> Redis {
        Redis::new(&format!("redis://{}", self.address).parse().unwrap(), "test").unwrap()
    }

    fn is(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is(Wire::Cut);
        self.accepting.abort();
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut wire: watch::Receiver<Wire>,
) {
    let mut bytes = [0; 4096];
    loop {
        let state = *wire.borrow_and_update();
        tokio::select! {
            changed = wire.changed() => if changed.is_err() { return },
            read = from.read(&mut bytes), if state == Wire::Whole => match read {
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

/// Until the client says that the server is back.
async fn back(redis: &Redis) -> Duration {
    let asked = Instant::now();
    while redis.state().gone {
        assert!(asked.elapsed() < Duration::from_secs(10), "never came back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    asked.elapsed()
}

/// Calls until the client gives the server up; what the callers were told.
async fn until_gone(redis: &Redis) -> Vec<RedisError> {
    let mut told = Vec::new();
    while !redis.state().gone {
        assert!(told.len() < 10, "{told:?}");
        told.push(ping(redis).await.unwrap_err());
    }
    told
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn commands_and_scripts_are_answered() {
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
async fn a_refused_command_is_no_outage() {
    let relay = Relay::start().await;
    let redis = relay.client();
    for _ in 0..5 {
        let refused = redis.command::<String>(&cmd("NONSENSE")).await.unwrap_err();
        assert!(matches!(&refused, RedisError::Refused(why) if why.contains("NONSENSE")), "{refused}");
    }
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn a_frozen_server_is_waited_for_three_times_and_then_not_at_all() {
    let relay = Relay::start().await;
    let redis = relay.client();
    ping(&redis).await.unwrap();
    relay.is(Wire::Frozen);
    assert_eq!(until_gone(&redis).await, [RedisError::TooSlow, RedisError::TooSlow, RedisError::TooSlow]);
    let asked = Instant::now();
    for _ in 0..1000 {
        assert_eq!(ping(&redis).await, Err(RedisError::Gone));
    }
    assert!(asked.elapsed() < LIMIT * 10, "a thousand refusals took {:?}", asked.elapsed());
    relay.is(Wire::Whole);
    back(&redis).await;
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn a_server_that_comes_back_is_used_again_within_2_s() {
    let relay = Relay::start().await;
    let redis = relay.client();
    ping(&redis).await.unwrap();
    for _ in 0..3 {
        relay.is(Wire::Cut);
        until_gone(&redis).await;
        assert!(redis.state().gone_for_ms.is_some());
        // A probe that finds nothing goes on.
        let before = relay.refused.load(Ordering::SeqCst);
        let due = Instant::now() + Duration::from_secs(10);
        while relay.refused.load(Ordering::SeqCst) < before + 2 {
            assert!(Instant::now() < due, "it is not asked any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(redis.state().gone);
        relay.is(Wire::Whole);
        let took = back(&redis).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(ping(&redis).await.unwrap(), "PONG");
        assert_eq!(redis.state().gone_for_ms, None);
    }
}

#[tokio::test]
async fn without_a_server_a_client_is_made_and_its_calls_fail_quickly() {
    // Bound and dropped: a port that nobody listens on.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let redis = Redis::new(&format!("redis://:secret@{address}").parse().unwrap(), "test").unwrap();
    let told = until_gone(&redis).await;
    assert_eq!(told.len(), 3);
    for error in &told {
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(ping(&redis).await, Err(RedisError::Gone));
    assert_eq!(redis.state().address, format!("redis://{address}/0"));
}

#[tokio::test]
#[ignore = "needs Redis: cargo xtask test"]
async fn nobody_probes_for_a_client_that_was_dropped() {
    let relay = Relay::start().await;
    let redis = relay.client();
    relay.is(Wire::Cut);
    until_gone(&redis).await;
    drop(redis);
    // Two pauses of a probe and its limit; a probe that went on would show in the task count.
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let due = Instant::now() + Duration::from_secs(5);
    while tasks() > 1 {
        assert!(Instant::now() < due, "{} tasks besides the relay", tasks() - 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn where_nobody_says_who_the_master_is_nobody_waits_and_nobody_need_ask_to_learn_of_it() {
    for url in ["redis-sentinel://127.0.0.1:1/main", "redis-cluster://127.0.0.1:1"] {
        let redis = Redis::new(&url.parse().unwrap(), "test").unwrap();
        redis.warm_up().await;
        for _ in 0..3 {
            let told = redis.wait::<String>(&cmd("PING")).await;
            assert!(matches!(told, Err(RedisError::Broken(_))), "{told:?}");
        }
        assert_eq!(ping(&redis).await, Err(RedisError::Gone));
    }
}
