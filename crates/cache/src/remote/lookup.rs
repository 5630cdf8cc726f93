//! Looks up a response in Redis: finds it, acquires the lock to fetch it, or waits for the replica that
//! fetches it.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use phase6_redis::{RedisError, Script, WaitBudget};
use tokio::{sync::oneshot, time::Instant};

use super::{
    RemoteState,
    fill_lock::HeldLock,
    log_record::{ParsedRecord, RawRecord},
    stored_response::{self, StoredResponse},
};
use crate::{
    BoxFillGuard, FoundEntry, LevelLookup, LevelQuery,
    fill_lock::{FillOutcome, Holder, LOCK_TTL, LockRequest, LookupResult, NextStep, Search, StoredState},
};

/// Largest number of unread log records that one lookup evaluates; with more the response counts as
/// invalidated.
const MAX_UNREAD: usize = 100;

static LOOKUP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lookup.lua")));

/// Reply of `lookup.lua`.
pub(super) struct LookupReply {
    pub(super) response: Option<Vec<u8>>,
    /// Time to live of the response; `None` if it never expires.
    pub(super) ttl: Option<Duration>,
    /// Log records that this replica has not read yet.
    pub(super) unread: Vec<RawRecord>,
    /// True if this replica has acquired the lock.
    pub(super) acquired: bool,
}

/// Reply of `lookup.lua` as Redis returns it.
pub(super) type RawLookupReply = (Option<Vec<u8>>, i64, Vec<RawRecord>, u8);

impl From<RawLookupReply> for LookupReply {
    fn from((response, ttl_ms, unread, acquired): RawLookupReply) -> Self {
        let ttl = u64::try_from(ttl_ms).ok().map(Duration::from_millis);
        Self { response, ttl, unread, acquired: acquired == 1 }
    }
}

/// Result of one lookup in Redis.
#[derive(Default)]
struct Lookup {
    found: Option<FoundEntry>,
    was_invalidated: bool,
    guard: Option<BoxFillGuard>,
    /// Outcome of the fetch by the replica that holds the lock.
    outcome: Option<oneshot::Receiver<FillOutcome>>,
}

impl Lookup {
    fn result(&self, query: &LevelQuery<'_>) -> LookupResult {
        let stored = match &self.found {
            Some(found) if (query.is_usable)(&found.entry) => StoredState::Usable,
            None if self.was_invalidated => StoredState::Invalidated,
            _ => StoredState::Unusable,
        };
        let holder = match (&self.guard, &self.outcome) {
            (Some(_), _) => Holder::ThisReplica,
            (None, Some(_)) => Holder::OtherReplica,
            (None, None) => Holder::Unknown,
        };
        LookupResult { stored, holder }
    }
}

impl RemoteState {
    /// Searches for a usable response. Ends with the response, with the lock to fetch one, or with neither.
    /// An unusable response is returned too: it may be served after an error.
    pub(super) async fn search(self: &Arc<Self>, query: &LevelQuery<'_>, may_wait: bool) -> LevelLookup {
        let (name, started) = (stored_response::name(query.key), Instant::now());
        let (mut search, mut request) = Search::start(may_wait);
        let mut result = LevelLookup::default();
        let mut wait_budget = query.wait_budget;
        loop {
            let lookup_started = Instant::now();
            let Some(lookup) = self.lookup(query, &name, request, wait_budget).await else { break };
            wait_budget = wait_budget.after(lookup_started.elapsed());
            let next = search.after_lookup(lookup.result(query), started.elapsed());
            result = LevelLookup { found: lookup.found.or(result.found), guard: lookup.guard };
            request = match (next, lookup.outcome) {
                (NextStep::Lookup(request), _) => request,
                (NextStep::Wait, Some(outcome)) => {
                    let outcome = tokio::time::timeout(LOCK_TTL, outcome).await.ok();
                    self.waiters.unregister(&name);
                    // The request waited for another replica, not for Redis.
                    wait_budget = WaitBudget::default();
                    // A waiter that was woken without an outcome has lost the log, and would not receive a
                    // later outcome either. It must not ask for the lock again.
                    search.after_wait(outcome.map(|outcome| outcome.unwrap_or(FillOutcome::Filled)))
                }
                (NextStep::Finish | NextStep::Wait, outcome) => {
                    if outcome.is_some() {
                        self.waiters.unregister(&name);
                    }
                    break;
                }
            };
        }
        result
    }

