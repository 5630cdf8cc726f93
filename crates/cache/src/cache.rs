//! Entries, fetches on their way, and forgetting, in one handle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use coarsetime::Instant;
use http::{HeaderMap, Uri};
use parking_lot::Mutex;
use phase6_redis::WaitBudget;
use serde::Serialize;

use crate::{
    Entry, Invalidation, Key, Level, LevelStats, Terms, Ticket,
    entry::normalised,
    flight::{Boarding, Flights},
    invalidation::Log,
    judge::Verdict,
    level::{Asked, Now},
    memory::{Found, Memory},
    rfc9111::Wish,
};

/// For how long a key whose answers are not storable is passed through without waiting.
const PASS_FOR_MS: u64 = 10_000;
/// For how long answers are kept while it is not known what other replicas forget.
const OUT_OF_TOUCH: Duration = Duration::from_secs(1);

/// The cache of one service. Clones are handles to the same one.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    memory: Memory,
    behind: Option<Arc<dyn Level>>,
    flights: Arc<Flights<u64, Outcome>>,
    log: Mutex<Log>,
    clock: Clock,
    pub(crate) counts: Counts,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) stale_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) invalidated: AtomicU64,
    pub(crate) promoted: AtomicU64,
}

/// What a cache holds and did since the start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Requests answered with a fresh entry.
    pub hits: u64,
    /// Requests answered with a stale one.
    pub stale_hits: u64,
    /// Requests for which the handler was asked.
    pub misses: u64,
    /// Requests that waited for another one's fetch.
    pub joined: u64,
    /// Share of requests answered without asking the handler, from 0 to 1.
    pub hit_rate: f64,
    /// Answers stored.
    pub writes: u64,
    /// Answers forgotten on demand.
    pub invalidated: u64,
    /// Answers brought back from the second level.
    pub promoted: u64,
    /// Answers in memory.
    pub entries: usize,
    /// Fetches on their way.
    pub in_flight: usize,
    /// The level behind, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_level: Option<LevelStats>,
}

/// A moment, in invalidations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// The number that the next one here would have had.
    number: u64,
    /// Where the level behind was.
    place: u64,
}

/// What those who waited for a fetch are told.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// This answer is good for all whose key it is.
    Answer {
        /// What was fetched.
        entry: Arc<Entry>,
        /// When the fetch began, in invalidations.
        mark: Mark,
        /// When it came from the handler; none: it was there already.
        fetched_at_ms: Option<u64>,
    },
    /// The answer was for one only: each has to ask for itself.
    Alone,
}

/// Milliseconds, right to within a tick of the system (1 to 10 ms), that never step back while the
/// process runs and roughly follow the calendar from one process to the next, so that entries on disk
/// keep their age.
enum Clock {
    Real { start_ms: u64, started: Instant },
    Manual(Arc<AtomicU64>),
}

impl Inner {
    /// Forgets here, and tells the level behind, if it is to be told, in the order of the log.
    fn forget(&self, invalidation: Invalidation, tell: impl FnOnce(&Invalidation, u64)) -> usize {
        {
            let mut log = self.log.lock();
            tell(&invalidation, log.next());
            log.push(invalidation.clone());
        }
        let removed = self.memory.remove(&invalidation);
        self.counts.invalidated.fetch_add(removed as u64, Ordering::Relaxed);
        removed
    }
}

impl Cache {
    /// An empty cache, over a second level if there is one.
    pub fn new(behind: Option<Arc<dyn Level>>) -> Self {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = Clock::Real { start_ms: since_epoch.as_millis() as u64, started: Instant::now() };
        Self::with_clock(behind, clock, rand::random())
    }

    /// The same with a clock that somebody else moves, in milliseconds, and nothing left to chance: for tests
    /// and simulations.
    pub fn with_manual_clock(behind: Option<Arc<dyn Level>>, now_ms: Arc<AtomicU64>) -> Self {
        Self::with_clock(behind, Clock::Manual(now_ms), 0)
    }

