//! What a service does while its Redis is killed, frozen, cut off, reset, emptied, read-only, full or slow, or
//! becomes another one, under load.
//!
//! Two replicas share a limit and cached answers through a Redis of the test's own. In each round something
//! happens to it for a second. All the time:
//!
//! * every request is answered, none with 5xx, and none waits for Redis;
//! * both replicas together admit no more than the failure contract says;
//! * two seconds after Redis is well again, limits and answers are shared again.
//!
//! `PHASE6_CHAOS_ROUNDS` says how often; `cargo xtask chaos` sets it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![allow(clippy::print_stdout, reason = "`cargo xtask chaos` shows what was measured")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use phase6_tests::{
    Redis, RedisCluster, RedisSentinels, Served, client,
    namespace::{self, BlackHole},
    program, until,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    task::JoinHandle,
};

/// The bucket.
const CAPACITY: f64 = 30.0;
/// Its rate, in requests per second.
const RATE: f64 = 20.0;
/// One request to each replica so often: five times what the limit admits.
const EVERY: Duration = Duration::from_millis(20);
/// How long something is the matter with Redis.
const FAULT: Duration = Duration::from_secs(1);
/// In which time all is to be well again.
const RECOVERY: Duration = Duration::from_secs(2);
/// A request that waited for Redis would take a multiple of this; one that did not takes far less, even where
/// many tests run at once.
const PROMPT: Duration = Duration::from_millis(500);
const PATH: &str = "/api/v1/providers/policy";

/// A relay between services and a Redis, which passes bytes on after a while.
struct Relay {
    port: u16,
    delay: watch::Sender<Duration>,
    accepting: JoinHandle<()>,
}

impl Relay {
    async fn start(to: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let delay = watch::Sender::new(Duration::ZERO);
        let of_relay = delay.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, of_relay.subscribe()));
                tokio::spawn(pass(from_server, to_client, of_relay.subscribe()));
            }
        });
        Self { port, delay, accepting }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: watch::Receiver<Duration>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let delay = *delay.borrow();
        tokio::time::sleep(delay).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

fn rounds() -> usize {
    std::env::var("PHASE6_CHAOS_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}

fn write_policy(file: &Path) {
    let document = json!({
        "ownerUid": "u", "revision": 1, "generation": 1, "hash": "h1", "publishedAt": "", "replicas": 2,
        "policy": {
            "cache": {"ttl": "60s"},
            "rateLimit": {"capacity": CAPACITY as i64, "refillPerSecond": RATE},
        },
    });
    std::fs::write(file, document.to_string()).unwrap();
}

/// One request: when it was answered, how long that took, and with what status; none: not at all.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    took: Duration,
    status: Option<u16>,
}

/// Asks a replica at a steady pace, whatever the answers.
async fn load(port: u16, stop: Arc<AtomicBool>) -> Vec<Asked> {
    let http = client();
    let url = format!("http://127.0.0.1:{port}{PATH}");
    let mut pace = tokio::time::interval(EVERY);
    let mut asking = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let request = http.get(&url);
        asking.push(tokio::spawn(async move {
            let begun = Instant::now();
            let status = request.send().await.ok().map(|answer| answer.status().as_u16());
            Asked { at: Instant::now(), took: begun.elapsed(), status }
        }));
    }
    let mut asked = Vec::new();
    for one in asking {
        asked.push(one.await.unwrap());
    }
    asked
}

/// Whether a replica shares limits and answers.
async fn shares(served: &Served) -> bool {
    let url = format!("http://127.0.0.1:{}/metrics", served.port);
    let Ok(answer) = served.http.get(url).send().await else { return false };
    let metrics = answer.text().await.unwrap_or_default();
    ["phase6_ratelimit_shared{service=\"budget\"} 1", "phase6_cache_shared{service=\"budget\"} 1"]
        .iter()
        .all(|line| metrics.contains(line))
}

/// Rounds of one fault. `forgets` says whether Redis loses its memory by it.
async fn chaos(name: &str, forgets: bool, fault: impl Fn(&mut Redis), heal: impl Fn(&mut Redis)) {
    let redis = Redis::start(&[]);
    let url = format!("redis://127.0.0.1:{}", redis.port);
    chaos_at(name, (redis, url), forgets, fault, heal).await;
}

