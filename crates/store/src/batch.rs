//! Combines concurrent reads of single keys into one read of many keys.
//!
//! The first read of a batch waits one millisecond for others. If the combined read fails, each key is read
//! alone, so a key that cannot be read does not fail the others.

use std::{collections::HashMap, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{StoreError, TransientCondition};

/// Time that the first read of a batch waits for others.
const BATCH_WINDOW: Duration = Duration::from_millis(1);

type LoadFuture<K, V> = Pin<Box<dyn Future<Output = Result<HashMap<K, V>, StoreError>> + Send>>;
type Load<K, V> = dyn Fn(Vec<K>) -> LoadFuture<K, V> + Send + Sync;
type Loaded<V> = Result<Option<V>, Arc<StoreError>>;

/// Loads values by key, in batches. Clones share the pending batch.
pub struct BatchLoader<K, V> {
    inner: Arc<Inner<K, V>>,
}

impl<K, V> Clone for BatchLoader<K, V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<K, V> {
    load: Box<Load<K, V>>,
    max_keys: usize,
    pending: Mutex<HashMap<K, Vec<oneshot::Sender<Loaded<V>>>>>,
}

impl<K, V> BatchLoader<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Creates a loader that calls `load` with at most `max_keys` distinct keys. Keys without a value are
    /// absent from the map that `load` returns.
    pub fn new<F, Fut>(max_keys: usize, load: F) -> Self
    where
        F: Fn(Vec<K>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<HashMap<K, V>, StoreError>> + Send + 'static,
    {
        let load: Box<Load<K, V>> = Box::new(move |keys| Box::pin(load(keys)));
        Self { inner: Arc::new(Inner { load, max_keys: max_keys.max(1), pending: Mutex::default() }) }
    }

    /// Returns the value of `key`, or `None` if it has none.
    ///
    /// # Errors
    ///
    /// The read failed. After a failed read of several keys each key is read alone. The exception is an
    /// unavailable database: then all pending reads fail at once instead of timing out one after the other.
    pub async fn get(&self, key: K) -> Result<Option<V>, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let (first, full) = {
            let mut pending = self.inner.pending.lock();
            let first = pending.is_empty();
            pending.entry(key).or_default().push(sender);
            (first, pending.len() >= self.inner.max_keys)
        };
        if full {
            self.clone().flush();
        } else if first {
            let loader = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(BATCH_WINDOW).await;
                loader.flush();
            });
        }
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreError::Batch(error)),
            Err(_) => {
                Err(StoreError::Unavailable { condition: TransientCondition::LoaderStopped, source: None })
            }
        }
    }

    fn flush(self) {
        let pending = std::mem::take(&mut *self.inner.pending.lock());
        if pending.is_empty() {
            return;
        }
        tokio::spawn(async move {
            let keys: Vec<K> = pending.keys().cloned().collect();
            let single = keys.len() == 1;
            // An error that fails all remaining reads, without another attempt.
            let mut failure = match (self.inner.load)(keys).await {
                Ok(values) => {
                    for (key, waiters) in pending {
                        send(waiters, &Ok(values.get(&key).cloned()));
                    }
                    return;
                }
                Err(error) => Some(Arc::new(error)).filter(|error| single || error.is_unavailable()),
            };
            for (key, waiters) in pending {
                let loaded = match &failure {
                    Some(error) => Err(Arc::clone(error)),
                    None => (self.inner.load)(vec![key.clone()]).await.map_err(Arc::new),
                };
                failure = failure.or_else(|| loaded.as_ref().err().filter(|e| e.is_unavailable()).cloned());
                send(waiters, &loaded.map(|values| values.get(&key).cloned()));
            }
        });
    }
}

fn send<V: Clone>(waiters: Vec<oneshot::Sender<Loaded<V>>>, loaded: &Loaded<V>) {
    for waiter in waiters {
        // A caller that was cancelled has dropped its receiver.
        let _ = waiter.send(loaded.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Loader of `key * 2`. Key 13 fails, keys 50 to 59 time out, keys from 100 on have no value.
    fn doubling(calls: &Arc<AtomicUsize>) -> BatchLoader<u32, u32> {
        let calls = Arc::clone(calls);
        BatchLoader::new(10, move |keys: Vec<u32>| {
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

    /// Reads all keys concurrently; `None` is an error, `Some(None)` a missing value.
    async fn get_all(loader: &BatchLoader<u32, u32>, keys: &[u32]) -> Vec<Option<Option<u32>>> {
        let reads: Vec<_> = keys
            .iter()
            .map(|key| {
                let (loader, key) = (loader.clone(), *key);
                tokio::spawn(async move { loader.get(key).await.ok() })
            })
            .collect();
        let mut out = Vec::new();
        for read in reads {
            out.push(read.await.unwrap());
        }
        out
    }

    #[tokio::test]
    async fn concurrent_reads_share_one_load() {
        let calls = Arc::default();
        let loader = doubling(&calls);
        assert_eq!(
            get_all(&loader, &[1, 2, 3, 2]).await,
            [Some(Some(2)), Some(Some(4)), Some(Some(6)), Some(Some(4))]
        );
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_full_batch_loads_at_once() {
        let calls = Arc::default();
        let loader = doubling(&calls);
        get_all(&loader, &(20..45).collect::<Vec<_>>()).await;
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    /// Regression: each of ten keys waited for its own connection timeout, one after the other.
    #[tokio::test]
    async fn an_unavailable_database_fails_all_pending_reads_at_once() {
        let calls = Arc::default();
        let loader = doubling(&calls);
        assert_eq!(get_all(&loader, &[1, 2, 50, 51]).await, [None; 4]);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        get_all(&loader, &[13, 50, 51, 52, 53]).await;
        let loads = calls.load(Ordering::SeqCst) - 1;
        assert!(loads <= 3, "the batch, possibly key 13 alone, the first key that times out: {loads}");
    }

    /// Regression: a programming error was reported as 503 and went unnoticed.
    #[tokio::test]
    async fn a_batched_error_keeps_its_kind() {
        let loader = doubling(&Arc::default());
        assert!(loader.get(50).await.unwrap_err().is_unavailable());
        let bug = loader.get(13).await.unwrap_err();
        assert!(!bug.is_unavailable());
        let cause = std::error::Error::source(&bug).unwrap();
        assert!(cause.to_string().contains("statement failed"), "{cause}");
    }

    /// In the original system, one failing batch failed all of its reads, and falsy results became null.
    #[tokio::test]
    async fn a_failing_key_fails_alone_and_zero_is_a_value() {
        let loader = doubling(&Arc::default());
        assert_eq!(
            get_all(&loader, &[0, 13, 5, 200]).await,
            [Some(Some(0)), None, Some(Some(10)), Some(None)]
        );
    }
}