    fn with_clock(behind: Option<Arc<dyn Level>>, clock: Clock, seed: u64) -> Self {
        let inner = Arc::new(Inner {
            memory: Memory::new(10_000, seed),
            behind,
            flights: Arc::default(),
            log: Mutex::default(),
            clock,
            counts: Counts::default(),
        });
        if let Some(level) = &inner.behind {
            let weak = Arc::downgrade(&inner);
            level.attach(Box::new(move |invalidation| {
                if let Some(inner) = weak.upgrade() {
                    inner.forget(invalidation, |_, _| {});
                }
            }));
        }
        Self { inner }
    }

    /// Forgets, everywhere. Gives the number of answers that were in memory; an answer that is
    /// being fetched at this moment will not be stored.
    pub fn invalidate(&self, invalidation: Invalidation) -> usize {
        self.inner.forget(invalidation, |invalidation, number| {
            if let Some(level) = &self.inner.behind {
                level.remove(invalidation.clone(), number);
            }
        })
    }

    /// The answer in memory that a plain `GET` by `tenant` would be served with, if it is fresh.
    pub fn fresh(&self, tenant: &str, uri: &Uri, headers: &HeaderMap, terms: &Terms) -> Option<Arc<Entry>> {
        let uri = normalised(uri);
        let now_ms = self.now_ms();
        match self.find(self.hash(tenant, &uri), tenant, &uri, headers, now_ms) {
            Found::Entry(entry) => match entry.judge(&self.keepable(terms), &Wish::default(), now_ms) {
                Verdict::Fresh { .. } => Some(entry),
                _ => None,
            },
            _ => None,
        }
    }

    /// Until the other replicas have been told of all that was forgotten before.
    pub async fn told(&self) {
        if let Some(level) = &self.inner.behind {
            level.told().await;
        }
    }

    /// Carries out what the level behind still has to do. Before a stop: what was not carried out would
    /// not be forgotten after a restart.
    pub async fn close(&self) {
        if let Some(level) = &self.inner.behind {
            level.close().await;
        }
    }

    /// What it holds and did.
    pub fn stats(&self) -> Stats {
        let Inner { counts, memory, flights, behind, .. } = &*self.inner;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, stale_hits, misses, joined) =
            (get(&counts.hits), get(&counts.stale_hits), get(&counts.misses), get(&counts.joined));
        let spared = hits + stale_hits + joined;
        Stats {
            hits,
            stale_hits,
            misses,
            joined,
            hit_rate: if spared + misses == 0 { 0.0 } else { spared as f64 / (spared + misses) as f64 },
            writes: get(&counts.writes),
            invalidated: get(&counts.invalidated),
            promoted: get(&counts.promoted),
            entries: memory.len(),
            in_flight: flights.len(),
            second_level: behind.as_ref().map(|level| level.stats()),
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.inner.counts
    }

