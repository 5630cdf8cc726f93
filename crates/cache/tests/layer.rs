//! The cache in front of a service, driven from outside with a clock of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use phase6_cache::{Ask, Cache, CacheLayer, Client, Disk, Invalidation, Terms};
use sqlx::Connection as _;
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = Full<Bytes>;

#[derive(Clone)]
struct Caller(&'static str);

const ASK: Ask = Ask {
    terms: |extensions| extensions.get::<Terms>(),
    client: |extensions| match extensions.get::<Caller>() {
        Some(Caller(tenant)) => Client { tenant, authorised: true },
        None => Client { tenant: "", authorised: false },
    },
    label: |_| "7".into(),
    set_label: |extensions, label| {
        if let Some(seen) = extensions.get::<Arc<AtomicUsize>>() {
            seen.store(label.parse().unwrap(), Ordering::Relaxed);
        }
    },
};

/// What the service behind the cache answers, and how often it was asked.
#[derive(Clone, Default)]
struct Origin {
    asked: Arc<AtomicUsize>,
    answer: Arc<Mutex<Reply>>,
    gate: Arc<tokio::sync::RwLock<()>>,
}

#[derive(Clone)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Option<&'static str>,
}

impl Default for Reply {
    fn default() -> Self {
        Self { status: 200, headers: vec![], body: None }
    }
}

struct Rig {
    cache: Cache,
    origin: Origin,
    now_ms: Arc<AtomicU64>,
    terms: Mutex<Terms>,
}

struct Got {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn rig_over(behind: Option<Arc<dyn phase6_cache::Level>>, now_ms: u64) -> Rig {
    let now_ms = Arc::new(AtomicU64::new(now_ms));
    Rig {
        cache: Cache::with_manual_clock(behind, Arc::clone(&now_ms)),
        origin: Origin::default(),
        now_ms,
        terms: Mutex::new(Terms {
            ttl: Duration::from_secs(10),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            max_entries: 1000,
        }),
    }
}

fn rig() -> Rig {
    rig_over(None, 1_000_000)
}

impl Rig {
    fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + use<> {
        let origin = self.origin.clone();
        let inner = service_fn(move |request: Request<Body>| {
            let origin = origin.clone();
            async move {
                let count = origin.asked.fetch_add(1, Ordering::SeqCst) + 1;
                let _open = origin.gate.read().await;
                let reply = origin.answer.lock().unwrap().clone();
                let tenant = request.extensions().get::<Caller>().map_or("", |caller| caller.0);
                let body = match reply.body {
                    Some(body) => body.to_owned(),
                    None => format!("{count} {tenant}{}", request.uri()),
                };
                let mut answer = Response::new(Body::from(body));
                *answer.status_mut() = StatusCode::from_u16(reply.status).unwrap();
                for (name, value) in reply.headers {
                    answer.headers_mut().append(name, value.parse().unwrap());
                }
                Ok::<_, Infallible>(answer)
            }
        });
        CacheLayer::new(self.cache.clone(), "test", ASK).layer(inner)
    }

    fn request(&self, method: Method, uri: &str) -> Request<Body> {
        let mut request = Request::new(Body::default());
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().unwrap();
        request.extensions_mut().insert(*self.terms.lock().unwrap());
        request
    }

