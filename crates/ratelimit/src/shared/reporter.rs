//! The background tasks that report leases to Redis and apply the grants.
//!
//! One task sends the reports of many keys in one call, one call at a time. The other one maintains keys that
//! have no requests and detects the end of an outage.

use std::{
    sync::{LazyLock, Weak, atomic::Ordering},
    time::Duration,
};

use phase6_redis::Script;
use tokio::sync::mpsc;

use super::Inner;
use crate::{
    escrow::{GrantReply, LEASE_DURATION_US, Report},
    gcra::Limit,
};

/// Maximum number of keys per call. The cost per key is lowest at about this number.
const MAX_KEYS_PER_CALL: usize = 16;
/// Time between two rounds of maintenance.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two rounds of maintenance while the local fallback decides. Shorter, so that spent tokens are
/// reported soon after the outage.
const FALLBACK_MAINTENANCE_INTERVAL: Duration = Duration::from_millis(50);

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../escrow.lua")));

/// A report and the key that it belongs to.
struct KeyReport {
    hash: u64,
    name: Box<str>,
    limit: Limit,
    report: Report,
}

/// Reports the keys in the queue until the last sender is dropped. While a call is in flight, the keys for
/// the next one gather in the queue.
pub(super) async fn run(inner: Weak<Inner>, mut queued: mpsc::Receiver<u64>) {
    let mut hashes = Vec::with_capacity(MAX_KEYS_PER_CALL);
    while queued.recv_many(&mut hashes, MAX_KEYS_PER_CALL).await > 0 {
        let Some(inner) = inner.upgrade() else { return };
        let reports: Vec<KeyReport> = hashes.drain(..).filter_map(|hash| inner.report(hash)).collect();
        if !reports.is_empty() {
            inner.call(reports).await;
        }
    }
}

/// Maintains keys without requests: returns idle tokens, reports tokens spent by the local fallback, and
/// drops obsolete leases. During an outage, checks when the shared state is available again.
pub(super) async fn maintain(inner: Weak<Inner>) {
    loop {
        let interval = {
            let Some(inner) = inner.upgrade() else { return };
            let now = inner.now_ns();
            if inner.backend.may_retry(now) {
                // A call without keys only shows if the shared state is available.
                inner.call(Vec::new()).await;
            }
            inner.maintain();
            if inner.backend.uses_local_fallback(now) {
                FALLBACK_MAINTENANCE_INTERVAL
            } else {
                MAINTENANCE_INTERVAL
            }
        };
        tokio::time::sleep(interval).await;
    }
}

impl Inner {
    fn maintain(&self) {
        let now = self.now_ns();
        let is_unavailable = self.backend.is_unavailable();
        let uses_local_fallback = self.backend.uses_local_fallback(now);
        self.table.retain(|hash, entry| {
            let should_report = if uses_local_fallback {
                entry.lease.should_report_spent()
            } else {
                entry.lease.should_report(now)
            };
            if should_report && !is_unavailable {
                self.enqueue(hash, entry);
            }
            entry.queued || !entry.lease.is_obsolete(now)
        });
    }

    /// Takes a key off the queue and returns its report.
    fn report(&self, hash: u64) -> Option<KeyReport> {
        let now = self.now_ns();
        let report = self.table.with_existing(hash, now, |entry| {
            entry.queued = false;
            entry.waiters.retain(|waiter| !waiter.is_closed());
            let report = if self.backend.uses_local_fallback(now) {
                entry.lease.report_spent(now)?
            } else {
                let replicas = entry.config.sharing.map_or(1, |sharing| sharing.replicas);
                entry.lease.report(entry.waiters.len() as u32, replicas, now)?
            };
            Some(KeyReport { hash, name: entry.name.clone(), limit: entry.config.limit, report })
        });
        report.flatten()
    }

    /// Sends reports in one call, applies the grants, and notifies the waiting requests.
    async fn call(&self, reports: Vec<KeyReport>) {
        let mut call = SCRIPT.prepare_invoke();
        call.arg(LEASE_DURATION_US);
        for KeyReport { name, limit, report, .. } in &reports {
            call.key(self.redis.key(name))
                .arg(limit.capacity())
                .arg(limit.refill_per_second())
                .arg(report.holder)
                .arg(report.sequence)
                .arg(report.spent)
                .arg(report.acknowledged)
                .arg(report.leased)
                .arg(report.needed)
                .arg(report.wanted)
                .arg(report.reserve)
                .arg(report.reserve_within_us);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let result = self.redis.script::<Vec<GrantReply>>(&call).await;
        let now = self.now_ns();
        let grants = match result {
            Ok(grants) if grants.len() == reports.len() => {
                if self.backend.call_succeeded(now) {
                    tracing::info!(
                        prefix = self.redis.prefix(),
                        "rate limits will be shared again once all replicas have reported their spent tokens"
                    );
                }
                Some(grants)
            }
            other => {
                self.failed_calls.fetch_add(1, Ordering::Relaxed);
                if self.backend.call_failed(now) {
                    let error = match other {
                        Ok(grants) => format!("expected {} grants, received {}", reports.len(), grants.len()),
                        Err(error) => error.to_string(),
                    };
                    tracing::warn!(
                        prefix = self.redis.prefix(),
                        error,
                        "failed to share rate limits; each replica applies `onBackendFailure`"
                    );
                }
                None
            }
        };
        for (i, key) in reports.iter().enumerate() {
            self.table.with_existing(key.hash, now, |entry| {
                let served = match &grants {
                    Some(grants) => Some(entry.lease.apply_grant(&grants[i].into(), now)),
                    None => {
                        entry.lease.report_failed();
                        None
                    }
                };
                let served_requests = served.map_or(0, |served| served.requests as usize);
                for (position, waiter) in entry.waiters.drain(..).enumerate() {
                    let decision = served.filter(|_| position < served_requests);
                    // The token of a request that was cancelled meanwhile is lost.
                    let _ = waiter.send(decision.map(|served| served.decision));
                }
            });
        }
    }
}