    pub(crate) fn now_ms(&self) -> u64 {
        match &self.inner.clock {
            Clock::Real { start_ms, started } => start_ms + started.elapsed().as_millis(),
            Clock::Manual(now_ms) => now_ms.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn obey(&self, terms: &Terms) {
        self.inner.memory.set_max_entries(terms.max_entries);
    }

    pub(crate) fn hash(&self, tenant: &str, uri: &str) -> u64 {
        self.inner.memory.hash(tenant, uri)
    }

    pub(crate) fn jitter(&self, hash: u64, now_ms: u64) -> f64 {
        self.inner.memory.jitter(hash, now_ms)
    }

    pub(crate) fn find(&self, hash: u64, tenant: &str, uri: &str, headers: &HeaderMap, now_ms: u64) -> Found {
        self.inner.memory.find(hash, tenant, uri, headers, now_ms)
    }

    pub(crate) fn board(&self, hash: u64) -> Boarding<u64, Outcome> {
        self.inner.flights.board(hash)
    }

    /// Fetches on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.inner.flights.len()
    }

    /// To be taken before a fetch begins.
    pub(crate) fn mark(&self) -> Mark {
        let place = self.inner.behind.as_ref().map_or(0, |level| level.place());
        Mark { number: self.inner.log.lock().next(), place }
    }

    /// The terms that can be kept now. Who does not hear at once of what other replicas forget keeps
    /// answers only briefly.
    pub(crate) fn keepable(&self, terms: &Terms) -> Terms {
        if self.inner.behind.as_ref().is_none_or(|level| level.is_in_touch()) {
            return *terms;
        }
        Terms { ttl: terms.ttl.min(OUT_OF_TOUCH), stale_while_revalidate: Duration::ZERO, ..*terms }
    }

    /// Stores an answer whose fetch began at `mark`, unless it was invalidated since.
    pub(crate) fn store(
        &self,
        entry: &Arc<Entry>,
        request_headers: &HeaderMap,
        mark: Mark,
        terms: &Terms,
        ticket: Ticket,
    ) -> bool {
        // Under the log's lock: an invalidation comes before (and is seen here) or after (and
        // sees the entry).
        let log = self.inner.log.lock();
        if log.hit_since(mark.number, entry) {
            if let Some(making) = ticket {
                making.was_forgotten();
            }
            return false;
        }
        self.inner.memory.insert(Arc::clone(entry), request_headers);
        if let Some(level) = &self.inner.behind {
            let age = entry.age(self.now_ms());
            level.put(Arc::clone(entry), age, mark.place, terms.longest(entry.is_negative()), ticket);
        }
        drop(log);
        self.inner.counts.writes.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Whether something made at `mark` has been invalidated since.
    pub(crate) fn invalidated_since(&self, mark: Mark, entry: &Entry) -> bool {
        self.inner.log.lock().hit_since(mark.number, entry)
    }

    /// Does not make requests for a key wait for one another for a while, unless there is an answer.
    pub(crate) fn pass(&self, hash: u64) {
        self.inner.memory.pass(hash, self.now_ms() + PASS_FOR_MS);
    }

    /// Brings an answer back from the second level into memory, with the age it has, and says up to when it is
    /// known that nobody forgot it. If none will do, the ticket is to be kept while one is made.
    pub(crate) async fn promote(
        &self,
        key: &Key,
        headers: &HeaderMap,
        patience: WaitBudget,
        will_do: &(dyn Fn(&Entry) -> bool + Send + Sync),
    ) -> (Option<(Arc<Entry>, Mark)>, Ticket) {
        let Some(level) = &self.inner.behind else { return (None, None) };
        let now = || Now { ms: self.now_ms(), mark: self.inner.log.lock().next() };
        let asked = Asked { key, headers, now: &now, patience, will_do };
        let found = level.get(asked).await;
        let Key { tenant, uri } = key;
        let now_ms = self.now_ms();
        // An entry from the future was stored under another calendar.
        let usable = |entry: &Entry| entry.answers(tenant, uri, headers) && entry.made_at_ms <= now_ms;
        let Some((entry, carried_out)) = found.answer.filter(|(entry, _)| usable(entry)) else {
            return (None, found.ticket);
        };
        let entry = Arc::new(entry);
        let log = self.inner.log.lock();
        // The level may be behind: what it has not stored yet is here.
        let newest_ms = self.inner.memory.newest_ms(self.hash(tenant, uri));
        let is_old = newest_ms.is_some_and(|newest_ms| newest_ms >= entry.made_at_ms);
        if is_old || log.hit_since(carried_out, &entry) {
            return (None, found.ticket);
        }
        self.inner.memory.insert(Arc::clone(&entry), headers);
        let mark = Mark { number: log.next(), place: level.place() };
        drop(log);
        self.inner.counts.promoted.fetch_add(1, Ordering::Relaxed);
        (Some((entry, mark)), found.ticket)
    }

    /// Whether the level behind may hold a newer answer than the memory.
    pub(crate) fn is_shared(&self) -> bool {
        self.inner.behind.as_ref().is_some_and(|level| level.is_shared())
    }
}
