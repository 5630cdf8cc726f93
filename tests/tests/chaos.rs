//! Services under load while their Redis is killed, frozen, unreachable, reset, emptied, read-only, out of
//! memory or slow, or fails over to another server.
//!
//! Two replicas share a limit and cached responses through a Redis of the test's own, which has a fault for one
//! second of each round. Throughout:
//!
//! * every request gets a response, none of them 5xx, and no request waits for Redis;
//! * both replicas together admit no more than the failure contract allows;
//! * limits and responses are shared again at the latest two seconds after the fault ends.
//!
//! `PHASE6_CHAOS_ROUNDS` sets the number of rounds; `cargo xtask chaos` sets it to more than the default.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]
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
    Redis, RedisCluster, RedisSentinels, ServiceProcess, client,
    namespace::{self, BlackHole},
    policy_document, program, wait_until,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    task::JoinHandle,
};

/// Capacity of the limit, in requests.
const CAPACITY: f64 = 30.0;
/// Rate of the limit, in requests per second.
const RATE: f64 = 20.0;
/// Interval between two requests to one replica. Both replicas together get five times what the limit admits.
const REQUEST_INTERVAL: Duration = Duration::from_millis(20);
/// Duration of a fault, and of the time before it.
const FAULT: Duration = Duration::from_secs(1);
/// Longest time from the end of a fault until limits and responses are shared again.
const RECOVERY: Duration = Duration::from_secs(2);
/// Longest time for a request. One that waited for Redis would take a multiple of this; one that did not takes
/// far less, even where many tests run at once.
const PROMPT: Duration = Duration::from_millis(500);
const PATH: &str = "/api/v1/providers/policy";

/// A relay between services and a Redis, which forwards bytes after a delay.
struct Relay {
    port: u16,
    delay: watch::Sender<Duration>,
    accepting: JoinHandle<()>,
}

impl Relay {
    async fn start(redis_port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let delay = watch::Sender::new(Duration::ZERO);
        let current = delay.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", redis_port)).await;
                let Ok(server) = server else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(forward(from_client, to_server, current.subscribe()));
                tokio::spawn(forward(from_server, to_client, current.subscribe()));
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

async fn forward(
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
    let policy = json!({
        "cache": {"ttl": "60s"},
        "rateLimit": {"capacity": CAPACITY as i64, "refillPerSecond": RATE},
    });
    std::fs::write(file, policy_document(1, 2, &policy)).unwrap();
}

/// A completed request.
#[derive(Clone, Copy, Debug)]
struct Completed {
    /// Time of the response, or of the failure.
    time: Instant,
    duration: Duration,
    /// `None` if there was no response.
    status: Option<u16>,
}

/// Sends requests to a replica at a steady rate, however many are still in flight.
async fn load(port: u16, stop: Arc<AtomicBool>) -> Vec<Completed> {
    let http = client();
    let url = format!("http://127.0.0.1:{port}{PATH}");
    let mut pace = tokio::time::interval(REQUEST_INTERVAL);
    let mut in_flight = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let request = http.get(&url);
        in_flight.push(tokio::spawn(async move {
            let start = Instant::now();
            let status = request.send().await.ok().map(|response| response.status().as_u16());
            Completed { time: Instant::now(), duration: start.elapsed(), status }
        }));
    }
    let mut completed = Vec::new();
    for request in in_flight {
        completed.push(request.await.unwrap());
    }
    completed
}

/// A fault of a Redis of any topology.
struct Scenario<'a, R> {
    name: &'a str,
    redis: R,
    url: String,
    /// True if the fault erases the data of Redis.
    loses_data: bool,
}

impl<'a> Scenario<'a, Redis> {
    /// A fault of a single server.
    fn of_single_server(name: &'a str, loses_data: bool) -> Self {
        let redis = Redis::start(&[]);
        let url = format!("redis://127.0.0.1:{}", redis.port);
        Self { name, redis, url, loses_data }
    }
}

