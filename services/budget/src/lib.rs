//! The bill for model calls: status, cost and choice of AI providers, and calls to them within a daily limit.
//!
//! Its own endpoints are not built yet: it answers what every service answers, says so in
//! `/api/v1/status`, and invents nothing.

use phase6_chassis::{Definition, Domain, Needs};
use utoipa_axum::router::OpenApiRouter;

/// The service.
pub const SERVICE: Definition = Definition {
    name: "budget",
    port: 3003,
    domain: Domain::NotBuilt,
    about: "The bill for model calls: status, cost and choice of AI providers, and calls to them within a daily limit.",
    needs: Needs { store: None, peers: &[], labels: &[] },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};
