//! One random sequence against the real cache.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Method, Request as HttpRequest, Response};
use http_body_util::{BodyExt, Collected, Empty};
use parking_lot::Mutex;
use phase6_cache::{Accessors, Cache, CachePolicy, Client, HttpCacheLayer, Invalidation, Level};
use tower::{Layer, Service, service_fn};

use crate::{
    model::{ClientResponse, InvalidationEvent, Request, RequestControl, Sender, Target},
    origin::{Body, Environment, handle},
    slow_level::SlowLevel,
};

/// Number of a request within its sequence.
#[derive(Clone, Copy)]
struct RequestId(usize);

const ACCESSORS: Accessors = Accessors {
    policy: |extensions| extensions.get::<CachePolicy>(),
    client: |extensions| match extensions.get::<Sender>() {
        Some(sender) => Client { tenant: sender.tenant, has_credentials: sender.has_credentials },
        None => Client { tenant: "", has_credentials: true },
    },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

const TARGETS: [Target; 5] = [
    Target { sent: "/a", normalized: "/a" },
    Target { sent: "/%61", normalized: "/a" },
    Target { sent: "/a?b", normalized: "/a?b" },
    Target { sent: "/a/b", normalized: "/a/b" },
    Target { sent: "/ab", normalized: "/ab" },
];

const SENDERS: [Sender; 4] = [
    Sender { tenant: "", has_credentials: false },
    Sender { tenant: "", has_credentials: true },
    Sender { tenant: "ann", has_credentials: true },
    Sender { tenant: "bob", has_credentials: true },
];

/// Clock at the start of a sequence, in milliseconds.
const START_MS: u64 = 1_000_000;
/// Number of scheduler turns after which no task makes progress on its own.
const TURNS_TO_SETTLE: usize = 12;

/// Summary of one or more sequences.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub steps: u64,
    pub responses: u64,
    /// Responses to another request than the one that caused the call of the origin.
    pub shared: u64,
    /// Responses that the model required to be hits.
    pub required_hits: u64,
    /// Hash over all responses: request, call and time.
    pub fingerprint: u64,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.responses += other.responses;
        self.shared += other.shared;
        self.required_hits += other.required_hits;
        self.fingerprint = self.fingerprint.rotate_left(7) ^ other.fingerprint;
    }
}

type ResponseFuture = BoxFuture<'static, Result<Response<Body>, std::convert::Infallible>>;

struct PendingRequest {
    id: usize,
    response: ResponseFuture,
}

struct Sequence {
    seed: u64,
    environment: Arc<Mutex<Environment>>,
    clock: Arc<AtomicU64>,
    cache: Cache,
    level: Option<Arc<SlowLevel>>,
    is_shared: bool,
    policy: CachePolicy,
    pending: Vec<PendingRequest>,
    summary: Summary,
    is_verbose: bool,
}

/// Runs the sequence of a seed. Panics with the seed if a response breaks a rule.
pub async fn run(seed: u64, is_verbose: bool) -> Summary {
    let clock = Arc::new(AtomicU64::new(START_MS));
    let environment = Arc::new(Mutex::new(Environment::new(seed, Arc::clone(&clock))));
    let (has_level, is_shared, steps) = {
        let rng = &mut environment.lock().rng;
        (rng.once_in(2), rng.once_in(2), 6 + rng.below(24))
    };
    let level = has_level.then(|| Arc::new(SlowLevel::new(Arc::clone(&environment), is_shared, None)));
    let cache = Cache::with_manual_clock(as_level(level.as_ref()), Arc::clone(&clock));
    let policy = CachePolicy {
        ttl: Duration::from_secs(10),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        max_entries: 1_000,
    };
    let mut sequence = Sequence {
        seed,
        environment,
        clock,
        cache,
        level,
        is_shared,
        policy,
        pending: Vec::new(),
        summary: Summary { steps, ..Summary::default() },
        is_verbose,
    };
    sequence.change_policy();
    for _ in 0..steps {
        sequence.step().await;
    }
    sequence.finish().await;
    sequence.summary
}