    async fn send(&self, request: Request<Body>) -> Got {
        let (parts, body) = self.service().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn get(&self, uri: &str) -> Got {
        self.send(self.request(Method::GET, uri)).await
    }

    async fn get_as(&self, caller: &'static str, uri: &str) -> Got {
        let mut request = self.request(Method::GET, uri);
        request.extensions_mut().insert(Caller(caller));
        self.send(request).await
    }

    async fn get_with(&self, uri: &str, name: &'static str, value: &str) -> Got {
        let mut request = self.request(Method::GET, uri);
        request.headers_mut().insert(name, value.parse().unwrap());
        self.send(request).await
    }

    fn pass(&self, secs: u64) {
        self.now_ms.fetch_add(secs * 1000, Ordering::SeqCst);
    }

    fn reply(&self, status: u16, headers: &[(&'static str, &'static str)]) {
        let reply = Reply { status, headers: headers.to_vec(), body: None };
        *self.origin.answer.lock().unwrap() = reply;
    }

    fn set_terms(&self, change: impl FnOnce(&mut Terms)) {
        change(&mut self.terms.lock().unwrap());
    }

    fn asked(&self) -> usize {
        self.origin.asked.load(Ordering::SeqCst)
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(10), async {
        while !condition() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn cache_set_get_works() {
    let rig = rig();
    let first = rig.get("/a").await;
    assert_eq!((first.body.as_str(), first.header("cache-status")), ("1 /a", "test; fwd=uri-miss; stored"));
    rig.pass(3);
    let second = rig.get("/a").await;
    assert_eq!(second.body, "1 /a");
    assert_eq!(second.header("age"), "3");
    assert!(
        second.header("cache-status").starts_with("test; hit; ttl="),
        "{}",
        second.header("cache-status")
    );
}

#[tokio::test]
async fn a_stale_entry_is_fetched_again() {
    let rig = rig();
    rig.get("/a").await;
    rig.pass(11);
    let second = rig.get("/a").await;
    assert_eq!((second.body.as_str(), second.header("cache-status")), ("2 /a", "test; fwd=stale; stored"));
}

#[tokio::test]
async fn a_shorter_ttl_acts_on_entries_already_stored() {
    let rig = rig();
    rig.get("/a").await;
    rig.pass(3);
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(2));
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn without_terms_or_with_all_of_them_zero_nothing_is_cached() {
    let rig = rig();
    rig.set_terms(|terms| terms.ttl = Duration::ZERO);
    rig.get("/a").await;
    let second = rig.get("/a").await;
    assert_eq!((second.body.as_str(), second.header("cache-status")), ("2 /a", ""));
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(10));
    rig.get("/a").await;
    assert_eq!(rig.get("/a").await.body, "3 /a", "a raised TTL acts at once");
}

#[tokio::test]
async fn cache_stats_track_hits_and_misses() {
    let rig = rig();
    for uri in ["/a", "/a", "/a", "/b"] {
        rig.get(uri).await;
    }
    let stats = rig.cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.writes, stats.entries), (2, 2, 2, 2));
    assert!((stats.hit_rate - 0.5).abs() < f64::EPSILON);
}

#[tokio::test]
async fn tenants_never_see_each_other_s_answers() {
    let rig = rig();
    rig.reply(200, &[("cache-control", "public")]);
    assert_eq!(rig.get_as("red", "/a").await.body, "1 red/a");
    assert_eq!(rig.get_as("blue", "/a").await.body, "2 blue/a");
    assert_eq!(rig.get("/a").await.body, "3 /a");
    assert_eq!(rig.get_as("red", "/a").await.body, "1 red/a");
}

#[tokio::test]
async fn an_answer_to_credentials_is_kept_only_when_it_says_so() {
    let rig = rig();
    rig.get_as("red", "/a").await;
    assert_eq!(rig.get_as("red", "/a").await.body, "2 red/a");
}

/// The original mapped `hello world?` and `hello world>` to one file and served one for the other.
#[tokio::test]
async fn keys_that_look_alike_are_kept_apart() {
    let rig = rig();
    for uri in ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b"] {
        assert_eq!(rig.get(uri).await.body.split(' ').nth(1).unwrap(), uri);
    }
    for uri in ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b"] {
        assert_eq!(rig.get(uri).await.body.split(' ').nth(1).unwrap(), uri, "from the cache");
    }
    assert_eq!(rig.asked(), 6);
}

#[tokio::test]
async fn an_answer_that_varies_is_kept_for_each_value() {
    let rig = rig();
    rig.reply(200, &[("vary", "Accept-Language")]);
    assert_eq!(rig.get_with("/a", "accept-language", "de").await.body, "1 /a");
    assert_eq!(rig.get_with("/a", "accept-language", "fr").await.body, "2 /a");
    assert_eq!(rig.get_with("/a", "accept-language", "de").await.body, "1 /a");
    assert_eq!(rig.get_with("/a", "accept-language", "fr").await.body, "2 /a");
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn many_who_ask_at_once_cause_one_fetch() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a").await.body })
        })
        .collect();
    until("the origin is asked", || rig.asked() == 1).await;
    until("all wait", || rig.cache.stats().in_flight == 1).await;
    drop(closed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "1 /a");
    }
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_the_answer_from_the_others() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let first = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.get("/a").await.body }
    });
    until("the origin is asked", || rig.asked() == 1).await;
    let second = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.get("/a").await.body }
    });
    tokio::task::yield_now().await;
    first.abort();
    drop(closed);
    assert_eq!(second.await.unwrap(), "1 /a");
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn a_failure_is_shared_with_those_who_wait_and_not_kept() {
    let rig = Arc::new(rig());
    rig.reply(503, &[]);
    let closed = rig.origin.gate.write().await;
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a").await.status })
        })
        .collect();
    until("the origin is asked", || rig.asked() == 1).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 503);
    }
    assert_eq!(rig.asked(), 1);
    rig.reply(200, &[]);
    assert_eq!(rig.get("/a").await.status, 200);
}

