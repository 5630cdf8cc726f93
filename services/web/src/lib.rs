//! The front door: forwards every API call to the service that answers it, limits clients, shows which services are alive.
//!
//! Its own endpoints are not built yet: it answers what every service answers, says so in
//! `/api/v1/status`, and invents nothing.

use phase6_chassis::{Definition, Domain, Needs};
use utoipa_axum::router::OpenApiRouter;

/// The service.
pub const SERVICE: Definition = Definition {
    name: "web",
    port: 3000,
    domain: Domain::NotBuilt,
    about: "The front door: forwards every API call to the service that answers it, limits clients, shows which services are alive.",
    needs: Needs { store: None, peers: &[], labels: &[] },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};
