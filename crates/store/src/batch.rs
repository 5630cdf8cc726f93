//! Reads of single keys, turned into one read for all that come within a tick.

use std::{collections::HashMap, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::StoreError;

/// How long the first reader waits for others.
const TICK: Duration = Duration::from_millis(1);

type Loading<K, V> = Pin<Box<dyn Future<Output = Result<HashMap<K, V>, StoreError>> + Send>>;
type Load<K, V> = dyn Fn(Vec<K>) -> Loading<K, V> + Send + Sync;
type Answer<V> = Result<Option<V>, Arc<StoreError>>;

/// A batching reader. Clones share it.
pub struct Batch<K, V> {
    inner: Arc<Inner<K, V>>,
}

impl<K, V> Clone for Batch<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K, V> {
    load: Box<Load<K, V>>,
    max_keys: usize,
    waiting: Mutex<HashMap<K, Vec<oneshot::Sender<Answer<V>>>>>,
}

impl<K, V> Batch<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Reads with `load`, at most `max_keys` different keys at a time. A key that `load` leaves
    /// out does not exist.
    pub fn new<F, Fut>(max_keys: usize, load: F) -> Self
    where
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, V>, StoreError>> + Send + 'static,
    {
        let load: Box<Load<K, V>> = Box::new(move |keys| Box::pin(load(keys)));
        Self { inner: Arc::new(Inner { load, max_keys: max_keys.max(1), waiting: Mutex::default() }) }
    }

    /// The value of a key; none if there is none.
    ///
    /// # Errors
    ///
    /// The read failed. When a read for several keys fails, each is tried alone, so that one
    /// does not take the others along; not so when the database is unavailable, which each would
    /// only find out for itself, one after the other.
    pub async fn get(&self, key: K) -> Result<Option<V>, StoreError> {
        let (tell, told) = oneshot::channel();
        let (first, full) = {
            let mut waiting = self.inner.waiting.lock();
            let first = waiting.is_empty();
            waiting.entry(key).or_default().push(tell);
            (first, waiting.len() >= self.inner.max_keys)
        };
        if full {
            self.clone().flush();
        } else if first {
            let batch = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(TICK).await;
                batch.flush();
            });
        }
        match told.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreError::Batch(error)),
            Err(_) => Err(StoreError::Unavailable { what: "reader stopped", source: None }),
        }
    }

    fn flush(self) {
        let waiting = std::mem::take(&mut *self.inner.waiting.lock());
        if waiting.is_empty() {
            return;
        }
        tokio::spawn(async move {
            let keys: Vec<K> = waiting.keys().cloned().collect();
            let alone = keys.len() == 1;
            // The error of everybody who still waits.
            let mut failed = match (self.inner.load)(keys).await {
                Ok(found) => {
                    for (key, readers) in waiting {
                        tell(readers, &Ok(found.get(&key).cloned()));
                    }
                    return;
                }
                Err(error) => Some(Arc::new(error)).filter(|error| alone || error.is_unavailable()),
            };
            for (key, readers) in waiting {
                let answer = match &failed {
                    Some(error) => Err(Arc::clone(error)),
                    None => (self.inner.load)(vec![key.clone()]).await.map_err(Arc::new),
                };
                failed = failed.or_else(|| answer.as_ref().err().filter(|e| e.is_unavailable()).cloned());
                tell(readers, &answer.map(|found| found.get(&key).cloned()));
            }
        });
    }
}

fn tell<V: Clone>(readers: Vec<oneshot::Sender<Answer<V>>>, answer: &Answer<V>) {
    for reader in readers {
        // A reader that went away needs no answer.
        let _ = reader.send(answer.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn doubling(calls: &Arc<AtomicUsize>) -> Batch<u32, u32> {
        let calls = Arc::clone(calls);
        Batch::new(10, move |keys: Vec<u32>| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move {
                if keys.contains(&13) {
                    return Err(StoreError::Failed(sqlx::Error::RowNotFound));
                }
                if keys.iter().any(|key| (50..60).contains(key)) {
                    return Err(StoreError::timed_out());
                }
                Ok(keys.into_iter().filter(|key| *key < 100).map(|key| (key, key * 2)).collect())
            }
        })
    }

    async fn all(batch: &Batch<u32, u32>, keys: &[u32]) -> Vec<Option<Option<u32>>> {
        let reads: Vec<_> = keys
            .iter()
            .map(|key| {
                let (batch, key) = (batch.clone(), *key);
                tokio::spawn(async move { batch.get(key).await.ok() })
            })
            .collect();
        let mut out = Vec::new();
        for read in reads {
            out.push(read.await.unwrap());
        }
        out
    }

    #[tokio::test]
    async fn reads_within_a_tick_become_one() {
        let calls = Arc::default();
        let batch = doubling(&calls);
        assert_eq!(
            all(&batch, &[1, 2, 3, 2]).await,
            [Some(Some(2)), Some(Some(4)), Some(Some(6)), Some(Some(4))]
        );
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_full_batch_does_not_wait() {
        let calls = Arc::default();
        let batch = doubling(&calls);
        all(&batch, &(20..45).collect::<Vec<_>>()).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    /// Each of ten keys waited for a connection of its own, one after the other.
    #[tokio::test]
    async fn an_outage_is_met_once_and_told_to_all() {
        let calls = Arc::default();
        let batch = doubling(&calls);
        assert_eq!(all(&batch, &[1, 2, 50, 51]).await, [None; 4]);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        all(&batch, &[13, 50, 51, 52, 53]).await;
        let tried = calls.load(Ordering::SeqCst) - 1;
        assert!(tried <= 3, "all, perhaps 13 alone, the first that meets the outage: {tried}");
    }

    /// A bug was answered with 503 and never seen.
    #[tokio::test]
    async fn an_error_keeps_its_kind() {
        let batch = doubling(&Arc::default());
        assert!(batch.get(50).await.unwrap_err().is_unavailable());
        let bug = batch.get(13).await.unwrap_err();
        assert!(!bug.is_unavailable());
        let cause = std::error::Error::source(&bug).unwrap();
        assert!(cause.to_string().contains("statement failed"), "{cause}");
    }

    /// In the original one failing batch rejected all its members, and falsy results became null.
    #[tokio::test]
    async fn one_failing_key_fails_alone_and_zero_is_a_value() {
        let batch = doubling(&Arc::default());
        assert_eq!(all(&batch, &[0, 13, 5, 200]).await, [Some(Some(0)), None, Some(Some(10)), Some(None)]);
    }
}