#[tokio::test]
async fn callers_of_an_answer_that_cannot_be_shared_each_get_their_own() {
    let rig = Arc::new(rig());
    rig.reply(200, &[("cache-control", "private")]);
    let closed = rig.origin.gate.write().await;
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.get("/a").await.body })
        })
        .collect();
    until("the origin is asked", || rig.asked() >= 1).await;
    drop(closed);
    let mut bodies = Vec::new();
    for caller in callers {
        bodies.push(caller.await.unwrap());
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 5);
}

#[tokio::test]
async fn a_stale_answer_is_served_at_once_while_one_fetch_renews_it() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_while_revalidate = Duration::from_secs(30));
    rig.get("/a").await;
    rig.pass(12);
    let stale = rig.get("/a").await;
    assert_eq!(stale.body, "1 /a");
    assert!(
        stale.header("cache-status").contains("stale-while-revalidate"),
        "{}",
        stale.header("cache-status")
    );
    until("it is renewed", || rig.cache.stats().writes == 2).await;
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_stale_answer_stands_in_for_a_failed_one() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_if_error = Duration::from_mins(1));
    rig.get("/a").await;
    rig.pass(20);
    rig.reply(503, &[]);
    let got = rig.get("/a").await;
    assert_eq!((got.status, got.body.as_str()), (200, "1 /a"));
    assert_eq!(got.header("cache-status"), "test; hit; detail=stale-if-error");
    rig.pass(60);
    assert_eq!(rig.get("/a").await.status, 503, "not older than allowed");
}

#[tokio::test]
async fn cache_delete_works_by_path_tag_and_prefix() {
    let rig = rig();
    for (uri, tag) in [("/a/1?x", "red"), ("/a/2", "blue"), ("/ab", "red"), ("/a", "none")] {
        rig.reply(200, &[("surrogate-key", tag)]);
        rig.get(uri).await;
    }
    assert_eq!(rig.cache.invalidate(Invalidation::Tag("red".into())), 2);
    assert_eq!(rig.cache.invalidate(Invalidation::Prefix("/a".into())), 2);
    assert_eq!(rig.cache.stats().entries, 0);
    rig.get("/a/1?x").await;
    assert_eq!(rig.cache.invalidate(Invalidation::Path("/a/1".into())), 1);
    assert_eq!(rig.cache.invalidate(Invalidation::All), 0);
}

/// In the original two keys that depended on each other were invalidated in a circle.
#[tokio::test]
async fn answers_tagged_with_each_other_s_name_do_not_drag_each_other_along() {
    let rig = rig();
    for (uri, tag) in [("/a", "/b"), ("/b", "/a")] {
        rig.reply(200, &[("surrogate-key", tag)]);
        rig.get(uri).await;
    }
    assert_eq!(rig.cache.invalidate(Invalidation::Tag("/a".into())), 1);
    assert_eq!(rig.get("/a").await.body, "1 /a");
    assert_eq!(rig.get("/b").await.body, "3 /b");
}

/// In the original an invalidation could be stored as a cached null, and a fetch that was under
/// way brought the old value back.
#[tokio::test]
async fn an_invalidation_that_races_a_fetch_wins() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let caller = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.get("/a").await.body }
    });
    until("the origin is asked", || rig.asked() == 1).await;
    rig.cache.invalidate(Invalidation::Path("/a".into()));
    drop(closed);
    assert_eq!(caller.await.unwrap(), "1 /a", "who asked before still gets an answer");
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

/// A client would else be shown the state from before its own change.
#[tokio::test]
async fn who_asks_after_an_invalidation_is_not_given_what_was_made_before_it() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let ask = |rig: &Arc<Rig>| {
        let rig = Arc::clone(rig);
        tokio::spawn(async move { rig.get("/a").await.body })
    };
    let before = ask(&rig);
    until("the origin is asked", || rig.asked() == 1).await;
    rig.cache.invalidate(Invalidation::Path("/a".into()));
    let after = ask(&rig);
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    assert_eq!((before.await.unwrap(), after.await.unwrap()), ("1 /a".into(), "2 /a".into()));
}

/// Each of them asked the origin.
#[tokio::test]
async fn an_invalidation_during_a_fetch_costs_one_more_however_many_wait() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let ask = |rig: &Arc<Rig>| {
        let rig = Arc::clone(rig);
        tokio::spawn(async move { rig.get("/a").await.body })
    };
    let mut callers: Vec<_> = (0..100).map(|_| ask(&rig)).collect();
    until("the origin is asked", || rig.asked() == 1).await;
    for _ in 0..3 {
        rig.cache.invalidate(Invalidation::Path("/a".into()));
        callers.extend((0..100).map(|_| ask(&rig)));
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    drop(closed);
    let mut bodies = Vec::new();
    for caller in callers {
        bodies.push(caller.await.unwrap());
    }
    assert_eq!(rig.asked(), 2);
    assert_eq!(bodies.iter().filter(|body| *body == "1 /a").count(), 1, "to whom it was made for");
    assert!(bodies[100..].iter().all(|body| body == "2 /a"), "{bodies:?}");
}

