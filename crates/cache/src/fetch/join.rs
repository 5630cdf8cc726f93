//! Waits for another request's fetch under the same key, and decides whether its response may be used.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use phase6_redis::WaitBudget;

use crate::{
    CachePolicy, Entry, Key,
    accessors::LayerState,
    cache::{FetchOutcome, Promotion},
    freshness::Freshness,
    memory::MemoryLookup,
    rfc9111::RequestDirectives,
    single_flight::{Leader, Role},
};

/// Longest wait for another request's fetch; longer than a handler and its body may take.
const FOLLOWER_TIMEOUT: Duration = Duration::from_secs(90);
/// Time after its arrival, in milliseconds, for which a response counts as fetched for every request that
/// waited.
const JUST_FETCHED_MS: u64 = 1_000;

/// Parts of a request that decide which stored response can serve it.
pub(super) struct FetchQuery<'a> {
    pub(super) key: &'a Key,
    pub(super) headers: &'a HeaderMap,
    pub(super) policy: &'a CachePolicy,
    pub(super) directives: &'a RequestDirectives,
}

impl FetchQuery<'_> {
    pub(super) fn freshness(&self, entry: &Entry, now_ms: u64) -> Freshness {
        entry.freshness(self.policy, self.directives, now_ms)
    }

    pub(super) fn is_fresh(&self, entry: &Entry, now_ms: u64) -> bool {
        matches!(self.freshness(entry, now_ms), Freshness::Fresh { .. })
    }
}

/// Result of joining the fetch for a key.
pub(super) enum JoinResult {
    /// The request leads the fetch.
    Leader(Leader<u64, FetchOutcome>),
    /// Another request's fetch brought a response that can be used.
    Response(Arc<Entry>),
    /// The request has to call the handler for itself.
    FetchAlone,
}

impl LayerState {
    /// Becomes the leader of the fetch for a key, or waits for the leader's response.
    pub(super) async fn join_fetch(&self, hash: u64, query: &FetchQuery<'_>) -> JoinResult {
        let cache = &self.cache;
        let mut has_waited = false;
        loop {
            let follower = match cache.join_fetch(hash) {
                Role::Leader(leader) => return JoinResult::Leader(leader),
                Role::Follower(follower) => follower,
            };
            let outcome = tokio::time::timeout(FOLLOWER_TIMEOUT, follower.wait()).await;
            let Ok(Some(FetchOutcome::Shareable { entry, epoch, fetched_at_ms })) = outcome else {
                return JoinResult::FetchAlone;
            };
            // A response that was invalidated during its fetch may predate a change made by this very client,
            // so the request joins again. The second fetch starts after this request arrived: its response is
            // as current as one of the request's own, even if it is invalidated too. One extra fetch
            // therefore serves all waiting requests.
            if !has_waited && cache.is_invalidated_since(epoch, &entry) {
                has_waited = true;
                let now_ms = cache.now_ms();
                let FetchQuery { key, headers, .. } = query;
                if let MemoryLookup::Entry(newer) = cache.lookup(hash, &key.tenant, &key.uri, headers, now_ms)
                    && query.is_fresh(&newer, now_ms)
                {
                    return JoinResult::Response(newer);
                }
                continue;
            }
            let is_usable = self.is_usable(&entry, fetched_at_ms, query);
            return if is_usable { JoinResult::Response(entry) } else { JoinResult::FetchAlone };
        }
    }

    /// Returns true if the response of another request's fetch can serve this request.
    fn is_usable(&self, entry: &Entry, fetched_at_ms: Option<u64>, query: &FetchQuery<'_>) -> bool {
        let now_ms = self.cache.now_ms();
        // A response that has just come from the handler serves every request that waited for it, failures
        // included. One from the second level has to meet the request's own directives.
        let just_fetched = fetched_at_ms.is_some_and(|at| now_ms.saturating_sub(at) < JUST_FETCHED_MS);
        let FetchQuery { key, headers, .. } = query;
        entry.matches_request(&key.tenant, &key.uri, headers)
            && (just_fetched && entry.serves_waiting_requests()
                || matches!(
                    query.freshness(entry, now_ms),
                    Freshness::Fresh { .. } | Freshness::StaleWhileRevalidate { .. }
                ))
    }

    /// Looks up a fresh response in the second level. May return a stale one.
    pub(super) async fn lookup_second_level(
        &self,
        query: &FetchQuery<'_>,
        wait_budget: WaitBudget,
    ) -> Promotion {
        let is_fresh = |entry: &Entry| query.is_fresh(entry, self.cache.now_ms());
        self.cache.promote(query.key, query.headers, wait_budget, &is_fresh).await
    }
}

impl Entry {
    /// Returns true if the response serves all requests that waited for its fetch: failures do, and so do
    /// responses that were not stale on arrival by their own directives.
    fn serves_waiting_requests(&self) -> bool {
        self.status.is_server_error()
            || self.directives.lifetime.is_none_or(|lifetime| lifetime > self.directives.received_age)
    }
}
