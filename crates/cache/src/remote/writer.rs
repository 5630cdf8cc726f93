//! What is written, off the path of requests: answers, and what was forgotten.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use phase6_redis::{Script, cmd};
use tokio::sync::mpsc;

use super::{
    LOG_LENGTH, LOG_LIFE, Shared,
    history::Place,
    stored::{self, Said},
};
use crate::{Entry, Invalidation, Ticket};

/// Answers stored at a time.
const AT_A_TIME: usize = 8;
/// More names than this that wait to be told are told as "all".
const MOST_PENDING: usize = 1024;
/// Between two announcements: a name that is forgotten over and over is told about so often.
const BETWEEN: Duration = Duration::from_millis(5);
/// Between attempts while Redis is gone.
const AGAIN: Duration = Duration::from_millis(100);
/// An answer with less time than this left is not stored.
const LEAST_LIFE: Duration = Duration::from_millis(100);

static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("forget.lua")));

/// An answer to be stored.
pub(super) struct Put {
    pub(super) entry: Arc<Entry>,
    pub(super) place: Place,
    pub(super) useful_for: Duration,
    /// How old it was at `at`.
    pub(super) age: Duration,
    pub(super) at: Instant,
    /// Kept until it is stored.
    pub(super) ticket: Ticket,
}

/// What this replica has forgotten and not told yet.
#[derive(Default)]
pub(super) struct Pending {
    names: HashSet<Invalidation>,
    /// The number of the oldest of them.
    oldest: Option<u64>,
    /// The same of those that are being told.
    telling: Option<u64>,
}

impl Pending {
    pub(super) fn add(&mut self, invalidation: Invalidation, number: u64) {
        if self.names.len() >= MOST_PENDING {
            self.names.clear();
            self.names.insert(Invalidation::All);
        } else {
            self.names.insert(invalidation);
        }
        self.oldest.get_or_insert(number);
    }

    /// The number of the oldest invalidation that others have not been told of.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.telling.or(self.oldest)
    }

    fn take(&mut self) -> Vec<Invalidation> {
        self.telling = self.oldest.take();
        self.names.drain().collect()
    }

    /// Those that were taken have been told, or have to be told again.
    fn told(&mut self, again: Option<Vec<Invalidation>>) {
        let number = self.telling.take();
        for invalidation in again.into_iter().flatten() {
            self.add(invalidation, 0);
            self.oldest = number;
        }
    }
}

pub(super) async fn store(shared: Weak<Shared>, mut puts: mpsc::Receiver<Put>) {
    let mut batch = Vec::with_capacity(AT_A_TIME);
    while puts.recv_many(&mut batch, AT_A_TIME).await > 0 {
        let Some(shared) = shared.upgrade() else { return };
        join_all(batch.drain(..).map(|put| shared.store(put))).await;
    }
}

pub(super) async fn announce(shared: Weak<Shared>) {
    loop {
        let pause = {
            let Some(shared) = shared.upgrade() else { return };
            match shared.announce().await {
                None => {
                    // A look now and then ends the task when the level is gone.
                    let _ = tokio::time::timeout(Duration::from_secs(1), shared.to_announce.notified()).await;
                    Duration::ZERO
                }
                Some(true) => BETWEEN,
                Some(false) => AGAIN,
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl Shared {
    async fn store(&self, put: Put) {
        let age = put.age + put.at.elapsed();
        let Some(left) = put.useful_for.checked_sub(age).filter(|left| *left >= LEAST_LIFE) else { return };
        let bytes = stored::write(&put.entry, put.place, put.useful_for).await;
        let mut set = cmd("SET");
        set.arg(self.answer_key(&stored::name(&put.entry.key)))
            .arg(bytes)
            .arg("PX")
            .arg(left.as_millis() as u64);
        match self.redis.command::<()>(&set).await {
            Ok(()) => {
                self.counts.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
                self.failed();
            }
        }
        drop(put.ticket);
    }

    /// Tells what is pending. None: there was nothing; false: it has to be told again.
    async fn announce(&self) -> Option<bool> {
        let names = self.pending.lock().take();
        if names.is_empty() {
            self.pending.lock().told(None);
            return None;
        }
        let told = self.append(names.iter().cloned().map(Said::Forgotten)).await;
        self.pending.lock().told((!told).then_some(names));
        self.announced.notify_waiters();
        Some(told)
    }

    /// Appends to the log.
    pub(super) async fn append(&self, what: impl IntoIterator<Item = Said>) -> bool {
        let mut call = FORGET.prepare_invoke();
        call.key(self.log_key()).arg(&self.origin).arg(LOG_LIFE.as_millis() as u64).arg(LOG_LENGTH);
        for what in what {
            call.arg(what.to_string());
        }
        let told = self.redis.script::<u64>(&call).await.is_ok();
        if !told {
            self.failed();
        }
        told
    }

    /// Until all that was forgotten before has been told.
    pub(super) async fn all_announced(&self) {
        loop {
            let announced = self.announced.notified();
            if self.pending.lock().oldest().is_none() {
                return;
            }
            announced.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_told_is_told_again_under_its_old_number() {
        let mut pending = Pending::default();
        pending.add(Invalidation::Tag("red".into()), 3);
        pending.add(Invalidation::Tag("red".into()), 4);
        let names = pending.take();
        assert_eq!((names.len(), pending.oldest()), (1, Some(3)));
        pending.add(Invalidation::All, 9);
        assert_eq!(pending.oldest(), Some(3));
        pending.told(Some(names));
        assert_eq!(pending.oldest(), Some(3));
        assert_eq!(pending.take().len(), 2);
        pending.told(None);
        assert_eq!(pending.oldest(), None);
    }

    #[test]
    fn too_many_names_are_all() {
        let mut pending = Pending::default();
        for i in 0..=MOST_PENDING as u64 {
            pending.add(Invalidation::Path(format!("/{i}")), i);
        }
        assert_eq!(pending.take(), [Invalidation::All]);
        assert_eq!(pending.oldest(), Some(0));
    }
}
