//! How well learning itself goes: phases, plateaus, strategies, insights.
//!
//! Its own endpoints are not built yet: it answers what every service answers, says so in
//! `/api/v1/status`, and invents nothing.

use phase6_chassis::{Definition, Domain, Needs};
use utoipa_axum::router::OpenApiRouter;

/// The service.
pub const SERVICE: Definition = Definition {
    name: "meta",
    port: 3002,
    domain: Domain::NotBuilt,
    about: "How well learning itself goes: phases, plateaus, strategies, insights.",
    needs: Needs { store: None, peers: &[], labels: &[] },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};
