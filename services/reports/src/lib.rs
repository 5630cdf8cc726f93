//! Reports and analytics over all services.
//!
//! Its own endpoints are not built yet. The service has the endpoints that every service has, and says so in
//! `/api/v1/status`.

use phase6_chassis::{Definition, catalog::Service};

/// The service.
pub const SERVICE: Definition = Definition::not_built(Service::named("reports"));