#[tokio::test]
async fn a_refusal_does_not_cost_the_answer_that_may_stand_in_for_a_failure() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_if_error = Duration::from_mins(10));
    rig.get("/a").await;
    rig.pass(20);
    for status in [429, 503] {
        rig.reply(status, &[]);
        let expected = if status == 429 { 429 } else { 200 };
        assert_eq!(rig.get("/a").await.status, expected);
    }
}

#[tokio::test]
async fn what_one_caller_with_credentials_is_told_does_not_end_the_sharing_of_others() {
    let rig = rig();
    rig.get_as("ann", "/a").await;
    let mut refused = rig.request(Method::GET, "/b");
    refused.extensions_mut().insert(Caller(""));
    rig.send(refused).await;
    let asked = rig.asked();
    assert_eq!(rig.get("/b").await.header("cache-status"), "test; fwd=uri-miss; stored");
    assert_eq!((rig.get("/b").await.header("cache-status"), rig.asked()), ("test; hit; ttl=9", asked + 1));
}

#[tokio::test]
async fn a_failure_with_a_cookie_or_to_credentials_is_for_one_only() {
    for (headers, caller) in [(vec![("set-cookie", "a=1")], None), (vec![], Some("ann"))] {
        let rig = Arc::new(rig());
        rig.reply(500, &headers);
        let closed = rig.origin.gate.write().await;
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let rig = Arc::clone(&rig);
                tokio::spawn(async move {
                    match caller {
                        Some(caller) => rig.get_as(caller, "/a").await.status,
                        None => rig.get("/a").await.status,
                    }
                })
            })
            .collect();
        until("the origin is asked", || rig.asked() >= 1).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        drop(closed);
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 500);
        }
        assert_eq!(rig.asked(), 3);
    }
}

#[tokio::test]
async fn headers_of_the_request_that_fetched_it_are_not_kept() {
    let rig = rig();
    rig.reply(
        200,
        &[("x-request-id", "r1"), ("ratelimit", "x"), ("x-ratelimit-limit", "5"), ("x-other", "1")],
    );
    rig.get("/a").await;
    let hit = rig.get("/a").await;
    assert_eq!(hit.header("cache-status"), "test; hit; ttl=9");
    assert_eq!(
        (hit.header("x-request-id"), hit.header("ratelimit"), hit.header("x-ratelimit-limit")),
        ("", "", "")
    );
    assert_eq!(hit.header("x-other"), "1");
}

#[tokio::test]
async fn a_condition_is_about_what_is_there() {
    let rig = rig();
    rig.reply(404, &[]);
    assert_eq!(rig.get("/a").await.status, 404);
    assert_eq!(rig.get_with("/a", "if-none-match", "*").await.status, 404);
    rig.reply(412, &[]);
    assert_eq!(rig.get_with("/b", "if-match", "\"x\"").await.status, 412, "only the handler can judge it");
}

#[tokio::test]
async fn a_header_on_several_lines_counts_whole() {
    let rig = rig();
    rig.reply(200, &[("vary", "accept")]);
    rig.get_with("/a", "accept", "text/html").await;
    let mut both = rig.request(Method::GET, "/a");
    for value in ["text/html", "application/json"] {
        both.headers_mut().append("accept", value.parse().unwrap());
    }
    assert_eq!(rig.send(both).await.body, "2 /a");
    assert_eq!(rig.get_with("/a", "accept", "text/html, application/json").await.body, "2 /a");
    assert_eq!(rig.get_with("/a", "accept", "text/html").await.body, "1 /a");
}

#[tokio::test]
async fn every_request_is_counted_once() {
    let rig = rig();
    rig.set_terms(|terms| terms.stale_if_error = Duration::from_mins(10));
    rig.get("/a").await;
    rig.get("/a").await;
    rig.pass(20);
    rig.reply(503, &[]);
    rig.get("/a").await;
    let stats = rig.cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.stale_hits, stats.joined), (1, 1, 1, 0));
}

/// A body of five bytes that never come.
struct Stalled(Option<Bytes>);

impl From<Bytes> for Stalled {
    fn from(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }
}

