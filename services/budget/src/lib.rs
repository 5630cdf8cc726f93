//! budget: the bill for model calls.
//!
//! ```text
//! routes -> broker -> gate -> ledger.reserve -> provider -> ledger.settle
//!              |                  (SQL, all replicas)
//!              '-> answers (kept, by tenant)
//! ```
//!
//! * [`money`] and [`price`]: whole micro-dollars, one price list.
//! * [`ledger`]: a daily limit that concurrency and replicas cannot pass.
//! * [`provider`]: the providers and their wire formats.
//! * [`routing`] and [`broker`]: whom to ask, and what to do when one does not answer.
//! * [`cohort`] and [`roi`]: what groups of users spend, and what they get for it.

pub mod answers;
pub mod broker;
pub mod cohort;
pub mod gate;
pub mod ledger;
pub mod money;
pub mod policy;
pub mod price;
pub mod provider;
pub mod roi;
mod routes;
pub mod routing;
mod settings;

use std::time::Duration;

use jiff::Timestamp;
use phase6_chassis::{
    ComponentKind, Definition, Domain, Kit, Needs, StartError,
    catalog::Service,
    store::{Migration, StoreError},
};
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    answers::Answers,
    broker::{Broker, Parts},
    cohort::Cohorts,
    gate::Gate,
    ledger::Ledger,
    policy::{Policies, ProviderPolicy},
    price::{PriceList, amount},
    provider::{Client, Directory},
    routing::Criticality,
};

/// The service.
pub const SERVICE: Definition = Definition {
    service: Service::named("budget"),
    domain: Domain::Built,
    needs: Needs { store: Some(&MIGRATIONS), settings: settings::SETTINGS, ..Needs::NOTHING },
    build: |kit| Box::pin(build(kit)),
};

const MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, name: "budget", sql: include_str!("../migrations/0001_budget.sql") }];

/// How often the policy of other replicas is looked at, and how often the records are tidied.
const REFRESH: Duration = Duration::from_secs(2);
const TIDY_EVERY: u32 = 15;

async fn build(kit: Kit) -> Result<OpenApiRouter, StartError> {
    let store = kit.need_store()?;
    let unusable =
        |source: StoreError| StartError::Store { service: "budget", database: "records".into(), source };
    let daily_limit = amount(&kit.settings, &settings::DAILY_BUDGET_LIMIT);
    let prices = PriceList::from_settings(&kit.settings);
    let client = Client::new().map_err(|error| StartError::Create {
        service: "budget",
        what: "an HTTP client",
        source: Box::new(error),
    })?;
    let directory = Directory::new(&kit, client);
    let ledger = Ledger::new(store.clone(), daily_limit);
    let initial = ProviderPolicy {
        max_concurrency: kit.settings.integer(&settings::PROVIDER_MAX_CONCURRENCY) as u32,
        min_concurrency: 1,
        criticality: Criticality::Normal,
    };
    let gate = Gate::new(initial.max_concurrency as usize);
    let policies = Policies::new(store.clone(), gate.clone(), initial).await.map_err(unusable)?;
    let answers = Answers::new(store.clone());
    let parts = Parts {
        directory: directory.clone(),
        prices: prices.clone(),
        ledger: ledger.clone(),
        gate: gate.clone(),
        policies: policies.clone(),
        answers: answers.clone(),
        hedge_after: kit.settings.duration(&settings::HEDGE_AFTER),
        answer_limit: kit.settings.duration(&settings::ANSWER_LIMIT),
        stream_limit: kit.settings.duration(&settings::STREAM_LIMIT),
    };
    let broker = Broker::new(parts, &kit);
    let shown = broker.clone();
    kit.components.register(ComponentKind::Other, "deduplicator", move || json!(shown.dedup()));
    kit.components.register(ComponentKind::Other, "callGate", move || {
        let (running, waiting) = gate.load();
        json!({"running": running, "waiting": waiting})
    });
    kit.tasks.spawn(keep_house(kit.clone(), ledger.clone(), answers, policies.clone()));
    Ok(routes::all(routes::Shelf {
        broker,
        cohorts: Cohorts::new(store),
        directory,
        ledger,
        policies,
        prices,
        watchers: routes::events::Watchers::default(),
        kit,
    }))
}

/// Follows the policy of other replicas and tidies the records. Every replica may do it at once:
/// each statement takes what it removes.
async fn keep_house(kit: Kit, ledger: Ledger, answers: Answers, policies: Policies) {
    for round in 0_u32.. {
        if let Err(error) = policies.refresh().await {
            tracing::warn!(%error, "the provider policy could not be read");
        }
        if round.is_multiple_of(TIDY_EVERY) {
            let now = Timestamp::now();
            if let Err(error) = ledger.reclaim(now).await {
                tracing::warn!(%error, "abandoned reservations could not be charged");
            }
            if let Err(error) = answers.sweep(now).await {
                tracing::warn!(%error, "expired answers could not be removed");
            }
        }
        tokio::select! {
            () = kit.stop.cancelled() => return,
            () = tokio::time::sleep(REFRESH) => {}
        }
    }
}
