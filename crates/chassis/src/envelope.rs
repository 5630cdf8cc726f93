//! The one shape of every answer: `{"ok":true,...}` or
//! `{"ok":false,"error":{"code","message"},"traceId"}`.
//!
//! Handlers answer with [`Reply`] or [`ApiError`]. The trace id is added on the way out, by
//! [`EnvelopeLayer`], so that an error from the cache carries the id of the request it answers. An
//! error says a stable code and a sentence that the caller can act on; what only we should know
//! goes to the log.

use std::{
    convert::Infallible,
    fmt::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::{
    HeaderName, HeaderValue, Request, StatusCode,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::BodyExt;
use phase6_store::StoreError;
use phase6_telemetry::Exchange;
use pin_project_lite::pin_project;
use serde::Serialize;
use tower::{Layer, Service};
use utoipa::ToSchema;

/// Marks an answer whose body still lacks its trace id. Never leaves the process.
const UNFINISHED: HeaderName = HeaderName::from_static("phase6-unfinished");

/// Says that an answer of 503 is about something behind the service that gave it: the service
/// itself is well, and its callers' breakers count it as such.
pub const FAULT: HeaderName = HeaderName::from_static("phase6-fault");

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A successful answer: `{"ok":true}` and the fields of `T`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reply<T> {
    /// Always true.
    ok: bool,
    #[serde(flatten)]
    payload: T,
}

impl<T> Reply<T> {
    /// An answer with the fields of `payload`.
    pub fn new(payload: T) -> Self {
        Self { ok: true, payload }
    }
}

impl<T: Serialize> IntoResponse for Reply<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self) {
            Ok(body) => ([(CONTENT_TYPE, JSON)], Body::from(body)).into_response(),
            Err(error) => ApiError::internal(&error).into_response(),
        }
    }
}

/// A refused or failed request.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after_seconds: Option<u64>,
    behind: bool,
}

/// How an error reads, for the API's description.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Always false.
    pub ok: bool,
    /// What went wrong.
    pub error: ErrorDetail,
    /// The request's trace.
    pub trace_id: String,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// A stable word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl ApiError {
    /// An error with a status, a stable code and a sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after_seconds: None, behind: false }
    }

    /// 400: the caller's mistake; `message` names the field.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 503 about something behind this service, with the time after which to try again.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self {
            behind: true,
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
        }
    }

    /// 500: our mistake. The detail goes to the log, not to the caller.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        let chain = std::iter::successors(Some(error), |error| error.source());
        let chain = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        tracing::error!(error = chain, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed; the log says why")
    }

    /// The same, with the time after which to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Its sentence.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", "this record exists already")
            }
            _ if error.is_unavailable() => {
                tracing::warn!(%error, "database unavailable");
                Self::unavailable("database_unavailable", "the database cannot be reached or written now", 2)
            }
            _ => Self::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut answer = Response::new(Body::from(self.unfinished_body()));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(UNFINISHED, HeaderValue::from_static("1"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.behind {
            headers.insert(FAULT, HeaderValue::from_static("dependency"));
        }
        answer
    }
}

impl ApiError {
    /// The body up to its trace id.
    fn unfinished_body(&self) -> String {
        let code = serde_json::Value::from(self.code);
        let message = serde_json::Value::from(self.message.as_str());
        format!(r#"{{"ok":false,"error":{{"code":{code},"message":{message}}}"#)
    }
}

/// The whole answer to a request that could not be parsed; none for a status that is no such.
pub(crate) fn unparsed_request_answer(status: u16) -> Option<Bytes> {
    let (code, message) = match status {
        400 => ("malformed_request", "the request is not well-formed HTTP/1.1"),
        414 => ("uri_too_long", "the request target is too long"),
        431 => ("headers_too_large", "the request has too many or too large headers"),
        _ => return None,
    };
    let status = StatusCode::from_u16(status).ok()?;
    let trace_id = phase6_telemetry::TraceId::random();
    let mut body = ApiError::new(status, code, message).unfinished_body();
    let _ = write!(body, r#","traceId":"{trace_id}"}}"#);
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    Some(answer.into())
}

/// Adds the trace id to errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EnvelopeLayer;

impl<S> Layer<S> for EnvelopeLayer {
    type Service = Enveloped<S>;

    fn layer(&self, inner: S) -> Enveloped<S> {
        Enveloped { inner }
    }
}

/// A service whose errors carry the trace id.
#[derive(Clone)]
pub(crate) struct Enveloped<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Enveloped<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = EnvelopedFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
        EnvelopedFuture { future: self.inner.call(request), exchange }
    }
}

pin_project! {
    /// An answer with its trace id.
    pub(crate) struct EnvelopedFuture<F> {
        #[pin]
        future: F,
        exchange: Option<Arc<Exchange>>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for EnvelopedFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut answer) = ready!(this.future.poll(cx));
        if answer.headers_mut().remove(UNFINISHED).is_some() {
            let (mut parts, body) = answer.into_parts();
            // Of the body before it was finished.
            parts.headers.remove(CONTENT_LENGTH);
            // The body of an error is one piece in memory.
            let text = body.collect().now_or_never().and_then(Result::ok);
            let mut text = BytesMut::from(text.map(http_body_util::Collected::to_bytes).unwrap_or_default());
            if !text.is_empty() {
                let trace_id = this.exchange.as_ref().map(|exchange| exchange.context().trace_id.to_string());
                let rest = format!(r#","traceId":"{}"}}"#, trace_id.unwrap_or_default());
                text.extend_from_slice(rest.as_bytes());
            }
            answer = Response::from_parts(parts, Body::from(text.freeze()));
        }
        Poll::Ready(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unparsed_request_is_answered_in_the_same_shape() {
        let answer = unparsed_request_answer(431).unwrap();
        let text = std::str::from_utf8(&answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"]["code"], "headers_too_large");
        assert_eq!(body["traceId"].as_str().unwrap().len(), 32);
        assert!(unparsed_request_answer(200).is_none());
    }
}
