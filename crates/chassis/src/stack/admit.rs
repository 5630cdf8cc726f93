//! Refuses what should cost nothing: strangers, oversized heads and bodies, and requests beyond
//! what the service can answer at a time.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::response::{IntoResponse, Response};
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST, WWW_AUTHENTICATE},
};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::context::RequestContext;
use crate::{ApiError, server::BodyLimits};

/// Longest request target, in bytes.
const LONGEST_TARGET: usize = 8 * 1024;
/// Largest head, in bytes of header names and values.
const LARGEST_HEADERS: usize = 32 * 1024;
/// What strangers may ask for beside the operational paths.
const PUBLIC: [&str; 1] = ["/openapi.json"];

/// How many requests are being answered, and how many were refused because of it.
#[derive(Debug)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    max_in_flight: usize,
    shed: AtomicU64,
    body: BodyLimits,
}

impl Load {
    pub(crate) fn new(max_in_flight: usize, body: BodyLimits) -> Self {
        Self { in_flight: AtomicUsize::new(0), max_in_flight, shed: AtomicU64::new(0), body }
    }

    /// Requests refused because too many were being answered.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    fn enter(self: &Arc<Self>) -> Option<InFlight> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let entered = InFlight(Arc::clone(self));
        if before >= self.max_in_flight {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(entered)
    }
}

/// Counts a request while it is being answered.
struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
pub(crate) struct AdmitLayer {
    load: Arc<Load>,
}

impl AdmitLayer {
    pub(crate) fn new(load: Arc<Load>) -> Self {
        Self { load }
    }
}

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit { inner, load: Arc::clone(&self.load) }
    }
}

#[derive(Clone)]
pub(crate) struct Admit<S> {
    inner: S,
    load: Arc<Load>,
}

impl<S> Admit<S> {
    fn check<B>(&self, request: &Request<B>, context: &RequestContext) -> Result<(), ApiError> {
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > LONGEST_TARGET) {
            let message = format!("the request target is longer than {LONGEST_TARGET} bytes");
            return Err(ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", message));
        }
        // RFC 9112, section 3.2.
        let hosts = request.headers().get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
            let message = format!("the request has {hosts} `Host` headers; accepted: one");
            return Err(ApiError::bad_request("invalid_host", message));
        }
        if size(request.headers()) > LARGEST_HEADERS {
            let message = format!("the headers are larger than {LARGEST_HEADERS} bytes");
            return Err(ApiError::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                message,
            ));
        }
        let stranger = context.keys_required && context.caller.owner.is_none() && !context.caller.internal;
        if stranger && !PUBLIC.contains(&request.uri().path()) {
            let message = "an API key is needed: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
        }
        let announced =
            request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > self.load.body.max_bytes) {
            return Err(too_large(self.load.body.max_bytes));
        }
        Ok(())
    }
}

/// The error for a body over the limit.
pub(crate) fn too_large(max_bytes: u64) -> ApiError {
    let message = format!("the body is larger than {max_bytes} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

impl<S, B> Service<Request<B>> for Admit<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = AdmitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = request.extensions().get::<RequestContext>();
        let Some(context) = context.filter(|context| !context.operational) else {
            return AdmitFuture::Passing { future: self.inner.call(request), entered: None };
        };
        if let Err(error) = self.check(&request, context) {
            let unauthorised = error.status() == StatusCode::UNAUTHORIZED;
            let mut answer = error.into_response();
            if unauthorised {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return AdmitFuture::Refused { answer: Some(answer) };
        }
        match self.load.enter() {
            Some(entered) => {
                AdmitFuture::Passing { future: self.inner.call(request), entered: Some(entered) }
            }
            None => {
                let message = "the service answers as many requests as it can; try again";
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
                AdmitFuture::Refused { answer: Some(error.retry_after(1).into_response()) }
            }
        }
    }
}

pin_project! {
    #[project = AdmitProjection]
    pub(crate) enum AdmitFuture<F> {
        Refused { answer: Option<Response> },
        Passing { #[pin] future: F, entered: Option<InFlight> },
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for AdmitFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AdmitProjection::Refused { answer } => {
                Poll::Ready(Ok(answer.take().expect("a future is not polled after it is done")))
            }
            AdmitProjection::Passing { future, entered } => {
                let answer = ready!(future.poll(cx));
                *entered = None;
                Poll::Ready(answer)
            }
        }
    }
}
