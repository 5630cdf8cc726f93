//! web: the front door.
//!
//! ```text
//! client -> stack (limit, trace root) -> table (longest prefix) -> rebuilt request -> upstream
//!                                    \-> own endpoints: routes, status and figures of the fleet
//! ```
//!
//! * [`table`] says which service answers a path.
//! * [`hop`] keeps what belongs to one connection from crossing to the other side.
//! * [`gateway`] forwards; bodies stream both ways.
//! * [`fleet`] speaks of all eight services together.

mod fleet;
mod gateway;
mod hop;
mod table;

use std::sync::Arc;

use phase6_chassis::{Definition, Domain, Kit, Needs, StartError};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::gateway::Gateway;

/// The service.
pub const SERVICE: Definition = Definition {
    name: "web",
    port: 3000,
    domain: Domain::Built,
    about: "The front door: forwards every API call to the service that answers it, limits clients, \
            shows which services are alive.",
    needs: Needs { store: None, peers: &table::PEERS, labels: &table::LABELS },
    build: |kit| Box::pin(async { build(kit) }),
};

fn build(kit: Kit) -> Result<OpenApiRouter, StartError> {
    let gateway = Arc::new(Gateway::new(kit)?);
    Ok(OpenApiRouter::new()
        .routes(routes!(fleet::health))
        .routes(routes!(fleet::routes))
        .routes(routes!(fleet::status))
        .routes(routes!(fleet::observability))
        .routes(routes!(fleet::endpoints))
        .fallback(gateway::forward)
        .with_state(gateway))
}
