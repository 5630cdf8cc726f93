//! Second step of a start: the routes of a service, and its `OpenAPI` description.

use std::sync::Arc;

use axum::{Router, extract::Request, response::IntoResponse};
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

use super::{Definition, Host, Kit, StartError, connect::Connections, definition::LateState};
use crate::{
    ApiError, Enforcer, Settings,
    operations::{self, ServiceState, describe},
    request::Permissions,
};

/// The routes of a service before its state exists.
pub(super) struct Routes {
    operational: OpenApiRouter<Arc<ServiceState>>,
    own: OpenApiRouter,
    has_fallback: bool,
    /// The `OpenAPI` description as JSON.
    pub(super) openapi: String,
    /// Permissions of the operations, by the description.
    pub(super) permissions: Permissions,
    state: LateState,
}

impl Routes {
    /// Builds the routes, and declares their labels to the metrics.
    pub(super) async fn build(
        definition: &Definition,
        host: &Host,
        settings: Settings,
        enforcer: &Enforcer,
        connections: &Connections,
    ) -> Result<Self, StartError> {
        let state = LateState::default();
        let own = (definition.build)(Kit {
            store: connections.store.clone(),
            cache: connections.cache.clone(),
            components: connections.components.clone(),
            enforcer: enforcer.clone(),
            peers: connections.peers.clone(),
            telemetry: Arc::clone(&connections.telemetry),
            settings,
            clock: host.clock.clone(),
            stop: connections.stop.clone(),
            jobs: connections.jobs.clone(),
            events: connections.events.clone(),
            tasks: connections.tasks.clone(),
            state: state.clone(),
        })
        .await?;
        let operational = OpenApiRouter::with_openapi(describe::begin(definition, host.version))
            .merge(operations::routes());
        let mut openapi = operational.get_openapi().clone();
        openapi.merge(own.get_openapi().clone());
        describe::complete(&mut openapi);
        let fallback_labels = definition.needs.fallback_labels;
        let labels = fallback_labels.map(|labels| labels()).unwrap_or_default();
        connections.telemetry.metrics().declare_routes(openapi.paths.paths.keys().cloned().chain(labels));
        Ok(Self {
            operational,
            own,
            has_fallback: fallback_labels.is_some(),
            permissions: Permissions::of(&openapi),
            openapi: openapi.to_pretty_json().unwrap_or_default(),
            state,
        })
    }

    /// Completes the router with the state of the service.
    pub(super) fn into_router(self, state: &Arc<ServiceState>) -> Router {
        let _ = self.state.0.set(Arc::downgrade(state));
        let mut operational = self.operational;
        if !self.has_fallback {
            operational = operational.fallback(unknown_path);
        }
        let (routes, _) = operational.with_state(Arc::clone(state)).merge(self.own).split_for_parts();
        routes.method_not_allowed_fallback(unknown_method)
    }
}

async fn unknown_path(request: Request) -> impl IntoResponse {
    let path = request.uri().path();
    ApiError::not_found(format!("the path {path} does not exist; /openapi.json lists all paths"))
}

async fn unknown_method(request: Request) -> impl IntoResponse {
    let message = format!("{} does not support the method {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
