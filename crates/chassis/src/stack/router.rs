//! The routes, with a check of the role, a time limit, and with panics caught.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::MatchedPath,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, StatusCode};
use http_body::Body as _;
use phase6_telemetry::{Exchange, Telemetry};
use prometheus::IntCounter;
use tower::{Layer, Service, ServiceExt};

use super::{authorize::AuthorizeLayer, context::context};
use crate::{ApiError, request::Permissions, server::RequestBody};

/// Longest time until a handler begins its response.
const HANDLER_LIMIT: Duration = Duration::from_mins(1);

/// A router whose handlers respond in time, with 500 if they panic.
#[derive(Clone)]
pub(crate) struct GuardedRouter {
    router: Router,
    panics: IntCounter,
}

impl GuardedRouter {
    pub(crate) fn new(router: Router, permissions: Permissions, telemetry: &Telemetry) -> Self {
        let panics = IntCounter::new("phase6_panics_total", "Request handlers that panicked")
            .expect("a constant name is well-formed");
        // Fails only for a second stack with the same telemetry, which then counts on its own.
        let _ = telemetry.metrics().registry().register(Box::new(panics.clone()));
        let router = router.route_layer(AuthorizeLayer::new(permissions)).route_layer(RouteLabelLayer);
        Self { router, panics }
    }
}

impl Service<Request<RequestBody>> for GuardedRouter {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let Self { router, panics } = self.clone();
        let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
        let mut request = request;
        if let Some(principal) = context(request.extensions()).and_then(|context| context.caller.principal())
        {
            let principal = principal.clone();
            request.extensions_mut().insert(principal);
        }
        let request = request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(body) });
        let handler = AssertUnwindSafe(router.oneshot(request)).catch_unwind();
        let response = async move {
            Ok(match tokio::time::timeout(HANDLER_LIMIT, handler).await {
                Ok(Ok(Ok(response))) => response,
                Ok(Err(panic)) => {
                    panics.inc();
                    tracing::error!(panic = panic_message(&*panic), "handler panicked");
                    ApiError::internal_without_log().into_response()
                }
                Err(_) => {
                    let limit = HANDLER_LIMIT.as_secs();
                    let message = format!("the response did not begin within {limit} s");
                    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message).into_response()
                }
            })
        };
        // Log lines of the handler then carry the trace ID.
        match exchange {
            Some(exchange) => Box::pin(exchange.scope(response)),
            None => Box::pin(response),
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default()
}

/// Records the matched route in the telemetry of a request.
#[derive(Clone, Copy)]
struct RouteLabelLayer;

impl<S> Layer<S> for RouteLabelLayer {
    type Service = RouteLabel<S>;

    fn layer(&self, inner: S) -> RouteLabel<S> {
        RouteLabel(inner)
    }
}

#[derive(Clone)]
struct RouteLabel<S>(S);

impl<S, B> Service<Request<B>> for RouteLabel<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let extensions = request.extensions();
        if let (Some(path), Some(exchange)) =
            (extensions.get::<MatchedPath>(), extensions.get::<Arc<Exchange>>())
        {
            exchange.set_route(exchange.telemetry().metrics().route(path.as_str()));
        }
        self.0.call(request)
    }
}
