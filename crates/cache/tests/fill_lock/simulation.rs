//! Simulation of replicas that need one response, in steps of one millisecond. The same seed gives the same
//! run.
//!
//! In each replica one caller searches for the response and the others wait for it, as in a cache. The
//! version of the response increases with every invalidation.

use std::time::Duration;

use phase6_cache::fill_lock::{
    FillLock, FillOutcome, Holder, LOCK_TTL, LockRequest, LookupResult, NextStep, RENEW_INTERVAL, Search,
    StoredState,
};

use crate::{
    parts::{Activity, HeldLock, Message, PendingRelease, Replica},
    scenario::{Scenario, Summary},
    seeded_rng::SeededRng,
};

const LOCK_TTL_MS: u64 = LOCK_TTL.as_millis() as u64;
const RENEW_INTERVAL_MS: u64 = RENEW_INTERVAL.as_millis() as u64;
/// Longest wait for a reply, in milliseconds.
const REPLY_TIMEOUT_MS: u64 = 25;
/// Time between two attempts to release a lock, in milliseconds.
const RELEASE_PAUSE_MS: u64 = 100;
const RELEASE_ATTEMPTS: u64 = LOCK_TTL_MS / RELEASE_PAUSE_MS;

struct Simulation<'a> {
    scenario: &'a Scenario,
    rng: SeededRng,
    now: u64,
    last_id: u64,
    /// Version that a fetch starting now brings.
    current_version: u64,
    /// Version in the shared store; 0 for none.
    stored_version: u64,
    stored_at: u64,
    lock: FillLock,
    replicas: Vec<Replica>,
    held_locks: Vec<HeldLock>,
    /// Messages on their way, with the time of their arrival.
    network: Vec<(u64, Message)>,
    /// Fetches since the last invalidation.
    fetches: u64,
    /// Fetches allowed since the last invalidation: one, and one more for each fault.
    allowed_fetches: u64,
    /// Time at which a replica was last seen fetching or storing.
    last_busy_at: u64,
    summary: Summary,
}

/// Runs a scenario to its end. Panics if a rule is broken.
pub fn simulate(scenario: &Scenario) -> Summary {
    let mut simulation = Simulation {
        scenario,
        rng: SeededRng(scenario.seed),
        now: 0,
        last_id: scenario.replicas,
        current_version: 1,
        stored_version: 0,
        stored_at: 0,
        lock: FillLock::default(),
        replicas: (0..scenario.replicas).map(Replica::new).collect(),
        held_locks: Vec::new(),
        network: Vec::new(),
        fetches: 0,
        allowed_fetches: 1,
        last_busy_at: 0,
        summary: Summary::default(),
    };
    for now in 1..=scenario.seconds * 1_000 {
        simulation.now = now;
        simulation.inject_faults();
        simulation.deliver_messages();
        simulation.advance_replicas();
        simulation.send_requests();
        simulation.check_invariants();
    }
    simulation.summary
}

