//! web: the gateway of the fleet.
//!
//! ```text
//! client -> stack (limit, trace root) -> catalog (longest prefix) -> rebuilt request -> upstream
//!                                    \-> own endpoints: routes, status and metrics of the fleet
//! ```
//!
//! * [`path`] refuses paths that another program could read differently.
//! * [`hop`] keeps hop-by-hop headers from being forwarded.
//! * [`gateway`] forwards; bodies stream both ways.
//! * [`events`] joins the live events of all services.
//! * [`fleet`] has the endpoints about all services together.

mod config;
mod events;
mod fleet;
mod gateway;
mod hop;
mod path;

use std::sync::Arc;

use phase6_chassis::{Definition, Domain, Kit, Needs, Role, StartError, catalog::Service, require_in_fleet};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::gateway::Gateway;

/// The service.
pub const SERVICE: Definition = Definition {
    service: Service::named("web"),
    domain: Domain::Built,
    needs: Needs { fallback_labels: Some(gateway::labels), settings: config::SETTINGS, ..Needs::NOTHING },
    build: |kit| Box::pin(async { build(kit) }),
};

fn build(kit: Kit) -> Result<OpenApiRouter, StartError> {
    let gateway = Arc::new(Gateway::new(kit)?);
    for route in &gateway.routes {
        events::declare(&gateway.kit, &route.upstream);
    }
    Ok(OpenApiRouter::new()
        .routes(routes!(fleet::health))
        .routes(routes!(fleet::routes))
        .routes(routes!(fleet::status))
        .routes(require_in_fleet(Role::Reader, routes!(fleet::observability)))
        .routes(routes!(fleet::endpoints))
        .fallback(gateway::forward)
        .with_state(gateway))
}