impl http_body::Body for Stalled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) if !bytes.is_empty() => {
                self.0 = Some(Bytes::new());
                std::task::Poll::Ready(Some(Ok(http_body::Frame::data(bytes))))
            }
            Some(_) => std::task::Poll::Ready(None),
            None => std::task::Poll::Pending,
        }
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.0.as_ref().map_or(5, |bytes| bytes.len() as u64))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_holds_nobody_for_ever() {
    let rig = rig();
    let inner = service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Stalled(None))) });
    let service = CacheLayer::new(rig.cache.clone(), "test", ASK).layer(inner);
    let first = tokio::spawn(service.clone().oneshot(rig.request(Method::GET, "/a")));
    until("it is fetched", || rig.cache.stats().in_flight == 1).await;
    let second = tokio::spawn(service.oneshot(rig.request(Method::GET, "/a")));
    assert_eq!(first.await.unwrap().unwrap().status(), 504);
    assert_eq!(second.await.unwrap().unwrap().status(), 200, "it asks for itself");
    assert_eq!(rig.cache.stats().in_flight, 0);
}

#[tokio::test]
async fn a_successful_unsafe_request_makes_its_target_invalid() {
    let rig = rig();
    rig.get("/a?x=1").await;
    rig.send(rig.request(Method::POST, "/a")).await;
    assert_eq!(rig.get("/a?x=1").await.body, "3 /a?x=1");
    rig.reply(400, &[]);
    rig.send(rig.request(Method::PUT, "/a")).await;
    assert_eq!(rig.get("/a?x=1").await.body, "3 /a?x=1", "a refused one changed nothing");
}

/// A client that went away took the invalidation with it.
#[tokio::test]
async fn an_unsafe_request_whose_client_goes_away_may_have_done_its_work() {
    let rig = Arc::new(rig());
    rig.get("/a").await;
    let closed = rig.origin.gate.write().await;
    let client = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move { rig.send(rig.request(Method::POST, "/a")).await.status }
    });
    until("the origin is asked", || rig.asked() == 2).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    drop(closed);
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

/// What was stored before came back when the TTL was raised again.
#[tokio::test]
async fn an_unsafe_request_counts_while_nothing_is_cached() {
    let rig = rig();
    rig.get("/a").await;
    rig.set_terms(|terms| terms.ttl = Duration::ZERO);
    rig.send(rig.request(Method::POST, "/a")).await;
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(10));
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn tags_on_several_lines_all_count_and_an_answer_with_too_many_is_not_kept() {
    let rig = rig();
    rig.reply(200, &[("surrogate-key", "red"), ("surrogate-key", "blue")]);
    rig.get("/a").await;
    assert_eq!(rig.cache.invalidate(Invalidation::Tag("blue".into())), 1);
    let many: &'static str = Box::leak("t ".repeat(40).into_boxed_str());
    rig.reply(200, &[("surrogate-key", many)]);
    rig.get("/b").await;
    assert_eq!(rig.cache.stats().entries, 0, "it could not be forgotten by its last tag");
}

