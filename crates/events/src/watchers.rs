//! Watchers by tenant: a bound for each tenant and for all, and one task for each tenant that is watched.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use phase6_identity::Name;
use tokio_util::sync::CancellationToken;

/// Maximum number of watchers of one topic on one replica.
const MAX_WATCHERS: usize = 10_000;
/// Maximum number of watchers of one tenant.
const MAX_WATCHERS_OF_TENANT: usize = 2_500;

/// Maximum number of tenants that are watched: each has a task.
const MAX_TENANTS: usize = 1_000;

/// Watchers of one topic. Clones share them.
#[derive(Clone, Default)]
pub struct Watchers {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    total: usize,
    tenants: HashMap<Name, WatchedTenant>,
}

struct WatchedTenant {
    watchers: usize,
    /// Ends the task that publishes for the tenant.
    stop: CancellationToken,
}

/// One watcher; leaves when dropped.
pub struct Watcher {
    tenant: Name,
    watchers: Watchers,
    is_first: bool,
}

/// Refusal of a watcher because too many are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyWatchers {
    /// Number of watchers that are connected.
    pub limit: usize,
}

impl Watchers {
    /// Admits a watcher. Returns the token of a task that is to publish for the tenant, if nobody watched it before:
    /// the departure of the last watcher cancels the token.
    ///
    /// # Errors
    ///
    /// Too many watchers are connected.
    pub fn admit(&self, tenant: &Name) -> Result<(Watcher, Option<CancellationToken>), TooManyWatchers> {
        let mut inner = self.inner.lock();
        let of_tenant = inner.tenants.get(tenant).map_or(0, |tenant| tenant.watchers);
        let others = if of_tenant == 0 { inner.tenants.len() } else { 0 };
        for (count, limit) in
            [(inner.total, MAX_WATCHERS), (of_tenant, MAX_WATCHERS_OF_TENANT), (others, MAX_TENANTS)]
        {
            if count >= limit {
                return Err(TooManyWatchers { limit });
            }
        }
        inner.total += 1;
        let new = || WatchedTenant { watchers: 0, stop: CancellationToken::new() };
        let watched = inner.tenants.entry(tenant.clone()).or_insert_with(new);
        watched.watchers += 1;
        let is_first = watched.watchers == 1;
        let started = is_first.then(|| watched.stop.clone());
        Ok((Watcher { tenant: tenant.clone(), watchers: self.clone(), is_first }, started))
    }
}

impl Watcher {
    /// True if nobody watched the tenant before, so that changes may not have been published.
    pub(crate) fn is_first(&self) -> bool {
        self.is_first
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut inner = self.watchers.inner.lock();
        inner.total -= 1;
        let Some(watched) = inner.tenants.get_mut(&self.tenant) else { return };
        watched.watchers -= 1;
        if watched.watchers == 0 {
            watched.stop.cancel();
            inner.tenants.remove(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(
        watchers: &Watchers,
        tenant: &str,
    ) -> Result<(Watcher, Option<CancellationToken>), TooManyWatchers> {
        watchers.admit(&tenant.parse().unwrap())
    }

    #[test]
    fn a_watcher_that_leaves_makes_room_for_another_one() {
        let all = Watchers::default();
        let mut admitted: Vec<_> =
            (0..MAX_WATCHERS_OF_TENANT).map(|_| admit(&all, "acme").unwrap()).collect();
        for _ in 0..2 {
            let limit = MAX_WATCHERS_OF_TENANT;
            assert_eq!(admit(&all, "acme").err(), Some(TooManyWatchers { limit }));
        }
        assert!(admit(&all, "other").is_ok(), "each tenant has a share");
        admitted.pop();
        assert!(admit(&all, "acme").is_ok());
    }

    #[test]
    fn the_number_of_watched_tenants_is_bounded() {
        let all = Watchers::default();
        let admitted: Vec<_> =
            (0..MAX_TENANTS).map(|number| admit(&all, &format!("tenant-{number}")).unwrap()).collect();
        assert_eq!(admit(&all, "other").err(), Some(TooManyWatchers { limit: MAX_TENANTS }));
        assert!(admit(&all, "tenant-1").is_ok());
        drop(admitted);
        assert!(admit(&all, "other").is_ok());
    }

    #[test]
    fn one_task_publishes_while_a_tenant_is_watched() {
        let all = Watchers::default();
        let (first, stop) = admit(&all, "acme").unwrap();
        let (second, none) = admit(&all, "acme").unwrap();
        let stop = stop.unwrap();
        assert!(none.is_none(), "the task is running");
        drop(first);
        assert!(!stop.is_cancelled());
        drop(second);
        assert!(stop.is_cancelled());
        assert!(admit(&all, "acme").unwrap().1.is_some(), "another task");
        assert_eq!(all.inner.lock().total, 0);
    }
}