impl Simulation<'_> {
    fn inject_faults(&mut self) {
        let Self { scenario, rng, .. } = self;
        let [crashes, loses_log, is_invalidated] = [
            scenario.crashes_per_10_000_ms,
            scenario.log_losses_per_10_000_ms,
            scenario.invalidations_per_10_000_ms,
        ]
        .map(|rate| rng.below(10_000) < rate);
        let affected = rng.below(scenario.replicas) as usize;
        if crashes {
            let crashed = self.replicas[affected].id;
            self.last_id += 1;
            self.replicas[affected] = Replica::new(self.last_id);
            self.held_locks.retain(|held| held.replica != crashed);
            self.allow_fetches(1);
        }
        if loses_log {
            // A waiting search wakes and fetches the response itself.
            self.replicas[affected].outcome = Some(FillOutcome::Filled);
            self.allow_fetches(1);
        }
        if is_invalidated {
            self.current_version += 1;
            // A fault during the fetch of the old version may cost a fetch of the new one.
            let is_reliable = self.scenario.is_reliable();
            self.fetches = 0;
            self.allowed_fetches = if is_reliable { 1 } else { 1 + self.scenario.replicas };
            self.summary.faults += 1;
        }
    }

    /// Records a fault, which allows `more` fetches.
    fn allow_fetches(&mut self, more: u64) {
        self.allowed_fetches += more;
        self.summary.faults += 1;
    }

    fn send(&mut self, message: Message) {
        let arrival = self.now + 1 + self.rng.below(self.scenario.max_delay_ms);
        self.network.push((arrival, message));
    }

    fn is_lost(&mut self) -> bool {
        self.rng.below(1_000) < self.scenario.losses_per_1_000
    }

    /// Sends a message to the shared store. The message or only its reply may be lost.
    fn send_to_store(&mut self, message: Message) {
        if !self.is_lost() {
            return self.send(message);
        }
        // A lost store leaves every waiting replica without a response.
        let is_store = matches!(message, Message::Store { .. });
        self.allow_fetches(if is_store { self.scenario.replicas } else { 1 });
        let timeout_at = self.now + REPLY_TIMEOUT_MS;
        match message {
            Message::Lookup { replica, request } => {
                if self.rng.below(2) == 0 && request != LockRequest::Never {
                    self.lock.try_acquire(replica, LOCK_TTL, self.now);
                }
                self.network.push((timeout_at, Message::LookupFailed { replica, request }));
            }
            Message::Store { replica, .. } => {
                self.network.push((timeout_at, Message::StoreReply { replica }));
            }
            _ => {}
        }
    }

    fn replica(&mut self, id: u64) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.id == id)
    }

    fn deliver_messages(&mut self) {
        let now = self.now;
        let (arrived, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.network).into_iter().partition(|(arrival, _)| *arrival <= now);
        self.network = rest;
        for (_, message) in arrived {
            self.summary.steps += 1;
            match message {
                Message::Lookup { replica, request } => self.handle_lookup(replica, request),
                Message::LookupReply { replica, version, result } => {
                    self.handle_lookup_reply(replica, version, result);
                }
                Message::LookupFailed { replica, request } => self.handle_lookup_failure(replica, request),
                Message::Renew { replica } => {
                    self.lock.renew(replica, LOCK_TTL, now);
                }
                Message::Store { replica, version } => {
                    if self.scenario.is_shareable && version >= self.stored_version {
                        (self.stored_version, self.stored_at) = (version, now);
                    }
                    self.send(Message::StoreReply { replica });
                }
                Message::StoreReply { replica: id } => {
                    if let Some(replica) = self.replica(id) {
                        replica.activity = Activity::Idle;
                    }
                    self.begin_release(id, FillOutcome::Filled);
                }
                Message::Release { replica, outcome } => {
                    if self.lock.release(replica, now) {
                        self.send(Message::Outcome(outcome));
                    }
                    self.send(Message::ReleaseReply { replica });
                }
                Message::ReleaseReply { replica } => {
                    self.held_locks.retain(|held| held.replica != replica || held.release.is_none());
                }
                Message::Outcome(outcome) => {
                    self.replicas.iter_mut().for_each(|replica| replica.outcome = Some(outcome));
                }
            }
        }
    }

    /// Looks up the response in the shared store, as `lookup.lua` does.
    fn handle_lookup(&mut self, replica: u64, request: LockRequest) {
        let is_current = self.stored_version > 0 && self.stored_version == self.current_version;
        let asks_for_lock =
            request == LockRequest::Always || request == LockRequest::IfMissing && self.stored_version == 0;
        let acquired = asks_for_lock && self.lock.try_acquire(replica, LOCK_TTL, self.now);
        let stored = match self.stored_version {
            0 => StoredState::Unusable,
            _ if is_current => StoredState::Usable,
            _ => StoredState::Invalidated,
        };
        let holder = match (asks_for_lock, acquired) {
            (_, true) => Holder::ThisReplica,
            (true, false) => Holder::OtherReplica,
            (false, false) => Holder::Unknown,
        };
        let (version, result) = (self.stored_version, LookupResult { stored, holder });
        self.send(Message::LookupReply { replica, version, result });
    }

    fn handle_lookup_reply(&mut self, id: u64, version: u64, result: LookupResult) {
        let now = self.now;
        if self.replica(id).is_none() {
            return;
        }
        if result.holder == Holder::ThisReplica {
            self.held_locks.push(HeldLock::new(id, now));
        }
        let Some(replica) = self.replica(id) else { return };
        let Activity::LookingUp { mut search, started_at } = replica.activity else { return };
        match search.after_lookup(result, Duration::from_millis(now - started_at)) {
            NextStep::Lookup(request) => self.look_up(id, search, started_at, request),
            NextStep::Wait => {
                replica.activity = Activity::Waiting { search, started_at, until: now + LOCK_TTL_MS };
                self.summary.waits += 1;
            }
            NextStep::Finish if result.stored == StoredState::Usable => {
                (replica.version, replica.activity) = (version, Activity::Idle);
                if result.holder == Holder::ThisReplica {
                    // The response is there already, so the lock goes back at once.
                    let release = pending_release(FillOutcome::Filled, now);
                    self.held_locks
                        .iter_mut()
                        .filter(|held| held.replica == id)
                        .for_each(|held| held.release = Some(release));
                }
            }
            NextStep::Finish => self.fetch(id),
        }
    }

    fn handle_lookup_failure(&mut self, id: u64, request: LockRequest) {
        let now = self.now;
        let Some(replica) = self.replica(id) else { return };
        if matches!(replica.activity, Activity::LookingUp { .. }) {
            // The lookup may have acquired the lock, so the replica acts as its holder.
            if request != LockRequest::Never {
                self.held_locks.push(HeldLock::new(id, now));
            }
            self.fetch(id);
        }
    }

    fn look_up(&mut self, id: u64, search: Search, started_at: u64, request: LockRequest) {
        if let Some(replica) = self.replica(id) {
            replica.activity = Activity::LookingUp { search, started_at };
            // A lookup that asks for the lock registers as a new waiter.
            replica.outcome = replica.outcome.filter(|_| request == LockRequest::Never);
        }
        self.send_to_store(Message::Lookup { replica: id, request });
    }

    fn fetch(&mut self, id: u64) {
        let until = self.now + 1 + self.rng.below(self.scenario.max_fetch_ms);
        let version = self.current_version;
        if let Some(replica) = self.replica(id) {
            replica.activity = Activity::Fetching { version, until };
        }
        self.fetches += 1;
        self.summary.fetches += 1;
    }

    /// Begins to release the lock of a replica, if it holds one that it does not release yet.
    fn begin_release(&mut self, id: u64, outcome: FillOutcome) {
        let mut held_locks = self.held_locks.iter_mut();
        if let Some(held) = held_locks.find(|held| held.replica == id && held.release.is_none()) {
            held.release = Some(pending_release(outcome, self.now));
        }
    }

    /// Ends waits and fetches whose time has come, and renews and releases locks.
    fn advance_replicas(&mut self) {
        let now = self.now;
        for i in 0..self.replicas.len() {
            let Replica { id, activity, outcome, .. } = self.replicas[i];
            match activity {
                Activity::Waiting { search, started_at, until } if outcome.is_some() || until <= now => {
                    let request = search.after_wait(outcome);
                    self.look_up(id, search, started_at, request);
                }
                Activity::Fetching { version, until } if until <= now => {
                    self.replicas[i].version = version;
                    self.replicas[i].activity = Activity::Storing;
                    // A replica that has read the invalidation does not store the response.
                    if version != self.current_version && self.rng.below(2) == 0 {
                        self.replicas[i].activity = Activity::Idle;
                        self.begin_release(id, FillOutcome::Invalidated);
                    } else if self.scenario.is_shareable {
                        self.send_to_store(Message::Store { replica: id, version });
                    } else {
                        self.network.push((now, Message::StoreReply { replica: id }));
                    }
                }
                _ => {}
            }
        }
        let mut messages = Vec::new();
        for held in &mut self.held_locks {
            match &mut held.release {
                None if now - held.renewed_at >= RENEW_INTERVAL_MS => {
                    held.renewed_at = now;
                    messages.push(Message::Renew { replica: held.replica });
                }
                Some(release) if release.next_attempt_at <= now && release.attempts_left > 0 => {
                    release.attempts_left -= 1;
                    release.next_attempt_at = now + RELEASE_PAUSE_MS;
                    messages.push(Message::Release { replica: held.replica, outcome: release.outcome });
                }
                _ => {}
            }
        }
        self.held_locks.retain(|held| held.release.is_none_or(|release| release.attempts_left > 0));
        for message in messages {
            self.send_to_store(message);
        }
    }

    /// Sends client requests to the replicas.
    fn send_requests(&mut self) {
        for i in 0..self.replicas.len() {
            let has_request = self.rng.below(1_000) < self.scenario.requests_per_1_000_ms;
            let Replica { id, activity, version, .. } = self.replicas[i];
            if has_request && version != self.current_version && matches!(activity, Activity::Idle) {
                let (search, request) = Search::start(true);
                self.look_up(id, search, self.now, request);
            }
        }
    }

    /// Checks the rules that hold after every step.
    fn check_invariants(&mut self) {
        let Self { scenario, now, fetches, allowed_fetches, .. } = self;
        assert!(
            !scenario.is_shareable || fetches <= allowed_fetches,
            "{fetches} fetches, {allowed_fetches} allowed, after {now} ms: {scenario:?}"
        );
        let is_busy =
            |replica: &Replica| matches!(replica.activity, Activity::Fetching { .. } | Activity::Storing);
        if self.replicas.iter().any(is_busy) {
            self.last_busy_at = *now;
        }
        for replica in &self.replicas {
            if let Activity::LookingUp { started_at, .. } | Activity::Waiting { started_at, .. } =
                replica.activity
            {
                let waited_since = |event: u64| *now - started_at.max(event);
                let context = format!("{replica:?} after {now} ms: {scenario:?}");
                // Time for the outcome, a lookup and its reply; or, if one of them is lost, for a wait to
                // time out.
                let notice_ms = if scenario.is_calm() { 5 * scenario.max_delay_ms } else { 2 * LOCK_TTL_MS };
                assert!(
                    self.stored_version != self.current_version || waited_since(self.stored_at) <= notice_ms,
                    "the response is stored and the replica still waits: {context}"
                );
                // Replicas stop waiting as soon as it is known that the response cannot be shared.
                let first_fetch_ms = scenario.max_fetch_ms + 2 * notice_ms;
                assert!(
                    scenario.is_shareable || !scenario.is_calm() || waited_since(0) <= first_fetch_ms,
                    "waits for a response that cannot be shared: {context}"
                );
                // The lock of a dead replica expires.
                assert!(
                    waited_since(self.last_busy_at) <= 2 * LOCK_TTL_MS + notice_ms,
                    "waits while no replica fetches: {context}"
                );
            }
            let code = match replica.activity {
                Activity::Idle => 0,
                Activity::LookingUp { .. } => 1,
                Activity::Waiting { .. } => 2,
                Activity::Fetching { .. } => 3,
                Activity::Storing => 4,
            };
            self.summary.fingerprint = self.summary.fingerprint.rotate_left(3) ^ code ^ replica.version;
        }
    }
}

fn pending_release(outcome: FillOutcome, now: u64) -> PendingRelease {
    PendingRelease { outcome, attempts_left: RELEASE_ATTEMPTS, next_attempt_at: now }
}
