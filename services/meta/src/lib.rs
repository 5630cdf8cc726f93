//! How well learning itself goes: phases, plateaus, strategies, insights.
//!
//! Its own endpoints are not built yet: it answers what every service answers, says so in
//! `/api/v1/status`, and invents nothing.

use phase6_chassis::{Definition, Domain, Needs, catalog::Service};
use utoipa_axum::router::OpenApiRouter;

/// The service.
pub const SERVICE: Definition = Definition {
    service: Service::named("meta"),
    domain: Domain::NotBuilt,
    needs: Needs { store: None, fallback_labels: None },
    build: |_| Box::pin(async { Ok(OpenApiRouter::new()) }),
};