#[tokio::test]
async fn the_time_that_an_answer_takes_counts_as_its_age() {
    let rig = Arc::new(rig());
    let closed = rig.origin.gate.write().await;
    let ask = |rig: &Arc<Rig>| {
        let rig = Arc::clone(rig);
        tokio::spawn(async move { rig.get("/a").await })
    };
    let (first, second) = (ask(&rig), ask(&rig));
    until("the origin is asked", || rig.asked() == 1).await;
    rig.pass(8);
    drop(closed);
    assert_eq!((first.await.unwrap().header("age"), second.await.unwrap().body.as_str()), ("8", "1 /a"));
    rig.pass(3);
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn an_unsafe_request_finds_its_target_however_it_is_encoded() {
    let rig = rig();
    rig.get("/%61").await;
    rig.send(rig.request(Method::DELETE, "/%61")).await;
    assert_eq!(rig.get("/a").await.body, "3 /a");
}

#[tokio::test]
async fn a_client_that_forbids_storing_neither_stores_nor_disturbs() {
    let rig = rig();
    rig.get_with("/a", "cache-control", "no-store").await;
    assert_eq!(rig.get("/a").await.body, "2 /a");
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn only_if_cached_does_not_ask_the_handler() {
    let rig = rig();
    assert_eq!(rig.get_with("/a", "cache-control", "only-if-cached").await.status, 504);
    rig.get("/a").await;
    assert_eq!(rig.get_with("/a", "cache-control", "only-if-cached").await.status, 200);
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn a_cache_in_front_is_told_no_longer_than_the_policy_and_by_which_names_to_forget() {
    let rig = rig();
    for (said, expected) in [
        ("", "max-age=0, s-maxage=10"),
        ("public", "public, max-age=0, s-maxage=10"),
        ("public, max-age=60", "public, max-age=10"),
        ("max-age=4", "max-age=4"),
        (
            "max-age=4, s-maxage=60, stale-if-error=60",
            "max-age=4, s-maxage=10, stale-if-error=0, must-revalidate",
        ),
    ] {
        let headers = [("cache-control", said), ("surrogate-key", "red blue")];
        rig.reply(200, &headers[usize::from(said.is_empty())..]);
        rig.cache.invalidate(Invalidation::All);
        for got in [rig.get("/a").await, rig.get("/a").await] {
            assert_eq!((got.header("cache-control"), got.header("surrogate-key")), (expected, "red blue"));
        }
    }
    rig.set_terms(|terms| terms.ttl = Duration::from_secs(2));
    let retuned = rig.get("/a").await;
    assert_eq!(retuned.header("cache-control"), "max-age=2, stale-if-error=0, must-revalidate");
    rig.reply(404, &[]);
    rig.set_terms(|terms| terms.ttl = Duration::from_mins(1));
    assert_eq!(rig.get("/b").await.header("cache-control"), "max-age=0, s-maxage=5");
    rig.reply(200, &[("cache-control", "no-store")]);
    assert_eq!(rig.get("/c").await.header("cache-control"), "no-store");
}

#[tokio::test]
async fn what_a_caller_with_credentials_is_told_is_private_to_a_cache_in_front() {
    let rig = rig();
    for (said, expected) in [
        ("public, max-age=60", "private, max-age=10"),
        ("public, s-maxage=4", "private, max-age=0, must-revalidate"),
        ("max-age=60", "private, max-age=60"),
        ("public, private=\"x, y\", max-age=60", "private, max-age=60"),
        ("no-store", "private, no-store"),
    ] {
        rig.reply(200, &[("cache-control", said)]);
        rig.cache.invalidate(Invalidation::All);
        for got in [rig.get_as("red", "/a").await, rig.get_as("red", "/a").await] {
            assert_eq!(got.header("cache-control"), expected, "{said}");
        }
    }
    rig.reply(200, &[]);
    rig.set_terms(|terms| terms.ttl = Duration::ZERO);
    assert_eq!(
        rig.get_as("red", "/a").await.header("cache-control"),
        "private",
        "also where nothing is cached"
    );
}

#[tokio::test]
async fn an_unchanged_answer_is_not_sent_again() {
    let rig = rig();
    rig.get("/a").await;
    let tag = rig.get("/a").await.header("etag").to_owned();
    let got = rig.get_with("/a", "if-none-match", &tag).await;
    assert_eq!((got.status, got.body.as_str(), got.header("etag")), (304, "", tag.as_str()));
    assert_eq!(rig.get_with("/a", "if-none-match", "\"other\"").await.status, 200);
}

#[tokio::test]
async fn a_head_is_answered_from_the_answer_to_a_get() {
    let rig = rig();
    rig.get("/a").await;
    let got = rig.send(rig.request(Method::HEAD, "/a")).await;
    assert_eq!((got.status, got.body.as_str(), got.header("content-length")), (200, "", "4"));
    assert_eq!(rig.asked(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_believed_for_five_seconds() {
    let rig = rig();
    rig.reply(404, &[]);
    rig.get("/a").await;
    rig.pass(4);
    assert_eq!(rig.get("/a").await.body, "1 /a");
    rig.pass(2);
    assert_eq!(rig.get("/a").await.body, "2 /a");
}

#[tokio::test]
async fn a_hit_gives_the_request_its_label_again() {
    let rig = rig();
    rig.get("/a").await;
    let seen = Arc::new(AtomicUsize::new(0));
    let mut request = rig.request(Method::GET, "/a");
    request.extensions_mut().insert(Arc::clone(&seen));
    rig.send(request).await;
    assert_eq!(seen.load(Ordering::Relaxed), 7);
}

#[tokio::test]
async fn entries_beyond_the_maximum_leave() {
    let rig = rig();
    rig.set_terms(|terms| terms.max_entries = 20);
    for i in 0..200 {
        rig.get(&format!("/{i}")).await;
    }
    let entries = rig.cache.stats().entries;
    assert!((1..=20).contains(&entries), "{entries}");
}

#[tokio::test]
async fn beyond_the_maximum_an_answer_in_use_stays_and_one_asked_for_once_goes() {
    let rig = rig();
    rig.set_terms(|terms| terms.max_entries = 20);
    for i in 0..40 {
        rig.get(&format!("/before/{i}")).await;
    }
    let in_use = rig.get("/in-use").await.body;
    for i in 0..200 {
        assert_eq!(rig.get("/in-use").await.body, in_use, "after {i} others");
        rig.get(&format!("/{i}")).await;
    }
    assert_eq!(rig.asked(), 241, "everything but /in-use once");
    rig.get("/100").await;
    assert_eq!(rig.asked(), 242, "/100 is fetched anew");
}

// ---- the level on disk

fn rig_on_disk(folder: &tempfile::TempDir, now_ms: u64) -> Rig {
    rig_over(Some(Arc::new(Disk::new(folder.path().join("cache.db"), 10_000_000))), now_ms)
}

fn written(rig: &Rig) -> u64 {
    rig.cache.stats().second_level.unwrap().writes
}

/// A plausible time, because the level forgets what is older than two days.
fn calendar_ms() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn entries_survive_a_restart_with_their_age() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = rig_on_disk(&folder, now);
    before.get("/a").await;
    until("it is on disk", || written(&before) == 1).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now + 4_000);
    let got = after.get("/a").await;
    assert_eq!((got.body.as_str(), got.header("age"), after.asked()), ("1 /a", "4", 0));
    assert!(got.header("cache-status").contains("second-level"));
    after.pass(7);
    assert_eq!(after.get("/a").await.body, "1 /a", "asked anew: the first answer of the new origin");
    assert_eq!(after.asked(), 1, "promotion does not make an entry younger");
}

/// Answers with `Vary` were in memory only, and an older one without came back in their place.
#[tokio::test]
async fn an_answer_that_varies_is_kept_on_disk_with_what_it_was_chosen_by() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = rig_on_disk(&folder, now);
    before.get_with("/a", "accept-language", "de").await;
    before.pass(1);
    before.reply(200, &[("vary", "accept-language")]);
    let mut reload = before.request(Method::GET, "/a");
    reload.headers_mut().insert("accept-language", "de".parse().unwrap());
    reload.headers_mut().insert("cache-control", "no-cache".parse().unwrap());
    assert_eq!(before.send(reload).await.body, "2 /a");
    until("both are on disk", || written(&before) == 2).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now + 2_000);
    after.reply(200, &[("vary", "accept-language")]);
    assert_eq!(after.get_with("/a", "accept-language", "de").await.body, "2 /a");
    assert_eq!(after.asked(), 0);
    assert_eq!(after.get_with("/a", "accept-language", "fr").await.body, "1 /a", "nobody made it before");
}

#[tokio::test]
async fn what_is_not_there_takes_no_place_on_disk_and_what_it_replaces_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let before = rig_on_disk(&folder, now);
    before.get("/a").await;
    before.pass(11);
    before.reply(404, &[]);
    assert_eq!(before.get("/a").await.status, 404);
    before.get("/b").await;
    until("all is carried out", || written(&before) == 3).await;
    assert_eq!(before.cache.stats().second_level.unwrap().entries, 0);
}

#[tokio::test]
async fn an_invalidated_entry_does_not_come_back_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let rig = rig_on_disk(&folder, now);
    rig.reply(200, &[("surrogate-key", "red")]);
    rig.get("/a/b").await;
    until("it is on disk", || written(&rig) == 1).await;
    rig.cache.invalidate(Invalidation::Tag("red".into()));
    assert_eq!(rig.get("/a/b").await.body, "2 /a/b", "although the disk may not have caught up");
    until("it is on disk again", || written(&rig) == 2).await;
    rig.get("/kept").await;
    let on_disk = || rig.cache.stats().second_level.unwrap().entries;
    until("both are on disk", || on_disk() == 2).await;
    rig.cache.invalidate(Invalidation::Prefix("/a".into()));
    until("one has left the disk", || on_disk() == 1).await;
    rig.cache.close().await;
    drop(rig);
    let after = rig_on_disk(&folder, now);
    assert_eq!(after.get("/kept").await.body, "3 /kept", "the disk is read");
    assert_eq!(after.get("/a/b").await.body, "1 /a/b", "the first answer of the new origin");
}

