//! Rejects requests whose principal may not call the operation.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::MatchedPath,
    response::{IntoResponse, Response},
};
use futures_util::future::Either;
use http::{HeaderValue, Request, header::CACHE_CONTROL};
use phase6_identity::Principal;
use tower::{Layer, Service};

use super::{MapResponse, ResponseMap};
use crate::{ApiError, request::Permissions};

/// Checks permissions in front of the handlers, where the route is known.
#[derive(Clone)]
pub(super) struct AuthorizeLayer {
    permissions: Arc<Permissions>,
}

impl AuthorizeLayer {
    pub(super) fn new(permissions: Permissions) -> Self {
        Self { permissions: Arc::new(permissions) }
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize { inner, permissions: Arc::clone(&self.permissions) }
    }
}

#[derive(Clone)]
pub(super) struct Authorize<S> {
    inner: S,
    permissions: Arc<Permissions>,
}

impl<S> Authorize<S> {
    /// Checks a request. Returns true if its response must not be cached.
    fn check(&self, request: &Request<Body>) -> Result<bool, ApiError> {
        let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str).unwrap_or_default();
        let Some(permission) = self.permissions.get(path, request.method()) else { return Ok(false) };
        // Requests without a principal have been rejected already.
        if let Some(principal) = request.extensions().get::<Principal>() {
            permission.check(principal)?;
        }
        Ok(permission.is_restricted())
    }
}

impl<S> Service<Request<Body>> for Authorize<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<MapResponse<S::Future, StorageRule>, Ready<Result<Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.check(&request) {
            Ok(is_restricted) => {
                Either::Left(MapResponse::new(self.inner.call(request), StorageRule { is_restricted }))
            }
            Err(error) => Either::Right(ready(Ok(error.into_response()))),
        }
    }
}

/// Keeps responses that not every principal of a tenant may see out of caches, which separate tenants only.
pub(super) struct StorageRule {
    is_restricted: bool,
}

impl ResponseMap for StorageRule {
    type Response = Response;

    fn map(self, mut response: Response) -> Response {
        if self.is_restricted {
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }
}