fn as_level(level: Option<&Arc<SlowLevel>>) -> Option<Arc<dyn Level>> {
    level.map(|level| Arc::clone(level) as Arc<dyn Level>)
}

impl Sequence {
    async fn step(&mut self) {
        let choice = self.environment.lock().rng.below(100);
        match choice {
            0..46 => self.send_request(),
            46..60 => self.advance_clock(),
            60..74 => self.open_gate(),
            74..80 => self.invalidate(),
            80..85 => self.change_policy(),
            85..88 => self.disconnect_client(),
            88..94 => self.apply_level_changes(),
            94..96 => self.toggle_sync(),
            96 => self.restart().await,
            _ => {}
        }
        let turns = self.environment.lock().rng.below(4) as usize;
        self.run_tasks(turns).await;
    }

    #[allow(clippy::print_stdout, reason = "shows what happens in the sequence of one seed")]
    fn log(&self, text: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>7} ms  {}", self.clock.load(Ordering::Relaxed) - START_MS, text());
        }
    }

    /// Sends a request, which is answered at once or later.
    fn send_request(&mut self) {
        let request = self.random_request();
        let (id, required_hit) = {
            let history = &mut self.environment.lock().history;
            history.requests.push(request.clone());
            let id = history.requests.len() - 1;
            (id, history.required_hit(id))
        };
        self.log(|| format!("request {id}: {request:?}"));
        let mut http = HttpRequest::new(Empty::new());
        *http.method_mut() = request.method.parse().unwrap();
        *http.uri_mut() = request.target.sent.parse().unwrap();
        write_headers(&request, http.headers_mut());
        http.extensions_mut().insert(RequestId(id));
        http.extensions_mut().insert(request.sender);
        http.extensions_mut().insert(self.policy);
        let environment = Arc::clone(&self.environment);
        let handler = service_fn(move |request: HttpRequest<Empty<bytes::Bytes>>| {
            let id = request.extensions().get::<RequestId>().unwrap().0;
            handle(Arc::clone(&environment), id, request.method() == Method::GET)
        });
        let mut service = HttpCacheLayer::new(self.cache.clone(), "test", ACCESSORS).layer(handler);
        let mut response: ResponseFuture = service.call(http).boxed();
        match (&mut response).now_or_never() {
            Some(Ok(response)) => self.check_response(id, response, required_hit),
            None => {
                assert!(
                    required_hit.is_none(),
                    "seed {}: request {id} waits, and call {required_hit:?} has its response",
                    self.seed
                );
                self.pending.push(PendingRequest { id, response });
            }
        }
    }

    fn random_request(&mut self) -> Request {
        let mut environment = self.environment.lock();
        let started = environment.record_event();
        let rng = &mut environment.rng;
        let method = match rng.below(20) {
            0 => "HEAD",
            1 => "POST",
            2 => "DELETE",
            _ => "GET",
        };
        let mut control = RequestControl::default();
        match rng.below(30) {
            0 => control.no_store = true,
            1 | 2 => control.no_cache = true,
            3 => control.only_if_cached = true,
            4 | 5 => control.max_age = Some(rng.one_of(&[0, 1, 3, 9])),
            6 => control.min_fresh = Some(rng.one_of(&[0, 1, 3, 9])),
            _ => {}
        }
        let mut policy = self.policy;
        if self.level.as_ref().is_some_and(|level| !level.is_in_sync.load(Ordering::Relaxed)) {
            policy.ttl = policy.ttl.min(Duration::from_secs(1));
            policy.stale_while_revalidate = Duration::ZERO;
        }
        // Half of the requests share one target, and half one sender, so that there is something to share.
        let target = if rng.once_in(2) { TARGETS[0] } else { rng.one_of(&TARGETS) };
        let sender = if rng.once_in(2) { SENDERS[0] } else { rng.one_of(&SENDERS) };
        let language = rng.one_of(&[None, None, None, Some("de")]);
        Request { sender, target, method, language, control, policy, started }
    }

    /// Checks a response against the model.
    fn check_response(&mut self, id: usize, response: Response<Body>, required_hit: Option<usize>) {
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let cache_status = header("cache-status").unwrap_or_default();
        let control = header("cache-control").unwrap_or_default();
        let has = |directive: &str| control.split(", ").any(|it| it == directive);
        let seconds = |directive: &str| {
            control.split(", ").find_map(|it| it.strip_prefix(directive)?.strip_prefix('=')?.parse().ok())
        };
        let response = ClientResponse {
            call: header("x-call").map(|number| number.parse().unwrap()),
            status: parts.status.as_u16(),
            age: header("age").map(|age| age.parse().unwrap()),
            is_hit: cache_status.contains("; hit"),
            is_stored: cache_status.contains("; stored"),
            is_private: has("private") && !has("public"),
            downstream_max_age: seconds("s-maxage").or_else(|| seconds("max-age")),
        };
        // Complete, unless its gate is closed; then the response belongs to its requester.
        let body = body.collect().now_or_never().and_then(Result::ok).map(Collected::to_bytes);
        self.log(|| format!("response to {id}: {response:?}, {cache_status}"));
        let mut environment = self.environment.lock();
        let now = environment.record_event();
        let history = &mut environment.history;
        let request = history.requests[id].clone();
        let seed = self.seed;
        let fail = |rule: &str| {
            let call = response.call.map(|number| &history.calls[number]);
            panic!("seed {seed}: {rule}: {request:?} was answered by {call:?} with {response:?} at {now:?}")
        };
        if let Err(rule) = history.check(id, &response, now) {
            fail(rule);
        }
        if required_hit.is_some() && response.call != required_hit {
            fail("not the stored response");
        }
        let is_own_body = body.as_ref().is_none_or(|body| {
            body.is_empty() || response.call.is_some_and(|call| *body == call.to_string())
        });
        if !is_own_body {
            fail("the body of another response");
        }
        let is_own = response.call.is_none_or(|number| history.calls[number].requester == id);
        if let Some(number) = response.call {
            history.calls[number].reported_stored |= response.is_stored;
        }
        if !request.is_safe() && matches!(response.status, 200..400) {
            let invalidation = Invalidation::Path(request.target.path().to_owned());
            history.invalidations.push(InvalidationEvent { event: now.event, invalidation });
        }
        let summary = &mut self.summary;
        summary.responses += 1;
        summary.shared += u64::from(!is_own);
        summary.required_hits += u64::from(required_hit.is_some());
        summary.fingerprint = summary.fingerprint.rotate_left(7)
            ^ (id as u64)
            ^ (response.call.map_or(99, |call| call as u64) << 8)
            ^ now.ms;
    }

    fn advance_clock(&mut self) {
        let ms = self.environment.lock().rng.one_of(&[1, 400, 999, 1_000, 1_700, 3_000, 6_000, 12_000]);
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    fn open_gate(&mut self) {
        let Environment { gates, rng, .. } = &mut *self.environment.lock();
        if !gates.is_empty() {
            let chosen = rng.below(gates.len() as u64) as usize;
            drop(gates.swap_remove(chosen));
        }
    }

    fn invalidate(&mut self) {
        let invalidation = match self.environment.lock().rng.below(8) {
            0 => Invalidation::All,
            1 | 2 => Invalidation::Path("/a".into()),
            3 => Invalidation::Prefix("/a".into()),
            4 => Invalidation::Prefix("/a/".into()),
            5 => Invalidation::Tag("red".into()),
            6 => Invalidation::Tag("blue".into()),
            _ => Invalidation::Path("/a/b".into()),
        };
        self.log(|| format!("invalidate {invalidation:?}"));
        self.cache.invalidate(invalidation.clone());
        let mut environment = self.environment.lock();
        let event = environment.record_event().event;
        environment.history.invalidations.push(InvalidationEvent { event, invalidation });
    }

    fn change_policy(&mut self) {
        let seconds = || Duration::from_secs(self.environment.lock().rng.one_of(&[0, 0, 1, 2, 5, 10, 60]));
        let policy = CachePolicy {
            ttl: seconds(),
            stale_while_revalidate: seconds(),
            stale_if_error: seconds(),
            ..self.policy
        };
        self.policy = policy;
        self.log(|| format!("{policy:?}"));
    }

    fn disconnect_client(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let chosen = self.environment.lock().rng.below(self.pending.len() as u64) as usize;
        let PendingRequest { id, response } = self.pending.swap_remove(chosen);
        self.log(|| format!("client of {id} disconnects"));
        drop(response);
        let mut environment = self.environment.lock();
        let event = environment.record_event().event;
        let Request { target, .. } = environment.history.requests[id];
        // An unsafe request may have taken effect.
        if !environment.history.requests[id].is_safe() {
            let invalidation = Invalidation::Path(target.path().to_owned());
            environment.history.invalidations.push(InvalidationEvent { event, invalidation });
        }
    }

    fn apply_level_changes(&mut self) {
        if let Some(level) = &self.level {
            level.apply_changes(self.environment.lock().rng.below(3) as usize);
        }
    }

    fn toggle_sync(&mut self) {
        if let Some(level) = &self.level {
            level.is_in_sync.fetch_xor(true, Ordering::Relaxed);
        }
    }

    /// Replaces the cache by an empty one over the same second level.
    async fn restart(&mut self) {
        self.finish().await;
        self.cache.close().await;
        self.log(|| "restart".to_owned());
        let before = self.level.take();
        self.level = before.map(|before| {
            Arc::new(SlowLevel::new(Arc::clone(&self.environment), self.is_shared, Some(&before)))
        });
        self.cache = Cache::with_manual_clock(as_level(self.level.as_ref()), Arc::clone(&self.clock));
        let mut environment = self.environment.lock();
        environment.history.restarted_at = environment.record_event().event;
    }

    /// Opens all gates until every request is answered.
    async fn finish(&mut self) {
        for _ in 0..1_000 {
            self.environment.lock().gates.clear();
            self.run_tasks(TURNS_TO_SETTLE).await;
            if self.pending.is_empty()
                && self.environment.lock().gates.is_empty()
                && self.cache.stats().in_flight == 0
            {
                return;
            }
        }
        panic!("seed {}: {} requests are never answered", self.seed, self.pending.len());
    }

    /// Lets all tasks and pending requests make progress.
    async fn run_tasks(&mut self, turns: usize) {
        for _ in 0..turns {
            tokio::task::yield_now().await;
            let mut i = 0;
            while i < self.pending.len() {
                match (&mut self.pending[i].response).now_or_never() {
                    Some(Ok(response)) => {
                        let PendingRequest { id, .. } = self.pending.swap_remove(i);
                        self.check_response(id, response, None);
                    }
                    None => i += 1,
                }
            }
        }
    }
}

fn write_headers(request: &Request, headers: &mut HeaderMap) {
    let RequestControl { no_store, no_cache, only_if_cached, max_age, min_fresh } = request.control;
    let flags = [(no_store, "no-store"), (no_cache, "no-cache"), (only_if_cached, "only-if-cached")];
    for (_, name) in flags.into_iter().filter(|(is_set, _)| *is_set) {
        headers.append("cache-control", name.parse().unwrap());
    }
    for (seconds, name) in [(max_age, "max-age"), (min_fresh, "min-fresh")] {
        if let Some(seconds) = seconds {
            headers.append("cache-control", format!("{name}={seconds}").parse().unwrap());
        }
    }
    if let Some(language) = request.language {
        headers.insert("accept-language", language.parse().unwrap());
    }
}