    /// Looks up a response once, and acquires the lock as `request` says. `None` if Redis did not answer.
    async fn lookup(
        self: &Arc<Self>,
        query: &LevelQuery<'_>,
        name: &str,
        request: LockRequest,
        wait_budget: WaitBudget,
    ) -> Option<Lookup> {
        if wait_budget.is_exhausted() {
            return None;
        }
        // Taken before the read: the caller checks the entry against every later invalidation. Invalidations
        // that are not published yet are not in the log and count as later ones.
        let next_sequence = (query.now)().next_sequence;
        let unpublished = self.unpublished.lock().oldest();
        let next_sequence = unpublished.map_or(next_sequence, |oldest| oldest.min(next_sequence));
        let offset = self.index.lock().as_ref()?.offset();
        let (may_lock, always_locks) = (request != LockRequest::Never, request == LockRequest::Always);
        let outcome = may_lock.then(|| self.waiters.register(name));
        let mut call = LOOKUP.prepare_invoke();
        call.key(self.response_key(name))
            .key(self.log_key())
            .key(self.lock_key(name))
            .key(self.waiting_key(name));
        call.arg(offset.to_string()).arg(MAX_UNREAD).arg(u8::from(always_locks));
        call.arg(if may_lock { &*self.replica_id } else { "" }).arg(LOCK_TTL.as_millis() as u64);
        let reply = self.redis.script_within::<RawLookupReply>(wait_budget, &call).await;
        let keep_lock = || Some(Box::new(HeldLock::keep(self, name.to_owned())) as BoxFillGuard);
        let reply = match reply {
            Ok(reply) => LookupReply::from(reply),
            Err(error) => {
                self.count_failure();
                self.waiters.unregister(name);
                // The script may have run and given the lock to this replica, so it acts as the holder: other
                // replicas may be waiting for its outcome.
                let may_have_run =
                    may_lock && !matches!(error, RedisError::Unavailable | RedisError::WrongServer(_));
                return may_have_run.then(|| Lookup { guard: keep_lock(), ..Lookup::default() });
            }
        };
        let is_stored = reply.response.is_some();
        let stored = match (reply.response, reply.ttl) {
            (Some(bytes), Some(ttl)) => {
                stored_response::decode(bytes, query.key, ttl, (query.now)().ms).await
            }
            _ => None,
        };
        let stored = stored
            .filter(|stored| stored.entry.matches_request(&query.key.tenant, &query.key.uri, query.headers));
        let was_invalidated =
            stored.as_ref().is_some_and(|stored| self.is_invalidated(stored, &reply.unread));
        let found = stored.filter(|_| !was_invalidated);
        let is_held_elsewhere = !reply.acquired && (always_locks || !is_stored);
        if !is_held_elsewhere {
            self.waiters.unregister(name);
        }
        Some(Lookup {
            found: found.map(|stored| FoundEntry { entry: stored.entry, next_sequence }),
            was_invalidated,
            guard: if reply.acquired { keep_lock() } else { None },
            outcome: outcome.filter(|_| is_held_elsewhere),
        })
    }

    /// Returns true if a stored response was invalidated by a record of the log, or may have been.
    fn is_invalidated(&self, stored: &StoredResponse, unread: &[RawRecord]) -> bool {
        unread.len() >= MAX_UNREAD
            || unread.iter().any(|raw| {
                ParsedRecord::parse(raw).is_none_or(|ParsedRecord { offset, record, .. }| {
                    offset > stored.log_offset
                        && record.invalidation().is_some_and(|it| it.matches(&stored.entry))
                })
            })
            || self
                .index
                .lock()
                .as_ref()
                .is_none_or(|index| index.is_invalidated_since(stored.log_offset, &stored.entry))
    }
}
