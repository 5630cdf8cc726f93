//! Segments, patterns, traits and cohorts of conversations.
//!
//! Its own endpoints are not built yet: it answers what every service answers, says so in
//! `/api/v1/status`, and invents nothing.

use phase6_chassis::{Definition, Domain, Needs};
use utoipa_axum::router::OpenApiRouter;

/// The service.
pub const SERVICE: Definition = Definition {
    name: "segmentation",
    port: 3007,
    domain: Domain::NotBuilt,
    about: "Segments, patterns, traits and cohorts of conversations.",
    needs: Needs { store: None, peers: &[], labels: &[] },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};
