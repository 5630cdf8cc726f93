//! The auto-coach: a loop that schedules practice until a learner is ready.
//!
//! Its own endpoints are not built yet: it answers what every service answers, says so in
//! `/api/v1/status`, and invents nothing.

use phase6_chassis::{Definition, Domain, Needs};
use utoipa_axum::router::OpenApiRouter;

/// The service.
pub const SERVICE: Definition = Definition {
    name: "coach",
    port: 3004,
    domain: Domain::NotBuilt,
    about: "The auto-coach: a loop that schedules practice until a learner is ready.",
    needs: Needs { store: None, peers: &[], labels: &[] },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};
