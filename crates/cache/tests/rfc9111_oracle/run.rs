//! Random sequences of requests, edits and faults against the real cache, each answer held against a model of
//! what it may be. A seed gives the same sequence again.

mod model;
mod world;

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
use phase6_cache::{Ask, Cache, CacheLayer, Client, Invalidation, Level, Terms};
use tower::{Layer, Service, service_fn};

use model::{Answer, Request, Target, Who, Wish};
use world::{Body, Shelf, World, handle};

/// A request's place among those asked.
#[derive(Clone, Copy)]
struct Id(usize);

const ASK: Ask = Ask {
    terms: |extensions| extensions.get::<Terms>(),
    client: |extensions| match extensions.get::<Who>() {
        Some(who) => Client { tenant: who.tenant, authorised: who.has_credentials },
        None => Client { tenant: "", authorised: true },
    },
    label: |_| Box::default(),
    set_label: |_, _| {},
};

const TARGETS: [Target; 5] = [
    Target { written: "/a", name: "/a" },
    Target { written: "/%61", name: "/a" },
    Target { written: "/a?b", name: "/a?b" },
    Target { written: "/a/b", name: "/a/b" },
    Target { written: "/ab", name: "/ab" },
];

const CALLERS: [Who; 4] = [
    Who { tenant: "", has_credentials: false },
    Who { tenant: "", has_credentials: true },
    Who { tenant: "ann", has_credentials: true },
    Who { tenant: "bob", has_credentials: true },
];

/// Turns of all tasks after which nothing moves any more by itself.
const SETTLED: usize = 12;

/// What came of a sequence.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub steps: u64,
    pub answers: u64,
    pub shared: u64,
    /// Of them those that had to be shared.
    pub due: u64,
    /// Who was answered by which call when, in one number.
    pub history: u64,
}

impl std::ops::AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.answers += other.answers;
        self.shared += other.shared;
        self.due += other.due;
        self.history = self.history.rotate_left(7) ^ other.history;
    }
}

type Waiting = BoxFuture<'static, Result<Response<Body>, std::convert::Infallible>>;

struct Sequence {
    seed: u64,
    world: Arc<Mutex<World>>,
    clock: Arc<AtomicU64>,
    cache: Cache,
    shelf: Option<Arc<Shelf>>,
    is_shared: bool,
    terms: Terms,
    /// Requests that are not answered yet.
    waiting: Vec<(usize, Waiting)>,
    outcome: Outcome,
    /// Whether to print what happens.
    tells: bool,
}

/// Lets the sequence of a seed go by. Panics with the seed where an answer breaks a rule.
pub async fn run(seed: u64, tells: bool) -> Outcome {
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let world = Arc::new(Mutex::new(World::new(seed, Arc::clone(&clock))));
    let (has_shelf, is_shared, steps) = {
        let numbers = &mut world.lock().numbers;
        (numbers.once_in(2), numbers.once_in(2), 6 + numbers.below(24))
    };
    let shelf = has_shelf.then(|| Arc::new(Shelf::new(Arc::clone(&world), is_shared, None)));
    let level = shelf.clone().map(|shelf| shelf as Arc<dyn Level>);
    let cache = Cache::with_manual_clock(level, Arc::clone(&clock));
    let terms = Terms {
        ttl: Duration::from_secs(10),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        max_entries: 1_000,
    };
    let mut sequence = Sequence {
        seed,
        world,
        clock,
        cache,
        shelf,
        is_shared,
        terms,
        waiting: Vec::new(),
        outcome: Outcome { steps, ..Outcome::default() },
        tells,
    };
    sequence.retune();
    for _ in 0..steps {
        sequence.step().await;
    }
    sequence.finish().await;
    sequence.outcome
}

impl Sequence {
    async fn step(&mut self) {
        let chosen = self.world.lock().numbers.below(100);
        match chosen {
            0..46 => self.ask(),
            46..60 => self.pass_time(),
            60..74 => self.open_a_gate(),
            74..80 => self.forget(),
            80..85 => self.retune(),
            85..88 => self.leave(),
            88..94 => self.shelve(),
            94..96 => self.lose_touch(),
            96 => self.restart().await,
            _ => {}
        }
        let turns = self.world.lock().numbers.below(4) as usize;
        self.turn(turns).await;
    }

