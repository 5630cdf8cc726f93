//! A second level in Redis, shared by all replicas of a service.
//!
//! ```text
//!   get    -> one script: the answer, its age, and what was forgotten since this replica heard last
//!   put    -> queue -> SET with an expiry
//!   remove -> pending -> appended to the log ---.
//!   others' removals  <--- follower: waits at the log
//! ```
//!
//! What replicas forget is one log, a Redis stream. An answer carries the place at which the log was when
//! its making began, and is good if nothing that came later means it. So forgetting any number of answers is
//! one command, a fill that races it loses, and no lost message can bring back what was forgotten.
//!
//! * An answer that is nowhere is made by one replica; the others wait for its word in the log, and never ask
//!   again meanwhile.
//! * Nothing waits for Redis longer than [`phase6_redis::CALL_LIMIT`]; an answer is never held up by a write.
//! * A replica that is not sure to hear at once of what others forget says so ([`Level::is_in_touch`]), and
//!   its memory keeps answers for a second only. When it hears again it catches up; if it cannot, because
//!   Redis lost its memory or too much happened, all is forgotten.
//! * What this replica forgets while Redis is gone is told when it is back.
//! * An answer's age is counted on Redis' clock.
//! * Keys of one service share a hash slot, tell nothing of tenants or paths, and all of them expire.

mod duty;
mod follower;
#[cfg(fuzzing)]
pub mod fuzzing;
mod history;
mod look;
mod stored;
mod writer;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use phase6_redis::Redis;
use tokio::sync::{Notify, mpsc};

use self::{
    duty::Waiting,
    history::{History, Place},
    writer::{Pending, Put},
};
use crate::{Asked, Entry, Found, Hear, Invalidation, Level, LevelStats, Ticket, level::LevelCounts};

/// Answers that wait to be stored.
const QUEUE: usize = 1024;
/// Kept at most this long, whatever a policy says.
const LONGEST_LIFE: Duration = Duration::from_hours(48);
/// The log outlives every answer.
const LOG_LIFE: Duration = Duration::from_hours(96);
/// The log's length, about.
const LOG_LENGTH: usize = 10_000;
/// Who has heard nothing for so long is out of touch.
const IN_TOUCH: Duration = Duration::from_secs(1);
/// A cache level in Redis.
pub struct Remote {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Put>,
}

struct Shared {
    redis: Redis,
    waiting: Waiting,
    /// Who this is, in the log.
    origin: String,
    hear: OnceLock<Hear>,
    /// None: the log was not read yet.
    history: Mutex<Option<History>>,
    pending: Mutex<Pending>,
    /// Something is pending.
    to_announce: Notify,
    /// What was pending has been told, or has to be told again.
    announced: Notify,
    /// Coarse: it is looked at for every request.
    started: coarsetime::Instant,
    /// When it was last known that nothing was missed, in milliseconds since the start; 0: never.
    heard_at_ms: AtomicU64,
    counts: LevelCounts,
}

impl Remote {
    /// A level under the keys of `redis`, which nobody else uses. Needs a tokio runtime; what it starts ends
    /// when the level is dropped.
    pub fn new(redis: Redis) -> Self {
        let (queue, puts) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            redis,
            waiting: Waiting::default(),
            origin: format!("{:016x}", rand::random::<u64>()),
            hear: OnceLock::new(),
            history: Mutex::default(),
            pending: Mutex::default(),
            to_announce: Notify::new(),
            announced: Notify::new(),
            started: coarsetime::Instant::now(),
            heard_at_ms: AtomicU64::new(0),
            counts: LevelCounts::default(),
        });
        tokio::spawn(writer::store(Arc::downgrade(&shared), puts));
        tokio::spawn(writer::announce(Arc::downgrade(&shared)));
        Self { shared, queue }
    }
}

impl Level for Remote {
    fn attach(&self, hear: Hear) {
        if self.shared.hear.set(hear).is_ok() {
            tokio::spawn(follower::run(Arc::downgrade(&self.shared)));
        }
    }

    fn is_in_touch(&self) -> bool {
        let heard_at = self.shared.heard_at_ms.load(Ordering::Relaxed);
        heard_at > 0 && self.shared.now_ms().saturating_sub(heard_at) < IN_TOUCH.as_millis() as u64
    }

    fn place(&self) -> u64 {
        self.shared.history.lock().as_ref().map_or(0, |history| history.at().0)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn get<'a>(&'a self, asked: Asked<'a>) -> BoxFuture<'a, Found> {
        Box::pin(async move {
            let found = self.shared.find(&asked, self.is_in_touch()).await;
            let is_hit = found.answer.as_ref().is_some_and(|(entry, _)| (asked.will_do)(entry));
            let counter = if is_hit { &self.shared.counts.hits } else { &self.shared.counts.misses };
            counter.fetch_add(1, Ordering::Relaxed);
            found
        })
    }

    fn put(&self, entry: Arc<Entry>, age: Duration, place: u64, useful_for: Duration, ticket: Ticket) {
        let useful_for = useful_for.min(LONGEST_LIFE);
        let put = Put { entry, place: Place(place), useful_for, age, at: Instant::now(), ticket };
        // A place that the log has not reached was in another one, which is lost.
        let is_known = self.shared.history.lock().as_ref().is_some_and(|history| put.place <= history.at());
        if !is_known || self.queue.try_send(put).is_err() {
            self.shared.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn remove(&self, invalidation: Invalidation, number: u64) {
        self.shared.pending.lock().add(invalidation, number);
        self.shared.to_announce.notify_one();
    }

    fn told(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.all_announced())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.told()
    }

    fn stats(&self) -> LevelStats {
        // How much there is only Redis knows.
        LevelStats { is_shared: true, in_touch: self.is_in_touch(), ..self.shared.counts.stats() }
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis()
    }

    fn answer_key(&self, name: &str) -> String {
        self.redis.key(format_args!("answer:{name}"))
    }

    fn duty_key(&self, name: &str) -> String {
        self.redis.key(format_args!("duty:{name}"))
    }

    fn waiting_key(&self, name: &str) -> String {
        self.redis.key(format_args!("waiting:{name}"))
    }

    fn log_key(&self) -> String {
        self.redis.key("log")
    }

    fn failed(&self) {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
    }
}
