//! Hears what other replicas forget: waits at the end of the log.

use std::{
    sync::{Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use phase6_redis::{BLOCK_LIMIT, RedisError, cmd};

use super::{
    LOG_LIFE, Shared,
    history::{History, Place},
    stored::{Logged, Said, logged},
};
use crate::Invalidation;

/// Entries of the log in one answer.
const PAGE: usize = 1_000;
/// Between attempts.
const AGAIN: Duration = Duration::from_millis(100);
/// How often the log's life is prolonged.
const PROLONGED: Duration = Duration::from_mins(10);

pub(super) async fn run(shared: Weak<Shared>) {
    let mut connected = false;
    let mut told = None;
    let mut prolonged: Option<Instant> = None;
    loop {
        let pause = {
            let Some(shared) = shared.upgrade() else { return };
            let result = if connected { shared.listen().await } else { shared.catch_up().await };
            if connected && prolonged.is_none_or(|at| at.elapsed() >= PROLONGED) {
                shared.prolong().await;
                prolonged = Some(Instant::now());
            }
            match result {
                Ok(()) => {
                    if told != Some(true) {
                        tracing::info!(prefix = shared.redis.prefix(), "the cache is shared");
                    }
                    (connected, told) = (true, Some(true));
                    Duration::ZERO
                }
                Err(error) => {
                    shared.failed();
                    shared.waiting.give_up();
                    if told != Some(false) {
                        tracing::warn!(
                            prefix = shared.redis.prefix(),
                            %error,
                            "the cache is not shared; answers are kept for a second"
                        );
                    }
                    (connected, told) = (false, Some(false));
                    AGAIN
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

impl Shared {
    /// Goes on where this replica was in the log; if that place is not there any more, forgets all.
    async fn catch_up(&self) -> Result<(), RedisError> {
        let known = self.history.lock().as_ref().map(History::at);
        if let Some(at) = known {
            let mut same = cmd("XRANGE");
            same.arg(self.log_key()).arg(at.to_string()).arg(at.to_string());
            if !self.redis.blocking_command::<Vec<Logged>>(&same).await?.is_empty() {
                return self.listen().await;
            }
        }
        let asked = self.now_ms();
        let mut log = self.page(None).await?;
        if log.is_empty() {
            // An answer that is made now is newer than whatever is forgotten from now on.
            self.append([Said::Begins]).await;
            log = self.page(None).await?;
        }
        let Some((first, ..)) = log.first().and_then(logged) else {
            return Err(RedisError::Rejected("the log of the shared cache is not readable".to_owned()));
        };
        // Also at the start: what was stored before the log was read is not known to be good.
        self.hear(Invalidation::All);
        if let Some(at) = known {
            tracing::warn!(
                prefix = self.redis.prefix(),
                "what other replicas forgot meanwhile is not known; the cache was emptied"
            );
            if first <= at {
                // The log lost its end, and with it what was forgotten then: old answers may still be there.
                self.append([Said::Forgotten(Invalidation::All)]).await;
            }
        }
        self.history.lock().get_or_insert_default().begin(first);
        while let Some((last, _)) = log.last() {
            let last = last.clone();
            self.take(&log);
            log = self.page(Some(&last)).await?;
        }
        self.heard(asked);
        Ok(())
    }

    /// Waits for what comes next.
    async fn listen(&self) -> Result<(), RedisError> {
        let at = self.history.lock().as_ref().map_or(Place::default(), History::at);
        let asked = self.now_ms();
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(BLOCK_LIMIT.as_millis() as u64);
        read.arg("STREAMS").arg(self.log_key()).arg(at.to_string());
        let news = self.redis.blocking_command::<Option<Vec<(String, Vec<Logged>)>>>(&read).await?;
        let news: Vec<Logged> = news.into_iter().flatten().flat_map(|(_, news)| news).collect();
        self.take(&news);
        if news.len() < PAGE {
            self.heard(asked);
        }
        Ok(())
    }

    async fn page(&self, after: Option<&str>) -> Result<Vec<Logged>, RedisError> {
        let from = after.map_or_else(|| "-".to_owned(), |last| format!("({last}"));
        let mut range = cmd("XRANGE");
        range.arg(self.log_key()).arg(from).arg("+").arg("COUNT").arg(PAGE);
        self.redis.blocking_command(&range).await
    }

    /// Takes news in their order; memory hears of them first.
    fn take(&self, log: &[Logged]) {
        for entry in log {
            // What cannot be read may mean anything.
            let (place, origin, said) =
                logged(entry).unwrap_or((Place::default(), "", Said::Forgotten(Invalidation::All)));
            if let Some(forgotten) = said.forgotten()
                && origin != self.origin
            {
                self.hear(forgotten.clone());
            }
            if let Some(history) = self.history.lock().as_mut() {
                history.push(place.max(history.at()), said.forgotten().cloned());
            }
            if let Said::Over(name, word) = &said {
                self.waiting.tell(name, *word);
            }
        }
    }

    fn hear(&self, invalidation: Invalidation) {
        if let Some(hear) = self.hear.get() {
            hear(invalidation);
        }
    }

    /// All that was forgotten until `asked` is known.
    fn heard(&self, asked: u64) {
        self.heard_at_ms.store(asked.max(1), Ordering::Relaxed);
    }

    async fn prolong(&self) {
        let mut expire = cmd("PEXPIRE");
        expire.arg(self.log_key()).arg(LOG_LIFE.as_millis() as u64);
        if self.redis.command::<i64>(&expire).await.is_err() {
            self.failed();
        }
    }
}
