//! What a service shares with its replicas through Redis, or keeps on disk where there is none.

use std::sync::Arc;

use phase6_cache::{Disk, Level, Remote};
use phase6_redis::{Redis, RedisUrl};

use super::{Host, StartError};

/// Begins the keys of shared answers; the number is that of what is stored under them.
const CACHE_KEYS: &str = "phase6:1:cache";
/// Begins the keys of shared limits; likewise.
const LIMIT_KEYS: &str = "phase6:2:limit";
/// Bytes that a service's cache may take on disk.
const CACHE_ON_DISK: u64 = 256 * 1024 * 1024;

/// Where a service shares its limits.
pub(super) async fn limits(shared_as: &str, host: &Host) -> Result<Option<Redis>, StartError> {
    match &host.redis {
        Some(url) => connect(url, LIMIT_KEYS, shared_as).await.map(Some),
        None => Ok(None),
    }
}

/// A part of Redis with connections of its own: a large answer on its way must not hold up a limit.
async fn connect(url: &RedisUrl, keys: &str, shared_as: &str) -> Result<Redis, StartError> {
    let redis = Redis::new(url, &format!("{keys}:{shared_as}")).map_err(StartError::Redis)?;
    redis.warm_up().await;
    Ok(redis)
}

/// What stands behind the memory of a service's cache: Redis where replicas share one, else a file.
pub(super) async fn second_level(
    name: &'static str,
    shared_as: &str,
    host: &Host,
) -> Result<Option<Arc<dyn Level>>, StartError> {
    if let Some(url) = &host.redis {
        let answers = connect(url, CACHE_KEYS, shared_as).await?;
        return Ok(Some(Arc::new(Remote::new(answers))));
    }
    Ok(host.cache_folder.as_ref().map(|folder| {
        Arc::new(Disk::new(folder.join(format!("{name}.db")), CACHE_ON_DISK)) as Arc<dyn Level>
    }))
}
