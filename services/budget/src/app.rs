//! Use cases of the service.
//!
//! ```text
//! api -> AppState::answer -> AnswerCache? -> in flight? -> ConcurrencyLimit -> candidates
//!                                                                                 |
//!                         breaker -> reserve -> call -> settle -> answer  <-------'
//! ```
//!
//! Each file extends [`AppState`] with the use cases of one subject. They take and return types of
//! the [`model`](crate::model), report failures as error enums, and know nothing of HTTP or JSON;
//! `api` translates both. SQL is left to [`store`](crate::store), and calls to
//! [`providers`](crate::providers).

mod answer;
mod call;
mod charge;
mod cohorts;
mod concurrency;
mod deduplicator;
mod failure;
mod hedging;
mod live;
mod policy;
mod providers;
mod spending;
mod stream;
mod summary;
pub(crate) mod tags;
mod workflows;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phase6_chassis::{
    Kit, StartError,
    cache::Invalidation,
    identity::Name,
    store::{Store, StoreError},
};

pub use self::{
    cohorts::{CohortOverview, CostCheck, Export},
    concurrency::{AcquireError, ConcurrencyLimit, Load, Permit},
    deduplicator::{Deduplication, Deduplicator},
    failure::AnswerError,
    live::TOPIC,
    policy::CurrentPolicy,
    providers::{NoUsableProvider, Recommendation},
    spending::LearningStats,
    stream::{StreamError, StreamEvent, StreamedAnswer},
    summary::Summary,
    workflows::{Ranking, RankingError, RecordWorkflowError, RecordedWorkflow},
};
use crate::{
    SERVICE,
    config::{CallLimits, Config},
    model::{Criticality, PriceList, ProviderPolicy},
    providers::{Client, Directory},
    store::{AnswerCache, CallHistory, CohortStore, Ledger, PolicyStore},
};

/// Dependencies of the use cases.
pub struct AppState {
    /// Chassis: response cache, clock, tasks, and the signal to stop.
    kit: Kit,
    store: Store,
    limits: CallLimits,
    prices: PriceList,
    directory: Directory,
    ledger: Ledger,
    history: CallHistory,
    answers: AnswerCache,
    cohorts: CohortStore,
    policy: CurrentPolicy,
    concurrency: ConcurrencyLimit,
    deduplicator: Deduplicator,
    changes: live::Changes,
}

impl AppState {
    /// Creates the use cases of a service that has a database.
    ///
    /// # Errors
    ///
    /// The database cannot be read, or no HTTP client can be created.
    pub async fn new(kit: Kit, config: Config) -> Result<Arc<Self>, StartError> {
        let store = kit.need_store()?;
        let client = Client::new(kit.clock.clone()).map_err(|error| StartError::Create {
            service: SERVICE.service.name,
            object: "an HTTP client",
            source: error.into(),
        })?;
        let initial =
            ProviderPolicy { max_concurrency: config.max_concurrency, criticality: Criticality::default() };
        let concurrency = ConcurrencyLimit::new(initial.max_concurrency as usize);
        let policy = CurrentPolicy::load(PolicyStore::new(store.clone()), concurrency.clone(), initial);
        let policy = policy.await.map_err(|source: StoreError| StartError::Store {
            service: SERVICE.service.name,
            database: "records".into(),
            source,
        })?;
        Ok(Arc::new(Self {
            directory: Directory::new(config.providers, client, &kit),
            limits: config.limits,
            prices: config.prices,
            ledger: Ledger::new(store.clone(), config.daily_limit),
            history: CallHistory::new(store.clone()),
            answers: AnswerCache::new(store.clone()),
            cohorts: CohortStore::new(store.clone(), kit.clock.clone()),
            store,
            policy,
            concurrency,
            deduplicator: Deduplicator::default(),
            changes: live::Changes::default(),
            kit,
        }))
    }

    /// Prices of every provider.
    pub fn prices(&self) -> &PriceList {
        &self.prices
    }

    /// Longest time of an answer.
    pub fn answer_limit(&self) -> Duration {
        self.limits.answer
    }

    /// Limit on concurrent calls.
    pub fn concurrency(&self) -> &ConcurrencyLimit {
        &self.concurrency
    }

    /// Deduplicator of identical requests.
    pub fn deduplicator(&self) -> &Deduplicator {
        &self.deduplicator
    }

    /// Current time of the service's clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.kit.clock.now()
    }

    /// Database of the service.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Chassis of the service.
    pub(crate) fn kit(&self) -> &Kit {
        &self.kit
    }

    /// Invalidates cached responses that carry `tag`, and has live summaries published: those of a tenant, or of all.
    fn invalidate(&self, tenant: Option<&Name>, tag: impl Into<String>) {
        self.changes.notify(tenant);
        self.kit.cache.invalidate(Invalidation::Tag(tag.into()));
    }
}
