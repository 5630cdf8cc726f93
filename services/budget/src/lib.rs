//! budget: calls to AI providers under a daily budget.
//!
//! ```text
//! api -> app -> store        SQL: ledger, cached answers, cohorts, policy
//!         |---> providers    HTTPS: wire formats, clients, availability
//!         '---> model        values, rules and arithmetic
//! ```
//!
//! | Part | Holds | Never |
//! |---|---|---|
//! | `lib` | the definition of the service | rules |
//! | [`config`] | settings, read into one struct | anything read later |
//! | [`model`] | values and rules, pure | I/O, async code, reading the clock |
//! | [`store`] | every SQL statement | rules |
//! | [`providers`] | clients of AI providers | money |
//! | [`app`] | use cases, which return domain errors | HTTP and JSON types |
//! | `api` | requests, responses, routes, and the mapping of errors | decisions |
//! | `jobs` | periodic work | rules |

mod api;
pub mod app;
pub mod config;
mod jobs;
pub mod model;
pub mod providers;
pub mod store;

use phase6_chassis::{Definition, Domain, Kit, Needs, StartError, catalog::Service};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    app::AppState,
    config::{Config, settings::SETTINGS},
    store::MIGRATIONS,
};

/// Definition of the service.
pub const SERVICE: Definition = Definition {
    service: Service::named("budget"),
    domain: Domain::Built,
    needs: Needs { store: Some(&MIGRATIONS), settings: SETTINGS, ..Needs::NOTHING },
    build: |kit| Box::pin(build(kit)),
};

async fn build(kit: Kit) -> Result<OpenApiRouter, StartError> {
    let config = Config::from_settings(&kit.settings);
    let state = AppState::new(kit.clone(), config).await?;
    api::register_components(&kit.components, &state);
    api::declare_topics(&state);
    jobs::start(&kit.jobs, &state);
    Ok(api::router(state))
}