/// The same with a Redis of any kind, which is reached at this URL.
async fn chaos_at<R>(
    name: &str,
    (mut redis, url): (R, String),
    forgets: bool,
    fault: impl Fn(&mut R),
    heal: impl Fn(&mut R),
) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.json");
    write_policy(&policy);
    let arguments = ["--policy", policy.to_str().unwrap(), "--redis", &url, "--shared-as", name];
    let replicas = [Served::start("budget", &arguments).await, Served::start("budget", &arguments).await];
    for served in &replicas {
        until("all is shared", || shares(served)).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let loads = replicas.each_ref().map(|served| tokio::spawn(load(served.port, Arc::clone(&stop))));
    let mut slowest_recovery = Duration::ZERO;
    let mut faults = Vec::new();
    for round in 0..rounds() {
        tokio::time::sleep(FAULT).await;
        faults.push(Instant::now());
        tokio::task::block_in_place(|| fault(&mut redis));
        tokio::time::sleep(FAULT).await;
        tokio::task::block_in_place(|| heal(&mut redis));
        let healed = Instant::now();
        for served in &replicas {
            while !shares(served).await {
                assert!(healed.elapsed() < 2 * RECOVERY, "{name}, round {round}: it does not recover");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        slowest_recovery = slowest_recovery.max(healed.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let mut asked = Vec::new();
    for load in loads {
        asked.extend(load.await.unwrap());
    }
    judge(name, &mut asked, if forgets { faults } else { Vec::new() });
    println!("{name}: well again after {slowest_recovery:?} at most");
    assert!(slowest_recovery < RECOVERY, "{name}: well again only after {slowest_recovery:?}");
    for served in replicas {
        assert_eq!(served.stop(), Some(0));
    }
}

/// Holds what was answered against the contract. What Redis forgot at these moments may be had again.
fn judge(name: &str, asked: &mut [Asked], forgotten: Vec<Instant>) {
    asked.sort_by_key(|asked| asked.at);
    let (mut level, mut last, mut highest) = (0.0_f64, asked[0].at, 0.0_f64);
    let mut forgotten = forgotten.into_iter().peekable();
    let (mut admitted, mut slowest) = (0, Duration::ZERO);
    for one in asked.iter() {
        assert!(matches!(one.status, Some(200 | 429)), "{name}: {one:?}");
        slowest = slowest.max(one.took);
        while forgotten.next_if(|at| *at <= one.at).is_some() {
            level = (level - CAPACITY).max(0.0);
        }
        level = (level - 1.5 * RATE * (one.at - last).as_secs_f64()).max(0.0);
        last = one.at;
        if one.status == Some(200) {
            admitted += 1;
            level += 1.0;
        }
        highest = highest.max(level);
    }
    let seconds = (asked[asked.len() - 1].at - asked[0].at).as_secs_f64();
    println!(
        "{name}: {admitted} of {} admitted in {seconds:.1} s, {:.2} of the limit; a bucket of 1.5 times the rate \
         holds {highest:.0} of {}; slowest {slowest:?}",
        asked.len(),
        f64::from(admitted) / (CAPACITY + RATE * seconds),
        1.5 * CAPACITY,
    );
    // Moments are those of the client, and may come in another order than decisions.
    assert!(highest <= 1.5 * CAPACITY + 3.0, "{name}: {highest} in a bucket of {}", 1.5 * CAPACITY);
    assert!(slowest < PROMPT, "{name}: a request took {slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_empty() {
    chaos("kill", true, Redis::kill, Redis::revive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen() {
    chaos("stop", false, |redis| redis.signal(Signal::STOP), |redis| redis.signal(Signal::CONT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_reset() {
    chaos("reset", false, |redis| redis.say("CLIENT KILL TYPE normal"), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied() {
    chaos("flush", true, |redis| redis.say("FLUSHALL"), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_replica() {
    let fault = |redis: &mut Redis| redis.say("REPLICAOF 127.0.0.1 1");
    chaos("read-only", false, fault, |redis| redis.say("REPLICAOF NO ONE")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_memory() {
    let fault = |redis: &mut Redis| redis.say("CONFIG SET maxmemory 1");
    chaos("full", false, fault, |redis| redis.say("CONFIG SET maxmemory 0")).await;
}

/// Packets to and from Redis are lost: what is connected hangs, and nobody is even refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_black_hole() {
    if !namespace::is_inside() {
        // Built here: there is no network inside.
        program();
        return tokio::task::block_in_place(|| namespace::run_inside("in_a_black_hole", "black hole"));
    }
    let redis = Redis::start(&[]);
    let hole = BlackHole::at(redis.port);
    let url = format!("redis://127.0.0.1:{}", redis.port);
    chaos_at("black hole", (redis, url), false, |_| hole.open(), |_| hole.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_slow_wire() {
    let redis = Redis::start(&[]);
    let relay = Relay::start(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", relay.port);
    let set = |delay| {
        relay.delay.send_replace(delay);
    };
    let slow = Duration::from_millis(100);
    chaos_at("slow", (redis, url), false, |_| set(slow), |_| set(Duration::ZERO)).await;
}

/// The one that was killed in the round before is a replica by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_master_is_killed_and_sentinels_name_another() {
    let redis = RedisSentinels::start();
    let url = redis.url();
    chaos_at(
        "sentinel failover",
        (redis, url),
        false,
        RedisSentinels::kill_master,
        RedisSentinels::fail_over,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_node_of_a_cluster_is_killed_and_its_replica_has_the_keys() {
    const NAME: &str = "cluster-failover";
    let redis = RedisCluster::start();
    let url = redis.url();
    let key = format!("{{phase6:2:limit:{NAME}}}");
    chaos_at(NAME, (redis, url), false, |redis| redis.kill_master(&key), |redis| redis.fail_over(&key)).await;
}