#[tokio::test]
async fn an_invalidation_just_before_a_stop_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let rig = rig_on_disk(&folder, now);
    rig.get("/a").await;
    until("it is on disk", || written(&rig) == 1).await;
    rig.cache.invalidate(Invalidation::Path("/a".into()));
    rig.cache.close().await;
    drop(rig);
    let after = rig_on_disk(&folder, now);
    after.get("/a").await;
    assert_eq!(after.asked(), 1);
}

#[tokio::test]
async fn a_file_that_was_not_closed_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let killed = rig_on_disk(&folder, now);
    killed.get("/a").await;
    until("it is on disk", || written(&killed) == 1).await;
    drop(killed);
    let after = rig_on_disk(&folder, now);
    after.get("/a").await;
    assert_eq!(after.asked(), 1);
}

/// The original's file names were shortened and lost what they could not hold.
#[tokio::test]
async fn keys_that_look_alike_or_are_long_are_kept_apart_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let long = format!("/{}", "x".repeat(3_998));
    let mut uris: Vec<_> =
        ["/a?b", "/a", "/a%3Fb", "/a/b", "/a?b=", "/A?b", "/hello%20world%3E"].map(str::to_owned).to_vec();
    uris.extend([format!("{long}1"), format!("{long}2")]);
    let before = rig_on_disk(&folder, now);
    for uri in &uris {
        before.get(uri).await;
    }
    until("all are on disk", || written(&before) == uris.len() as u64).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now);
    for uri in &uris {
        assert_eq!(after.get(uri).await.body.split(' ').nth(1), Some(uri.as_str()));
    }
    assert_eq!(after.asked(), 0);
}

