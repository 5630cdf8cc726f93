//! The layer that completes errors: appends the trace ID, and writes them in the format that the client accepts.
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
use http::{
    HeaderMap, HeaderValue, Request, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::{BodyExt, Collected};
use phase6_telemetry::Exchange;
use serde_json::{Value, json};
use tower::{Layer, Service};

use super::error::LACKS_TRACE_ID;
use crate::stack::{MapResponse, ResponseMap};

/// Media type of problem details.
const PROBLEM: &str = "application/problem+json";

/// Appends the trace ID to errors, and turns them into problem details (RFC 9457) for clients that accept these.
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
    type Future = MapResponse<S::Future, CompleteError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
        let is_problem = accepts_problems(request.headers());
        MapResponse::new(self.inner.call(request), CompleteError { exchange, is_problem })
    }
}

/// True if the request names the media type of problem details.
fn accepts_problems(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types =
        ranges.flat_map(|value| value.split(',')).map(|range| range.split(';').next().unwrap_or_default());
    types.any(|media_type| media_type.trim().eq_ignore_ascii_case(PROBLEM))
}

/// Returns the problem details of an error with this body; `None` if the body has not the form of an error.
fn problem(status: StatusCode, body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let error = &body["error"];
    let mut problem = json!({
        // Names the kind of the problem, and leads nowhere (RFC 4151).
        "type": format!("tag:phase6.dev,2026:{}", error["code"].as_str()?),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": error["message"],
        "code": error["code"],
        "traceId": body["traceId"],
    });
    if let Some(fields) = error.get("fields") {
        problem["fields"] = fields.clone();
    }
    Some(problem.to_string())
}

/// Completes the body of an error.
pub(crate) struct CompleteError {
    exchange: Option<Arc<Exchange>>,
    /// True if the client accepts problem details.
    is_problem: bool,
}

impl ResponseMap for CompleteError {
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
        if self.is_problem
            && let Some(problem) = problem(parts.status, &text)
        {
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
            return Response::from_parts(parts, Body::from(problem));
        }
        Response::from_parts(parts, Body::from(text.freeze()))
    }
}
