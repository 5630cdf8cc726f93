//! The layer that appends the trace ID to errors.
//!
//! The layer is above the cache, so that a cached error carries the trace ID of the request that it is served
//! to, not of the one that it was made for.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::BytesMut;
use futures_util::FutureExt;
use http::{Request, header::CONTENT_LENGTH};
use http_body_util::{BodyExt, Collected};
use phase6_telemetry::Exchange;
use tower::{Layer, Service};

use super::error::LACKS_TRACE_ID;
use crate::stack::{MapResponse, ResponseMap};

/// Appends the trace ID to errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EnvelopeLayer;

impl<S> Layer<S> for EnvelopeLayer {
    type Service = Envelope<S>;

    fn layer(&self, inner: S) -> Envelope<S> {
        Envelope { inner }
    }
}

/// A service whose errors carry the trace ID.
#[derive(Clone)]
pub(crate) struct Envelope<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Envelope<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = MapResponse<S::Future, AppendTraceId>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
        MapResponse::new(self.inner.call(request), AppendTraceId { exchange })
    }
}

/// Completes the body of an error.
pub(crate) struct AppendTraceId {
    exchange: Option<Arc<Exchange>>,
}

impl ResponseMap for AppendTraceId {
    type Response = Response;

    fn map(self, mut response: Response) -> Response {
        if response.headers_mut().remove(LACKS_TRACE_ID).is_none() {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        // It counts the body without the trace ID.
        parts.headers.remove(CONTENT_LENGTH);
        // The body of an error is one piece in memory, so collecting it never waits.
        let text = body.collect().now_or_never().and_then(Result::ok);
        let mut text = BytesMut::from(text.map(Collected::to_bytes).unwrap_or_default());
        if !text.is_empty() {
            let trace_id = self.exchange.as_ref().map(|exchange| exchange.context().trace_id.to_string());
            let rest = format!(r#","traceId":"{}"}}"#, trace_id.unwrap_or_default());
            text.extend_from_slice(rest.as_bytes());
        }
        Response::from_parts(parts, Body::from(text.freeze()))
    }
}
