//! Replicas of one service over one real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Extensions, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use phase6_cache::{Ask, Cache, CacheLayer, Client, Invalidation, Level, Remote, Terms};
use phase6_redis::{Redis, cmd};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tower::{Layer, ServiceExt, service_fn};

const TERMS: Terms = Terms {
    ttl: Duration::from_mins(1),
    stale_while_revalidate: Duration::ZERO,
    stale_if_error: Duration::ZERO,
    max_entries: 1_000,
};

/// A request's extension: who asks.
#[derive(Clone)]
struct Caller(&'static str);

const ASK: Ask = Ask {
    terms: |_| Some(&TERMS),
    client: |extensions: &Extensions| {
        let tenant = extensions.get::<Caller>().map_or("", |caller| caller.0);
        Client { tenant, authorised: !tenant.is_empty() }
    },
    label: |_| "GET /a".into(),
    set_label: |extensions, label| {
        if let Some(Counted(seen)) = extensions.get::<Counted>() {
            label.clone_into(&mut seen.lock().unwrap());
        }
    },
};

/// A request's extension: what it was counted as when it was answered from the cache.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<String>>);

fn redis(prefix: &str) -> Redis {
    let url = std::env::var("PHASE6_TEST_REDIS")
        .expect("PHASE6_TEST_REDIS names a server; cargo xtask test starts one");
    Redis::new(&url.parse().unwrap(), prefix).unwrap()
}

/// The same server behind a gate, through which nothing passes until it is opened.
async fn gate(prefix: &str) -> (Redis, oneshot::Sender<()>) {
    let server = std::env::var("PHASE6_TEST_REDIS").unwrap();
    let server = server.trim_start_matches("redis://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let (open, opened) = oneshot::channel::<()>();
    tokio::spawn(async move {
        if opened.await.is_err() {
            return;
        }
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    (Redis::new(&url.parse().unwrap(), prefix).unwrap(), open)
}

/// A name that no other test has.
fn own(name: &str) -> String {
    format!("phase6:test:{name}:{:x}", rand::random::<u64>())
}

/// What all replicas answer from: a number that grows whenever it is asked for.
#[derive(Clone, Default)]
struct Origin(Arc<AtomicU64>, Duration);

impl Origin {
    /// It takes its time.
    fn slow(takes: Duration) -> Self {
        Self(Arc::default(), takes)
    }

    fn calls(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// One replica.
struct Replica {
    cache: Cache,
    level: Arc<Remote>,
    origin: Origin,
    counted: Counted,
}

impl Replica {
    async fn start(prefix: &str, origin: &Origin) -> Self {
        let replica = Self::begin(prefix, origin);
        until("it hears", || async { replica.level.is_in_touch() }).await;
        replica
    }

    fn begin(prefix: &str, origin: &Origin) -> Self {
        Self::over(redis(prefix), origin)
    }

    fn over(redis: Redis, origin: &Origin) -> Self {
        let level = Arc::new(Remote::new(redis));
        let cache = Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>));
        Self { cache, level, origin: origin.clone(), counted: Counted::default() }
    }

    async fn get(&self, uri: &str) -> (String, String) {
        self.send(Method::GET, uri, "").await
    }

    /// The body and what `Cache-Status` says.
    async fn send(&self, method: Method, uri: &str, tenant: &'static str) -> (String, String) {
        let request = Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
        self.call(request, tenant).await
    }

    async fn get_in(&self, language: &str, uri: &str) -> String {
        let request = Request::get(uri).header("accept-language", language).body(Full::default()).unwrap();
        self.call(request, "").await.0
    }

    async fn call(&self, mut request: Request<Full<Bytes>>, tenant: &'static str) -> (String, String) {
        let origin = self.origin.clone();
        let handler = service_fn(move |request: Request<Full<Bytes>>| {
            let number = origin.0.fetch_add(1, Ordering::SeqCst) + 1;
            let mut body = number.to_string();
            if request.uri().path() == "/large" {
                body.push_str(&" ".repeat(100_000));
            }
            let mut answer = Response::new(Full::new(Bytes::from(body)));
            if request.uri().path() == "/vary" {
                answer.headers_mut().insert("vary", "accept-language".parse().unwrap());
            }
            answer.headers_mut().insert("surrogate-key", "numbers".parse().unwrap());
            if request.extensions().get::<Caller>().is_some() {
                answer.headers_mut().insert("cache-control", "private".parse().unwrap());
            }
            let takes = origin.1;
            async move {
                tokio::time::sleep(takes).await;
                Ok::<_, Infallible>(answer)
            }
        });
        request.extensions_mut().insert(self.counted.clone());
        if !tenant.is_empty() {
            request.extensions_mut().insert(Caller(tenant));
        }
        let layer = CacheLayer::new(self.cache.clone(), "test", ASK);
        let Ok(answer) = layer.layer(handler).oneshot(request).await;
        let status = answer.headers().get("cache-status").map(|value| value.to_str().unwrap().to_owned());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (String::from_utf8(body.to_vec()).unwrap(), status.unwrap_or_default())
    }

    /// Until what was stored here is in Redis.
    async fn has_written(&self, answers: u64) {
        until("answers are written", || async { self.level.stats().writes >= answers }).await;
    }
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_one_replica_fetched_another_one_answers_with_its_age() {
    let (prefix, origin) = (own("second"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    assert_eq!(first.get("/a").await.0, "1");
    first.has_written(1).await;
    let second = Replica::start(&prefix, &origin).await;
    let (body, status) = second.get("/a").await;
    assert_eq!(body, "1");
    assert!(status.contains("hit") && status.contains("second-level"), "{status}");
    assert_eq!(*second.counted.0.lock().unwrap(), "GET /a", "although it never made it");
    let (body, status) = second.get("/a").await;
    assert!(body == "1" && !status.contains("second-level"), "from memory now: {status}");
    assert_eq!((origin.calls(), second.cache.stats().promoted), (1, 1));
}

#[tokio::test]
async fn an_answer_that_varies_is_shared_with_those_who_ask_by_the_same_headers() {
    let (prefix, origin) = (own("vary"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    assert_eq!(first.get_in("de", "/vary").await, "1");
    first.has_written(1).await;
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get_in("de", "/vary").await, "1");
    assert_eq!(second.get_in("fr", "/vary").await, "2");
    assert_eq!(second.get_in("de", "/vary").await, "1", "both are in memory");
    second.has_written(1).await;
    let third = Replica::start(&prefix, &origin).await;
    assert_eq!(third.get_in("fr", "/vary").await, "2", "the newest is in Redis");
    assert_eq!(third.get_in("de", "/vary").await, "3");
}

#[tokio::test]
async fn a_large_answer_takes_little_of_redis_and_comes_back_whole() {
    let (prefix, origin) = (own("large"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    let large = first.get("/large").await.0;
    first.has_written(1).await;
    let redis = redis(&prefix);
    let keys: Vec<String> = redis.command(cmd("KEYS").arg(redis.key("answer:*"))).await.unwrap();
    let stored: usize = redis.command(cmd("STRLEN").arg(&keys[0])).await.unwrap();
    assert!(large.len() > 100_000 && stored < 2_000, "{stored} of {}", large.len());
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get("/large").await.0, large);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_one_replica_forgets_all_forget_at_once() {
    let (prefix, origin) = (own("forget"), Origin::default());
    let replicas = [Replica::start(&prefix, &origin).await, Replica::start(&prefix, &origin).await];
    for (turn, invalidation) in [
        Invalidation::Path("/a/b".into()),
        Invalidation::Prefix("/a".into()),
        Invalidation::Tag("numbers".into()),
        Invalidation::All,
    ]
    .into_iter()
    .enumerate()
    {
        for replica in &replicas {
            replica.get("/a/b?c").await;
            replica.get("/else").await;
        }
        let before = origin.calls();
        let forgetting = &replicas[turn % 2];
        forgetting.cache.invalidate(invalidation.clone());
        forgetting.cache.told().await;
        // Also what is in Redis, and what has not heard yet.
        let other = &replicas[1 - turn % 2];
        until("the other one has forgotten", || async { other.get("/a/b?c").await.0 > before.to_string() })
            .await;
        assert!(origin.calls() > before, "{invalidation:?}");
        other.get("/else").await;
        let expected = matches!(invalidation, Invalidation::Tag(_) | Invalidation::All);
        assert_eq!(
            origin.calls() == before + 2,
            expected,
            "{invalidation:?}: {} after {before}",
            origin.calls()
        );
    }
}

#[tokio::test]
async fn a_post_to_one_replica_is_seen_through_the_others() {
    let (prefix, origin) = (own("post"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!((first.get("/a").await.0, second.level.is_in_touch()), ("1".to_owned(), true));
    first.has_written(1).await;
    assert_eq!(second.get("/a").await.0, "1");
    first.send(Method::POST, "/a", "").await;
    first.cache.told().await;
    until("the other one asks again", || async { second.get("/a").await.0 == "3" }).await;
    assert_eq!(first.get("/a").await.0, "3", "what the other one fetched since");
}

#[tokio::test]
async fn answers_of_one_tenant_are_no_other_s() {
    let (prefix, origin) = (own("tenants"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    let second = Replica::start(&prefix, &origin).await;
    let mut bodies = Vec::new();
    for tenant in ["", "alice", "bob"] {
        bodies.push(first.send(Method::GET, "/a", tenant).await.0);
    }
    assert_eq!(bodies, ["1", "2", "3"]);
    first.has_written(1).await;
    for (tenant, body) in ["", "alice", "bob"].into_iter().zip(&bodies) {
        let seen = second.send(Method::GET, "/a", tenant).await.0;
        assert!(seen == *body || seen.parse::<u64>().unwrap() > 3, "{tenant:?} sees {seen}");
    }
}

/// Answers are made, forgotten and read everywhere at once; no replica ever shows one that was made before
/// what it was told of was forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_back_that_was_forgotten() {
    let (prefix, origin) = (own("race"), Origin::default());
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(Arc::new(Replica::start(&prefix, &origin).await));
    }
    let readers: Vec<_> = replicas
        .iter()
        .cloned()
        .map(|replica| {
            tokio::spawn(async move {
                loop {
                    replica.get("/a").await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for round in 0..200_usize {
        let forgetting = &replicas[round % 4];
        let made_before = origin.calls();
        forgetting.cache.invalidate(Invalidation::Tag("numbers".into()));
        assert!(
            forgetting.get("/a").await.0.parse::<u64>().unwrap() > made_before,
            "here it is seen at once"
        );
        forgetting.cache.told().await;
        for other in &replicas {
            let told = Instant::now();
            until("it is seen elsewhere", || async {
                other.get("/a").await.0.parse::<u64>().unwrap() > made_before
            })
            .await;
            // Who hears nothing for a second keeps answers only so long.
            assert!(told.elapsed() < Duration::from_millis(1_500), "after {:?}", told.elapsed());
            for _ in 0..3 {
                assert!(other.get("/a").await.0.parse::<u64>().unwrap() > made_before, "it came back");
            }
        }
    }
    for reader in readers {
        reader.abort();
    }
}

#[tokio::test]
async fn a_replica_that_starts_later_knows_what_was_forgotten_before() {
    let (prefix, origin) = (own("later"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    first.get("/a").await;
    first.get("/b").await;
    first.has_written(2).await;
    first.cache.invalidate(Invalidation::Path("/a".into()));
    first.cache.told().await;
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get("/b").await.0, "2", "of /b nobody spoke");
    assert_eq!(second.get("/a").await.0, "3");
}

/// What a replica stores before it has read the log would otherwise be kept for its whole life.
#[tokio::test]
async fn what_was_stored_before_the_log_was_read_is_not_kept() {
    let (prefix, origin) = (own("early"), Origin::default());
    let other = Replica::start(&prefix, &origin).await;
    let (gate, open) = gate(&prefix).await;
    let early = Replica::over(gate, &origin);
    assert_eq!(early.get("/a").await.0, "1");
    other.cache.invalidate(Invalidation::Path("/a".into()));
    other.cache.told().await;
    open.send(()).unwrap();
    until("it hears", || async { early.level.is_in_touch() }).await;
    assert_eq!(early.get("/a").await.0, "2");
}

#[tokio::test]
async fn when_redis_has_lost_its_memory_all_is_forgotten() {
    let (prefix, origin) = (own("lost"), Origin::default());
    let first = Replica::start(&prefix, &origin).await;
    first.get("/a").await;
    first.has_written(1).await;
    // The log goes, the answer stays, and the replica's connection breaks so that it has to catch up.
    let redis = redis(&prefix);
    redis.command::<i64>(cmd("DEL").arg(redis.key("log"))).await.unwrap();
    let second = Replica::start(&prefix, &origin).await;
    assert_eq!(second.get("/a").await.0, "2", "what the log cannot vouch for is not trusted");
}

#[tokio::test]
async fn without_redis_memory_keeps_answers_for_a_second_and_a_burst_costs_one_call() {
    let level = Arc::new(Remote::new(Redis::new(&"redis://127.0.0.1:1".parse().unwrap(), "x").unwrap()));
    let replica = Replica {
        cache: Cache::new(Some(Arc::clone(&level) as Arc<dyn Level>)),
        level,
        origin: Origin::default(),
        counted: Counted::default(),
    };
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(replica.get("/a").await.0, "1");
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    until("it is made again", || async { replica.get("/a").await.0 == "2" }).await;
    assert!(begun.elapsed() > Duration::from_millis(850), "{:?}", begun.elapsed());
    assert!(!replica.cache.stats().second_level.unwrap().in_touch);
}

/// Ten replicas, ten callers each, one cold key whose answer takes a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_key_is_made_once_however_many_replicas_want_it() {
    let (prefix, origin) = (own("stampede"), Origin::slow(Duration::from_millis(200)));
    let mut replicas = Vec::new();
    for _ in 0..10 {
        replicas.push(Arc::new(Replica::start(&prefix, &origin).await));
    }
    let round = async |uri: &'static str, expected: &str| {
        let begun = Instant::now();
        let callers = replicas.iter().flat_map(|replica| (0..10).map(move |_| Arc::clone(replica)));
        let answers: Vec<_> =
            callers.map(|replica| tokio::spawn(async move { replica.get(uri).await.0 })).collect();
        for answer in answers {
            assert_eq!(answer.await.unwrap(), expected);
        }
        begun.elapsed()
    };
    let took = round("/cold", "1").await;
    assert_eq!(origin.calls(), 1, "in {took:?}");
    replicas[3].cache.invalidate(Invalidation::Path("/cold".into()));
    replicas[3].cache.told().await;
    for replica in &replicas {
        until("all have heard", || async { replica.cache.stats().entries == 0 }).await;
    }
    round("/cold", "2").await;
    assert_eq!(origin.calls(), 2, "an answer that was forgotten is made once too");
}

/// Each replica made the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_forgotten_while_it_is_made_is_made_once_more_for_all() {
    // As below, this says nothing of a machine on which Redis seems gone.
    for _ in 0..3 {
        let (prefix, origin) = (own("lost"), Origin::slow(Duration::from_millis(400)));
        let mut replicas = Vec::new();
        for _ in 0..10 {
            replicas.push(Arc::new(Replica::start(&prefix, &origin).await));
        }
        let callers = replicas.iter().flat_map(|replica| (0..10).map(move |_| Arc::clone(replica)));
        let answers: Vec<_> =
            callers.map(|replica| tokio::spawn(async move { replica.get("/cold").await.0 })).collect();
        until("it is made", || async { origin.calls() == 1 }).await;
        replicas[3].cache.invalidate(Invalidation::Path("/cold".into()));
        let mut bodies = Vec::new();
        for answer in answers {
            bodies.push(answer.await.unwrap());
        }
        if replicas.iter().all(|replica| replica.level.stats().errors == 0) {
            assert_eq!(origin.calls(), 2, "{bodies:?}");
            return;
        }
    }
    panic!("Redis was never there all the time");
}

#[tokio::test]
async fn an_answer_that_is_for_one_only_is_waited_for_once_and_then_made_by_each() {
    let (prefix, origin) = (own("alone"), Origin::slow(Duration::from_millis(50)));
    let replicas = [Replica::start(&prefix, &origin).await, Replica::start(&prefix, &origin).await];
    let [first, second] = &replicas;
    let (one, other) = tokio::join!(
        first.send(Method::GET, "/private", "alice"),
        second.send(Method::GET, "/private", "alice")
    );
    assert_ne!(one.0, other.0);
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn a_replica_that_dies_while_it_makes_an_answer_is_not_waited_for_longer_than_3_s() {
    let (prefix, origin) = (own("dies"), Origin::default());
    let redis = redis(&prefix);
    // A duty that nobody prolongs.
    let probe = Replica::start(&prefix, &origin).await;
    probe.get("/a").await;
    probe.has_written(1).await;
    let keys: Vec<String> = redis.command(cmd("KEYS").arg(redis.key("answer:*"))).await.unwrap();
    let duty = keys[0].replace(":answer:", ":duty:");
    redis.command::<i64>(cmd("DEL").arg(&keys[0])).await.unwrap();
    redis.command::<()>(cmd("SET").arg(&duty).arg("somebody").arg("PX").arg(3_000)).await.unwrap();
    let other = Replica::start(&prefix, &origin).await;
    let begun = Instant::now();
    assert_eq!(other.get("/a").await.0, "2");
    assert!((2_500..4_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_a_duty_lasts_is_made_once_all_the_same() {
    // A machine that is so busy that Redis seems gone for a moment has each replica make it: this says nothing.
    for _ in 0..3 {
        let (prefix, origin) = (own("long"), Origin::slow(Duration::from_millis(4_500)));
        let replicas = [Replica::start(&prefix, &origin).await, Replica::start(&prefix, &origin).await];
        let (one, other) = tokio::join!(replicas[0].get("/long"), replicas[1].get("/long"));
        if replicas.iter().all(|replica| replica.level.stats().errors == 0) {
            assert_eq!((one.0, other.0, origin.calls()), ("1".to_owned(), "1".to_owned(), 1));
            // Who waited took the time that it had waited for a part of the answer's age.
            let [made, told] = replicas.each_ref().map(|replica| {
                let (uri, headers) = ("/long".parse().unwrap(), http::HeaderMap::new());
                replica.cache.fresh("", &uri, &headers, &TERMS).unwrap().made_at_ms
            });
            assert!(made.abs_diff(told) < 1_000, "{made} and {told}");
            return;
        }
    }
    panic!("Redis was never there all the time");
}