/// The original wrote and compressed files inside the request.
#[tokio::test]
async fn nobody_waits_for_a_file_that_somebody_else_has_locked() {
    const AT_ONCE: Duration = Duration::from_millis(500);
    let folder = tempfile::tempdir().unwrap();
    let rig = rig_on_disk(&folder, calendar_ms());
    rig.get("/a").await;
    until("it is on disk", || written(&rig) == 1).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("cache.db"));
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let at_once = |uri| tokio::time::timeout(AT_ONCE, rig.get(uri));
    assert_eq!(at_once("/b").await.expect("a miss").body, "2 /b");
    assert_eq!(at_once("/b").await.expect("a hit on what cannot be written yet").body, "2 /b");
    let post = rig.send(rig.request(Method::POST, "/b"));
    tokio::time::timeout(AT_ONCE, post).await.expect("an unsafe request");
    assert_eq!(at_once("/a").await.expect("a hit").body, "1 /a");
    assert_eq!(written(&rig), 1, "the file is still locked");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_costs_the_cache_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cache.db"), b"this is no database at all, but it is long enough")
        .unwrap();
    let rig = rig_on_disk(&folder, calendar_ms());
    assert_eq!(rig.get("/a").await.body, "1 /a");
    until("it is on disk", || written(&rig) == 1).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_fails_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not-a-folder");
    std::fs::write(&file, b"").unwrap();
    let behind: Option<Arc<dyn phase6_cache::Level>> =
        Some(Arc::new(Disk::new(file.join("cache.db"), 1_000)));
    let rig = rig_over(behind, calendar_ms());
    assert_eq!(rig.get("/a").await.body, "1 /a");
    assert_eq!(rig.get("/a").await.body, "1 /a");
    until("the failure is counted", || rig.cache.stats().second_level.unwrap().errors > 0).await;
}

#[tokio::test]
async fn values_keep_their_type_and_size_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let now = calendar_ms();
    let long: &'static str = Box::leak("x".repeat(5_000).into_boxed_str());
    let bodies = ["", "123", "null", "{\"a\":1}", long];
    let before = rig_on_disk(&folder, now);
    for (i, body) in bodies.iter().enumerate() {
        *before.origin.answer.lock().unwrap() =
            Reply { status: 200, headers: vec![("content-type", "text/plain")], body: Some(body) };
        before.get(&format!("/{i}")).await;
    }
    until("all are on disk", || written(&before) == bodies.len() as u64).await;
    before.cache.close().await;
    drop(before);
    let after = rig_on_disk(&folder, now);
    for (i, body) in bodies.iter().enumerate() {
        let got = after.get(&format!("/{i}")).await;
        assert_eq!(got.body, *body);
        assert_eq!(got.header("content-type"), "text/plain");
    }
    assert_eq!(after.asked(), 0);
}

#[tokio::test]
async fn the_file_stays_within_its_bound() {
    let folder = tempfile::tempdir().unwrap();
    let behind: Option<Arc<dyn phase6_cache::Level>> =
        Some(Arc::new(Disk::new(folder.path().join("cache.db"), 50_000)));
    let rig = rig_over(behind, calendar_ms());
    for i in 0..300 {
        rig.now_ms.fetch_add(1, Ordering::SeqCst);
        rig.get(&format!("/{i}")).await;
        if i % 20 == 0 {
            until("the level caught up", || {
                let level = rig.cache.stats().second_level.unwrap();
                level.writes + level.dropped > i
            })
            .await;
        }
    }
    until("the level caught up", || {
        let level = rig.cache.stats().second_level.unwrap();
        level.writes + level.dropped == 300
    })
    .await;
    let level = rig.cache.stats().second_level.unwrap();
    assert!(level.bytes < 100_000, "{level:?}");
}