    #[allow(clippy::print_stdout, reason = "asked for, to see what a seed does")]
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>7} ms  {}", self.clock.load(Ordering::Relaxed) - 1_000_000, what());
        }
    }

    /// A request, which is answered at once or later.
    fn ask(&mut self) {
        let request = self.request();
        let (id, due) = {
            let history = &mut self.world.lock().history;
            history.requests.push(request.clone());
            let id = history.requests.len() - 1;
            (id, history.must_use(id))
        };
        self.tell(|| format!("request {id}: {request:?}"));
        let mut http = HttpRequest::new(Empty::new());
        *http.method_mut() = request.method.parse().unwrap();
        *http.uri_mut() = request.target.written.parse().unwrap();
        write(&request, http.headers_mut());
        http.extensions_mut().insert(Id(id));
        http.extensions_mut().insert(request.who);
        http.extensions_mut().insert(self.terms);
        let world = Arc::clone(&self.world);
        let handler = service_fn(move |request: HttpRequest<Empty<bytes::Bytes>>| {
            let id = request.extensions().get::<Id>().unwrap().0;
            handle(Arc::clone(&world), id, request.method() == Method::GET)
        });
        let mut service = CacheLayer::new(self.cache.clone(), "test", ASK).layer(handler);
        let mut waiting: Waiting = service.call(http).boxed();
        match (&mut waiting).now_or_never() {
            Some(Ok(answer)) => self.answered(id, answer, due),
            None => {
                assert!(
                    due.is_none(),
                    "seed {}: request {id} waits, and call {due:?} has its answer",
                    self.seed
                );
                self.waiting.push((id, waiting));
            }
        }
    }

    fn request(&mut self) -> Request {
        let mut world = self.world.lock();
        let begun = world.happens();
        let numbers = &mut world.numbers;
        let method = match numbers.below(20) {
            0 => "HEAD",
            1 => "POST",
            2 => "DELETE",
            _ => "GET",
        };
        let mut wish = Wish::default();
        match numbers.below(30) {
            0 => wish.no_store = true,
            1 | 2 => wish.no_cache = true,
            3 => wish.only_if_cached = true,
            4 | 5 => wish.max_age = Some(numbers.one_of(&[0, 1, 3, 9])),
            6 => wish.min_fresh = Some(numbers.one_of(&[0, 1, 3, 9])),
            _ => {}
        }
        let mut terms = self.terms;
        if self.shelf.as_ref().is_some_and(|shelf| !shelf.is_in_touch.load(Ordering::Relaxed)) {
            terms.ttl = terms.ttl.min(Duration::from_secs(1));
            terms.stale_while_revalidate = Duration::ZERO;
        }
        // Most ask for the same, or nothing would ever meet.
        let target = if numbers.once_in(2) { TARGETS[0] } else { numbers.one_of(&TARGETS) };
        let who = if numbers.once_in(2) { CALLERS[0] } else { numbers.one_of(&CALLERS) };
        let language = numbers.one_of(&[None, None, None, Some("de")]);
        Request { who, target, method, language, wish, terms, begun }
    }

    /// Holds an answer against the model.
    fn answered(&mut self, id: usize, answer: Response<Body>, due: Option<usize>) {
        let (parts, body) = answer.into_parts();
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let status = text("cache-status").unwrap_or_default();
        let control = text("cache-control").unwrap_or_default();
        let says = |directive: &str| control.split(", ").any(|said| said == directive);
        let seconds = |directive: &str| {
            control.split(", ").find_map(|said| said.strip_prefix(directive)?.strip_prefix('=')?.parse().ok())
        };
        let answer = Answer {
            call: text("x-call").map(|number| number.parse().unwrap()),
            status: parts.status.as_u16(),
            age: text("age").map(|age| age.parse().unwrap()),
            is_hit: status.contains("; hit"),
            is_stored: status.contains("; stored"),
            is_kept_from_others: says("private") && !says("public"),
            says_fresh_for: seconds("s-maxage").or_else(|| seconds("max-age")),
        };
        // Ready, or its gate is closed and it belongs to the one who asked.
        let body = body.collect().now_or_never().and_then(Result::ok).map(Collected::to_bytes);
        self.tell(|| format!("answer to {id}: {answer:?}, {status}"));
        let mut world = self.world.lock();
        let now = world.happens();
        let history = &mut world.history;
        let request = history.requests[id].clone();
        let seed = self.seed;
        let fault = |fault: &str| {
            let call = answer.call.map(|number| &history.calls[number]);
            panic!("seed {seed}: {fault}: {request:?} was answered by {call:?} with {answer:?} at {now:?}")
        };
        if let Err(broken) = history.judge(id, &answer, now) {
            fault(broken);
        }
        if due.is_some() && answer.call != due {
            fault("not the answer that is there");
        }
        let is_whole = body
            .as_ref()
            .is_none_or(|body| body.is_empty() || answer.call.is_some_and(|call| *body == call.to_string()));
        if !is_whole {
            fault("the body of another answer");
        }
        let is_own = answer.call.is_none_or(|number| history.calls[number].asker == id);
        if let Some(number) = answer.call {
            history.calls[number].said_stored |= answer.is_stored;
        }
        if !matches!(request.method, "GET" | "HEAD") && matches!(answer.status, 200..400) {
            let path = request.target.name.split('?').next().unwrap_or_default().to_owned();
            history.forgotten.push((now.event, Invalidation::Path(path)));
        }
        let Outcome { answers, shared, due: dues, history, .. } = &mut self.outcome;
        (*answers, *shared, *dues) =
            (*answers + 1, *shared + u64::from(!is_own), *dues + u64::from(due.is_some()));
        *history =
            history.rotate_left(7) ^ (id as u64) ^ (answer.call.map_or(99, |call| call as u64) << 8) ^ now.ms;
    }

    fn pass_time(&mut self) {
        let ms = self.world.lock().numbers.one_of(&[1, 400, 999, 1_000, 1_700, 3_000, 6_000, 12_000]);
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    fn open_a_gate(&mut self) {
        let World { gates, numbers, .. } = &mut *self.world.lock();
        if !gates.is_empty() {
            let chosen = numbers.below(gates.len() as u64) as usize;
            drop(gates.swap_remove(chosen));
        }
    }

    fn forget(&mut self) {
        let what = match self.world.lock().numbers.below(8) {
            0 => Invalidation::All,
            1 | 2 => Invalidation::Path("/a".into()),
            3 => Invalidation::Prefix("/a".into()),
            4 => Invalidation::Prefix("/a/".into()),
            5 => Invalidation::Tag("red".into()),
            6 => Invalidation::Tag("blue".into()),
            _ => Invalidation::Path("/a/b".into()),
        };
        self.tell(|| format!("forget {what:?}"));
        self.cache.invalidate(what.clone());
        let mut world = self.world.lock();
        let at = world.happens().event;
        world.history.forgotten.push((at, what));
    }

    fn retune(&mut self) {
        let seconds = || Duration::from_secs(self.world.lock().numbers.one_of(&[0, 0, 1, 2, 5, 10, 60]));
        let terms = Terms {
            ttl: seconds(),
            stale_while_revalidate: seconds(),
            stale_if_error: seconds(),
            ..self.terms
        };
        self.terms = terms;
        self.tell(|| format!("{terms:?}"));
    }

    /// A client goes away.
    fn leave(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let chosen = self.world.lock().numbers.below(self.waiting.len() as u64) as usize;
        let (id, waiting) = self.waiting.swap_remove(chosen);
        self.tell(|| format!("{id} goes away"));
        drop(waiting);
        let mut world = self.world.lock();
        let at = world.happens().event;
        let Request { method, target, .. } = world.history.requests[id];
        // What it asked for may have happened.
        if !matches!(method, "GET" | "HEAD") {
            let path = target.name.split('?').next().unwrap_or_default().to_owned();
            world.history.forgotten.push((at, Invalidation::Path(path)));
        }
    }

    fn shelve(&mut self) {
        if let Some(shelf) = &self.shelf {
            shelf.carry_out(self.world.lock().numbers.below(3) as usize);
        }
    }

    fn lose_touch(&mut self) {
        if let Some(shelf) = &self.shelf {
            shelf.is_in_touch.fetch_xor(true, Ordering::Relaxed);
        }
    }

    /// What was in memory is lost, and the level behind it is not.
    async fn restart(&mut self) {
        self.finish().await;
        self.cache.close().await;
        self.tell(|| "restart".to_owned());
        let before = self.shelf.take();
        self.shelf =
            before.map(|before| Arc::new(Shelf::new(Arc::clone(&self.world), self.is_shared, Some(&before))));
        let level = self.shelf.clone().map(|shelf| shelf as Arc<dyn Level>);
        self.cache = Cache::with_manual_clock(level, Arc::clone(&self.clock));
        let mut world = self.world.lock();
        world.history.restarted = world.happens().event;
    }

    /// Until everybody who waits has an answer.
    async fn finish(&mut self) {
        for _ in 0..1_000 {
            self.world.lock().gates.clear();
            self.turn(SETTLED).await;
            if self.waiting.is_empty()
                && self.world.lock().gates.is_empty()
                && self.cache.stats().in_flight == 0
            {
                return;
            }
        }
        panic!("seed {}: {} requests are never answered", self.seed, self.waiting.len());
    }

    /// Lets all tasks and those who wait go on a little.
    async fn turn(&mut self, turns: usize) {
        for _ in 0..turns {
            tokio::task::yield_now().await;
            let mut i = 0;
            while i < self.waiting.len() {
                match (&mut self.waiting[i].1).now_or_never() {
                    Some(Ok(answer)) => {
                        let (id, waiting) = self.waiting.swap_remove(i);
                        drop(waiting);
                        self.answered(id, answer, None);
                    }
                    None => i += 1,
                }
            }
        }
    }
}

fn write(request: &Request, headers: &mut HeaderMap) {
    let Wish { no_store, no_cache, only_if_cached, max_age, min_fresh } = request.wish;
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
