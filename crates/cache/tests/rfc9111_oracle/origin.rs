//! What stands around the cache: a handler that answers as it pleases, and a level that is late.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Response, StatusCode};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use phase6_cache::{Asked, Entry, Found, Invalidation, Key, Level, LevelStats, Ticket};
use tokio::sync::oneshot;

use super::model::{Call, History, Moment, Reply, Vary};
use crate::numbers::Numbers;

/// What the handler and the one who watches it share.
pub struct World {
    pub numbers: Numbers,
    pub history: History,
    pub clock: Arc<AtomicU64>,
    events: u64,
    /// What does not go on by itself, until it is opened.
    pub gates: Vec<oneshot::Sender<()>>,
}

impl World {
    pub fn new(seed: u64, clock: Arc<AtomicU64>) -> Self {
        // Neighbours would otherwise begin alike.
        let numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d);
        Self { numbers, history: History::default(), clock, events: 0, gates: Vec::new() }
    }

    /// The moment of something that happens now.
    pub fn happens(&mut self) -> Moment {
        self.events += 1;
        Moment { event: self.events, ms: self.clock.load(Ordering::Relaxed) }
    }

    pub fn begin_call(&mut self, asker: usize, is_get: bool) -> usize {
        let (begun, reply) = (self.happens(), self.reply());
        self.history.calls.push(Call { asker, is_get, begun, ended: None, reply, said_stored: false });
        self.history.calls.len() - 1
    }

    fn end_call(&mut self, number: usize) {
        let ended = self.happens();
        self.history.calls[number].ended.get_or_insert(ended);
    }

    /// Open at once, or when somebody opens it.
    fn gate(&mut self) -> oneshot::Receiver<()> {
        let (open, opened) = oneshot::channel();
        if self.numbers.below(3) == 0 {
            self.gates.push(open);
        }
        opened
    }

    /// Most answers may be kept, and of each way to forbid or to limit it there are some.
    fn reply(&mut self) -> Reply {
        let numbers = &mut self.numbers;
        let seconds = |numbers: &mut Numbers, of: u64| {
            let times = [0, 1, 2, 4, 8, 20];
            numbers.once_in(of).then(|| numbers.one_of(&times))
        };
        let status = if numbers.once_in(3) {
            numbers.one_of(&[404, 410, 301, 302, 500, 503, 503, 429, 206])
        } else {
            200
        };
        let tags = match numbers.below(24) {
            0..8 => vec![vec!["red".to_owned(), "blue".to_owned()]],
            8..12 => vec![vec!["red".to_owned()], vec!["blue".to_owned()]],
            12 => vec![(0..40).map(|i| format!("t{i}")).chain(["blue".to_owned()]).collect()],
            _ => vec![],
        };
        Reply {
            status,
            no_store: numbers.once_in(20),
            no_cache: numbers.once_in(20),
            private: numbers.once_in(20),
            public: numbers.once_in(2),
            must_revalidate: numbers.once_in(12),
            max_age: seconds(numbers, 3),
            s_maxage: seconds(numbers, 10),
            expires: seconds(numbers, 10),
            stale_while_revalidate: seconds(numbers, 8),
            stale_if_error: seconds(numbers, 8),
            age: if numbers.once_in(8) { numbers.one_of(&[1, 3, 7]) } else { 0 },
            vary: match numbers.below(24) {
                0..6 => Vary::Language,
                6 => Vary::Credentials,
                7 => Vary::Everything,
                _ => Vary::Nothing,
            },
            has_cookie: numbers.once_in(20),
            tags,
            breaks: numbers.once_in(20),
        }
    }
}

/// Answers one request, when its gate is open.
pub async fn handle(
    world: Arc<Mutex<World>>,
    asker: usize,
    is_get: bool,
) -> Result<Response<Body>, Infallible> {
    let (number, gate) = {
        let mut world = world.lock();
        (world.begin_call(asker, is_get), world.gate())
    };
    let _ = gate.await;
    let (reply, gate) = {
        let mut world = world.lock();
        (world.history.calls[number].reply.clone(), world.gate())
    };
    let body = Body::Call { gate, number, breaks: reply.breaks, world: Arc::clone(&world) };
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(reply.status).unwrap();
    write(&reply, answer.headers_mut());
    answer.headers_mut().insert("x-call", number.into());
    Ok(answer)
}

