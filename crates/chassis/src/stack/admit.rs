//! Rejects requests that should cost nothing: without a required API key, with an oversized head or body, or
//! beyond the number that the service handles at a time.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use http::{
    HeaderMap, HeaderValue, Request, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST, WWW_AUTHENTICATE},
};
use phase6_identity::Authentication;
use tower::{Layer, Service};

use super::{MapResponse, RequestContext, ResponseMap, is_public};
use crate::{ApiError, operations::Registrar, request::body_too_large, server::BodyLimits};

/// Largest number of requests that a service handles at a time.
const MAX_IN_FLIGHT: usize = 2048;
/// Longest request target, in bytes.
const MAX_TARGET_BYTES: usize = 8 * 1024;
/// Largest sum of the lengths of header names and values, in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Limit of the number of requests that a service handles at a time.
#[derive(Debug, Default)]
pub(crate) struct ConcurrencyLimit {
    in_flight: AtomicUsize,
    shed: AtomicU64,
}

impl ConcurrencyLimit {
    /// Number of requests that were rejected because the limit was reached.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// Registers the metric series of the limit.
    pub(crate) fn register(self: &Arc<Self>, registrar: &Registrar<'_>) {
        let limit = Arc::clone(self);
        registrar.counter(
            "phase6_requests_shed_total",
            "Requests rejected because the concurrency limit was reached",
            move || limit.shed() as f64,
        );
    }

    fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        // Dropped below if the limit is reached, which takes the request off the count again.
        let permit = Permit(Arc::clone(self));
        if before >= MAX_IN_FLIGHT {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(permit)
    }
}

/// Counts a request as in flight until it is dropped.
struct Permit(Arc<ConcurrencyLimit>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
pub(crate) struct AdmitLayer {
    concurrency: Arc<ConcurrencyLimit>,
    body: BodyLimits,
}

impl AdmitLayer {
    pub(crate) fn new(concurrency: Arc<ConcurrencyLimit>, body: BodyLimits) -> Self {
        Self { concurrency, body }
    }
}

impl<S> Layer<S> for AdmitLayer {
    type Service = Admit<S>;

    fn layer(&self, inner: S) -> Admit<S> {
        Admit { inner, layer: self.clone() }
    }
}

/// A service that handles only the requests that are admitted.
#[derive(Clone)]
pub(crate) struct Admit<S> {
    inner: S,
    layer: AdmitLayer,
}

/// Decision about a request.
enum Decision {
    Admitted(Option<Permit>),
    Rejected(Response),
}

impl AdmitLayer {
    fn check<B>(&self, request: &Request<B>, context: &RequestContext) -> Result<(), ApiError> {
        if request.uri().path_and_query().is_some_and(|target| target.as_str().len() > MAX_TARGET_BYTES) {
            let message = format!("the request target is longer than {MAX_TARGET_BYTES} bytes");
            return Err(ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", message));
        }
        // RFC 9112, section 3.2.
        let hosts = request.headers().get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11) {
            let message = format!("the request has {hosts} `Host` headers; accepted: one");
            return Err(ApiError::bad_request("invalid_host", message));
        }
        if header_bytes(request.headers()) > MAX_HEADER_BYTES {
            let message = format!("the headers are larger than {MAX_HEADER_BYTES} bytes");
            return Err(ApiError::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                message,
            ));
        }
        if !is_public(request.uri().path()) {
            authenticated(&context.caller.authentication)?;
        }
        let announced =
            request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if announced.is_some_and(|bytes: u64| bytes > self.body.max_bytes) {
            return Err(body_too_large(self.body.max_bytes));
        }
        Ok(())
    }

    /// Admits or rejects a request. Operational requests need no permit.
    fn decide<B>(&self, request: &Request<B>) -> Decision {
        let context = request.extensions().get::<RequestContext>();
        let Some(context) = context.filter(|context| !context.operational) else {
            return Decision::Admitted(None);
        };
        if let Err(error) = self.check(request, context) {
            let is_unauthorized = error.status() == StatusCode::UNAUTHORIZED;
            let mut response = error.into_response();
            if is_unauthorized {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return Decision::Rejected(response);
        }
        match self.concurrency.try_acquire() {
            Some(permit) => Decision::Admitted(Some(permit)),
            None => {
                let message = "the service is at its concurrency limit; try again later";
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
                Decision::Rejected(error.retry_after(1).into_response())
            }
        }
    }
}

fn authenticated(authentication: &Authentication) -> Result<(), ApiError> {
    match authentication {
        Authentication::Principal(_) => Ok(()),
        Authentication::Rejected => {
            let message =
                "an API key is required: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
        }
        Authentication::Unavailable => {
            let message = "the API key cannot be checked, because the database has not been reachable yet";
            Err(ApiError::unavailable("keys_unavailable", message, 1))
        }
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

impl<S, B> Service<Request<B>> for Admit<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<MapResponse<S::Future, ReleasePermit>, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.layer.decide(&request) {
            Decision::Admitted(permit) => {
                Either::Left(MapResponse::new(self.inner.call(request), ReleasePermit { _permit: permit }))
            }
            Decision::Rejected(response) => Either::Right(ready(Ok(response))),
        }
    }
}

/// Holds the permit of a request until its response is ready.
pub(crate) struct ReleasePermit {
    _permit: Option<Permit>,
}

impl ResponseMap for ReleasePermit {
    type Response = Response;

    fn map(self, response: Response) -> Response {
        response
    }
}