impl<R> Scenario<'_, R> {
    /// Runs rounds of the fault, which `inject` begins and `recover` ends, and checks the promises above.
    async fn run(mut self, inject: impl Fn(&mut R), recover: impl Fn(&mut R)) {
        let name = self.name;
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.json");
        write_policy(&policy);
        let arguments = ["--policy", policy.to_str().unwrap(), "--redis", &self.url, "--shared-as", name];
        let replicas = [
            ServiceProcess::start("budget", &arguments).await,
            ServiceProcess::start("budget", &arguments).await,
        ];
        for service in &replicas {
            wait_until("limits and responses are shared", || service.is_shared()).await;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let loads = replicas.each_ref().map(|service| tokio::spawn(load(service.port, Arc::clone(&stop))));
        let mut slowest_recovery = Duration::ZERO;
        let mut faults = Vec::new();
        for round in 0..rounds() {
            tokio::time::sleep(FAULT).await;
            faults.push(Instant::now());
            tokio::task::block_in_place(|| inject(&mut self.redis));
            tokio::time::sleep(FAULT).await;
            tokio::task::block_in_place(|| recover(&mut self.redis));
            let end = Instant::now();
            for service in &replicas {
                while !service.is_shared().await {
                    assert!(end.elapsed() < 2 * RECOVERY, "{name}, round {round}: no recovery");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            slowest_recovery = slowest_recovery.max(end.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
        let mut completed = Vec::new();
        for load in loads {
            completed.extend(load.await.unwrap());
        }
        check_contract(name, completed, if self.loses_data { faults } else { Vec::new() });
        println!("{name}: slowest recovery {slowest_recovery:?}");
        assert!(slowest_recovery < RECOVERY, "{name}: recovery took {slowest_recovery:?}");
        for service in replicas {
            assert_eq!(service.stop(), Some(0));
        }
    }
}

/// Checks statuses, durations and the number of admitted requests. The capacity may be admitted once more for
/// each time at which Redis lost its data.
fn check_contract(name: &str, mut completed: Vec<Completed>, data_losses: Vec<Instant>) {
    completed.sort_by_key(|request| request.time);
    let (mut level, mut last, mut highest) = (0.0_f64, completed[0].time, 0.0_f64);
    let mut data_losses = data_losses.into_iter().peekable();
    let (mut admitted, mut slowest) = (0, Duration::ZERO);
    for request in &completed {
        assert!(matches!(request.status, Some(200 | 429)), "{name}: {request:?}");
        slowest = slowest.max(request.duration);
        while data_losses.next_if(|time| *time <= request.time).is_some() {
            level = (level - CAPACITY).max(0.0);
        }
        level = (level - 1.5 * RATE * (request.time - last).as_secs_f64()).max(0.0);
        last = request.time;
        if request.status == Some(200) {
            admitted += 1;
            level += 1.0;
        }
        highest = highest.max(level);
    }
    let seconds = (completed[completed.len() - 1].time - completed[0].time).as_secs_f64();
    println!(
        "{name}: {admitted} of {} requests admitted in {seconds:.1} s, {:.2} of the limit; highest level of a \
         bucket with 1.5 times the rate: {highest:.0} of {}; slowest request {slowest:?}",
        completed.len(),
        f64::from(admitted) / (CAPACITY + RATE * seconds),
        1.5 * CAPACITY,
    );
    // The client sees responses in another order than the replicas decide: hence 3 more.
    assert!(highest <= 1.5 * CAPACITY + 3.0, "{name}: {highest} in a bucket of {}", 1.5 * CAPACITY);
    assert!(slowest < PROMPT, "{name}: a request took {slowest:?}");
}

/// Returns a fault, or the recovery from one, that a command brings about.
fn command(command: &'static str) -> impl Fn(&mut Redis) {
    move |redis| {
        redis.command(command);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_and_restarts_empty() {
    Scenario::of_single_server("kill", true).run(Redis::kill, Redis::restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_frozen() {
    let scenario = Scenario::of_single_server("stop", false);
    scenario.run(|redis| redis.signal(Signal::STOP), |redis| redis.signal(Signal::CONT)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reset() {
    Scenario::of_single_server("reset", false).run(command("CLIENT KILL TYPE normal"), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_emptied() {
    Scenario::of_single_server("flush", true).run(command("FLUSHALL"), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_becomes_a_read_only_replica() {
    let scenario = Scenario::of_single_server("read-only", false);
    scenario.run(command("REPLICAOF 127.0.0.1 1"), command("REPLICAOF NO ONE")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_out_of_memory() {
    let scenario = Scenario::of_single_server("full", false);
    scenario.run(command("CONFIG SET maxmemory 1"), command("CONFIG SET maxmemory 0")).await;
}

/// Packets to and from Redis are dropped: connections hang, and new ones are not even refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_to_redis_are_dropped() {
    if !namespace::is_inside() {
        // The program is built here, because the namespace has no network.
        program();
        return tokio::task::block_in_place(|| {
            namespace::run_inside("packets_to_redis_are_dropped", "black hole");
        });
    }
    let scenario = Scenario::of_single_server("black hole", false);
    let hole = BlackHole::new(scenario.redis.port);
    scenario.run(|_| hole.enable(), |_| hole.disable()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_has_a_latency_of_100_ms() {
    let mut scenario = Scenario::of_single_server("slow", false);
    let relay = Relay::start(scenario.redis.port).await;
    scenario.url = format!("redis://127.0.0.1:{}", relay.port);
    let set = |delay| {
        relay.delay.send_replace(delay);
    };
    scenario.run(|_| set(Duration::from_millis(100)), |_| set(Duration::ZERO)).await;
}

/// The server that was killed in the round before is a replica by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_master_is_killed_and_sentinels_promote_its_replica() {
    let redis = RedisSentinels::start();
    let url = redis.url();
    let scenario = Scenario { name: "sentinel failover", redis, url, loses_data: false };
    scenario.run(RedisSentinels::kill_master, RedisSentinels::wait_for_failover).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_master_of_a_cluster_is_killed_and_its_replica_is_promoted() {
    const NAME: &str = "cluster-failover";
    let redis = RedisCluster::start();
    let url = redis.url();
    let key = format!("{{phase6:2:limit:{NAME}}}");
    let scenario = Scenario { name: NAME, redis, url, loses_data: false };
    scenario.run(|redis| redis.kill_master(&key), |redis| redis.wait_for_failover(&key)).await;
}