fn write(reply: &Reply, headers: &mut HeaderMap) {
    let flags = [
        (reply.no_store, "no-store"),
        (reply.no_cache, "no-cache"),
        (reply.private, "private"),
        (reply.public, "public"),
        (reply.must_revalidate, "must-revalidate"),
    ];
    let numbers = [
        (reply.max_age, "max-age"),
        (reply.s_maxage, "s-maxage"),
        (reply.stale_while_revalidate, "stale-while-revalidate"),
        (reply.stale_if_error, "stale-if-error"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name.to_owned());
    let numbers =
        numbers.into_iter().filter_map(|(seconds, name)| seconds.map(|seconds| format!("{name}={seconds}")));
    let directives: Vec<String> = flags.chain(numbers).collect();
    if !directives.is_empty() {
        headers.insert("cache-control", directives.join(", ").parse().unwrap());
    }
    if let Some(seconds) = reply.expires {
        let made = SystemTime::UNIX_EPOCH + Duration::from_hours(490_000);
        let date = |time| httpdate::fmt_http_date(time).parse().unwrap();
        headers.insert("date", date(made));
        headers.insert("expires", date(made + Duration::from_secs(seconds)));
    }
    if reply.age > 0 {
        headers.insert("age", reply.age.into());
    }
    match reply.vary {
        Vary::Nothing => {}
        Vary::Language => drop(headers.insert("vary", "accept-language".parse().unwrap())),
        Vary::Credentials => drop(headers.insert("vary", "accept, authorization".parse().unwrap())),
        Vary::Everything => drop(headers.insert("vary", "*".parse().unwrap())),
    }
    if reply.has_cookie {
        headers.insert("set-cookie", "a=b".parse().unwrap());
    }
    for line in &reply.tags {
        headers.append("surrogate-key", line.join(" ").parse().unwrap());
    }
}

/// The body of an answer: the number of the call that made it.
pub enum Body {
    Whole(Option<Bytes>),
    Call { gate: oneshot::Receiver<()>, number: usize, breaks: bool, world: Arc<Mutex<World>> },
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Self::Call { number, world, .. } = self {
            world.lock().end_call(*number);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let (text, breaks) = match &mut *self {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Call { gate, number, breaks, .. } => {
                if Pin::new(gate).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                (number.to_string(), *breaks)
            }
        };
        *self = Self::Whole(None);
        Poll::Ready(Some(if breaks { Err("broken") } else { Ok(Frame::data(text.into())) }))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Call { number, .. } => number.to_string().len() as u64,
        })
    }
}

enum Change {
    Put(Arc<Entry>),
    Remove(Invalidation, u64),
}

/// A level that does what it is told later, in order.
pub struct Shelf {
    world: Arc<Mutex<World>>,
    entries: Mutex<HashMap<Key, Entry>>,
    changes: Mutex<VecDeque<Change>>,
    carried_out: AtomicU64,
    pub is_in_touch: AtomicBool,
    is_shared: bool,
}

impl Shelf {
    pub fn new(world: Arc<Mutex<World>>, is_shared: bool, before: Option<&Self>) -> Self {
        Self {
            world,
            entries: Mutex::new(before.map_or_else(HashMap::new, |before| before.entries.lock().clone())),
            changes: Mutex::default(),
            carried_out: AtomicU64::new(0),
            is_in_touch: AtomicBool::new(true),
            is_shared,
        }
    }

    pub fn carry_out(&self, changes: usize) {
        for _ in 0..changes {
            match self.changes.lock().pop_front() {
                Some(Change::Put(entry)) => {
                    self.entries.lock().insert(entry.key.clone(), (*entry).clone());
                }
                Some(Change::Remove(invalidation, number)) => {
                    self.entries.lock().retain(|_, entry| !invalidation.means(entry));
                    self.carried_out.store(number + 1, Ordering::Relaxed);
                }
                None => return,
            }
        }
    }
}

impl Level for Shelf {
    fn is_in_touch(&self) -> bool {
        self.is_in_touch.load(Ordering::Relaxed)
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn get<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Found> {
        Box::pin(async move {
            let carried_out = self.carried_out.load(Ordering::Relaxed);
            let gate = self.world.lock().gate();
            let _ = gate.await;
            let entry = self.entries.lock().get(asked.key).cloned();
            let gate = self.world.lock().gate();
            let _ = gate.await;
            Found { answer: entry.map(|entry| (entry, carried_out)), ticket: None }
        })
    }

    fn put(&self, entry: Arc<Entry>, _: Duration, _: u64, _: Duration, _: Ticket) {
        self.changes.lock().push_back(Change::Put(entry));
    }

    fn remove(&self, invalidation: Invalidation, number: u64) {
        self.changes.lock().push_back(Change::Remove(invalidation, number));
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.carry_out(usize::MAX);
        Box::pin(std::future::ready(()))
    }

    fn stats(&self) -> LevelStats {
        LevelStats::default()
    }
}
