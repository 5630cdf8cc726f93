//! Reports of many keys in one call, one call after another.

use std::{
    sync::{LazyLock, Weak, atomic::Ordering},
    time::Duration,
};

use phase6_redis::Script;
use tokio::sync::mpsc;

use super::Inner;
use crate::{
    escrow::{LEASE_US, Report, Told},
    gcra::Limit,
};

/// Keys in one call; about as many are cheapest for each.
const MOST: usize = 16;
/// How often keys are looked at that nobody asks for.
const TEND: Duration = Duration::from_millis(250);
/// The same while keys go by their share: the shared state is to hear of what they use soon.
const TEND_ALONE: Duration = Duration::from_millis(50);

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../escrow.lua")));

struct Asked {
    hash: u64,
    name: Box<str>,
    limit: Limit,
    report: Report,
}

/// Takes keys from the queue until nobody can put any in. The next call leaves when the last one has ended:
/// meanwhile keys gather.
pub(super) async fn run(inner: Weak<Inner>, mut queued: mpsc::Receiver<u64>) {
    let mut hashes = Vec::with_capacity(MOST);
    while queued.recv_many(&mut hashes, MOST).await > 0 {
        let Some(inner) = inner.upgrade() else { return };
        let asked: Vec<Asked> = hashes.drain(..).filter_map(|hash| inner.asks(hash)).collect();
        if !asked.is_empty() {
            inner.call(asked).await;
        }
    }
}

/// Looks after keys that nobody asks for: tokens are given back, what was used without the shared state is
/// told, and what is of no use any more is forgotten. Finds out when a shared state that was gone is back.
pub(super) async fn tend(inner: Weak<Inner>) {
    loop {
        let pause = {
            let Some(inner) = inner.upgrade() else { return };
            let now = inner.now_ns();
            if inner.contact.may_try(now) {
                // A call about no key, to see whether there is an answer.
                inner.call(Vec::new()).await;
            }
            inner.tend();
            if inner.contact.is_alone(now) { TEND_ALONE } else { TEND }
        };
        tokio::time::sleep(pause).await;
    }
}

impl Inner {
    fn tend(&self) {
        let now = self.now_ns();
        let (gone, alone) = (self.contact.is_gone(), self.contact.is_alone(now));
        self.table.retain(|hash, entry| {
            let reports = if alone { entry.lease.has_to_tell() } else { entry.lease.wants_to_report(now) };
            if reports && !gone {
                self.enqueue(hash, entry);
            }
            entry.queued || !entry.lease.is_over(now)
        });
    }

    fn asks(&self, hash: u64) -> Option<Asked> {
        let now = self.now_ns();
        let asked = self.table.with_known(hash, now, |entry| {
            entry.queued = false;
            entry.waiting.retain(|waiting| !waiting.is_closed());
            let report = if self.contact.is_alone(now) {
                entry.lease.tell(now)?
            } else {
                let replicas = entry.terms.sharing.map_or(1, |sharing| sharing.replicas);
                entry.lease.report(entry.waiting.len() as u32, replicas, now)?
            };
            Some(Asked { hash, name: entry.name.clone(), limit: entry.terms.limit, report })
        });
        asked.flatten()
    }

    async fn call(&self, asked: Vec<Asked>) {
        let mut call = SCRIPT.prepare_invoke();
        call.arg(LEASE_US);
        for Asked { name, limit, report, .. } in &asked {
            call.key(self.redis.key(name))
                .arg(limit.capacity())
                .arg(limit.refill_per_second())
                .arg(report.holder)
                .arg(report.number)
                .arg(report.used)
                .arg(report.heard)
                .arg(report.held)
                .arg(report.needed)
                .arg(report.wanted)
                .arg(report.ahead)
                .arg(report.ahead_us);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.redis.script::<Vec<Told>>(&call).await;
        let now = self.now_ns();
        let answers = match answer {
            Ok(answers) if answers.len() == asked.len() => {
                if self.contact.answered(now) {
                    tracing::info!(
                        prefix = self.redis.prefix(),
                        "limits are shared again as soon as all replicas have told what they used"
                    );
                }
                Some(answers)
            }
            other => {
                self.failed_calls.fetch_add(1, Ordering::Relaxed);
                if self.contact.failed(now) {
                    let error =
                        other.err().map_or_else(|| "another number of answers".to_owned(), |e| e.to_string());
                    tracing::warn!(
                        prefix = self.redis.prefix(),
                        error,
                        "limits cannot be shared; each replica goes on as its policy says"
                    );
                }
                None
            }
        };
        for (i, asked) in asked.iter().enumerate() {
            self.table.with_known(asked.hash, now, |entry| {
                let mut served = None;
                match answers.as_ref().map(|answers| answers[i]) {
                    Some(told) => served = Some(entry.lease.granted(&told.into(), now)),
                    None => entry.lease.failed(),
                }
                let (served, decision) =
                    served.map_or((0, None), |(count, told)| (count as usize, Some(told)));
                for (place, waiting) in entry.waiting.drain(..).enumerate() {
                    // The token of one who left meanwhile is lost.
                    let _ = waiting.send(decision.filter(|_| place < served));
                }
            });
        }
    }
}
