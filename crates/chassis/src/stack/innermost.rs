//! The routes, with a time limit, safe from panics.

use std::{
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

use crate::{ApiError, server::RequestBody};

/// Longest time until a handler begins to answer.
const HANDLER_LIMIT: Duration = Duration::from_mins(1);

#[derive(Clone)]
pub(crate) struct Innermost {
    router: Router,
    panics: IntCounter,
}

impl Innermost {
    pub(crate) fn new(router: Router, telemetry: &Telemetry) -> Self {
        let panics = IntCounter::new("phase6_panics_total", "Request handlers that panicked")
            .expect("a constant name is well-formed");
        // A second registration would only mean a second stack over the same telemetry.
        let _ = telemetry.metrics().registry().register(Box::new(panics.clone()));
        Self { router: router.route_layer(LabelLayer), panics }
    }
}

impl Service<Request<RequestBody>> for Innermost {
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
        let request = request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(body) });
        let work = AssertUnwindSafe(router.oneshot(request)).catch_unwind();
        let work = async move {
            Ok(match tokio::time::timeout(HANDLER_LIMIT, work).await {
                Ok(Ok(Ok(answer))) => answer,
                Ok(Err(panic)) => {
                    panics.inc();
                    let what = panic
                        .downcast_ref::<&str>()
                        .map(ToString::to_string)
                        .or_else(|| panic.downcast_ref::<String>().cloned());
                    tracing::error!(panic = what.unwrap_or_default(), "handler panicked");
                    let message = "the service failed; the log says why";
                    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message).into_response()
                }
                Err(_) => {
                    let message =
                        format!("the service did not begin to answer within {} s", HANDLER_LIMIT.as_secs());
                    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", message).into_response()
                }
            })
        };
        // What is logged on the way names the trace.
        match exchange {
            Some(exchange) => Box::pin(exchange.scope(work)),
            None => Box::pin(work),
        }
    }
}

/// Tells the telemetry which route was matched.
#[derive(Clone, Copy)]
struct LabelLayer;

impl<S> Layer<S> for LabelLayer {
    type Service = Label<S>;

    fn layer(&self, inner: S) -> Label<S> {
        Label(inner)
    }
}

#[derive(Clone)]
struct Label<S>(S);

impl<S, B> Service<Request<B>> for Label<S>
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
