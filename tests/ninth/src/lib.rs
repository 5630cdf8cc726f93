//! A ninth service with one endpoint.
//!
//! `tests/tests/ninth_service.rs` copies the workspace, puts this folder below `services/` of the copy, adds a
//! row and a dependency line, and calls the result. Here it is no member of the workspace: the catalog has
//! no row for it.

use phase6_chassis::{Definition, Domain, Needs, Path, Reply, catalog::Service};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The service.
pub const SERVICE: Definition = Definition {
    service: Service::named("ninth"),
    domain: Domain::Built,
    needs: Needs::NOTHING,
    build: |_| Box::pin(async { Ok(OpenApiRouter::new().routes(routes!(greeting))) }),
};

#[derive(Serialize, ToSchema)]
struct Greeting {
    greeting: String,
}

/// A greeting.
#[utoipa::path(get, path = "/api/v1/greetings/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Greeting)))]
async fn greeting(Path(name): Path<String>) -> Reply<Greeting> {
    Reply::new(Greeting { greeting: format!("Hello, {name}") })
}
