//! The outermost layer: puts the policy and the caller of a request into its extensions.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::Poll,
};

use axum::response::Response;
use http::{Extensions, HeaderName, HeaderValue, Request};
use tower::{Layer, Service};

use super::{MapResponse, ResponseMap};
use crate::{Access, ActivePolicy, Caller, Enforcer};

/// Names the policy revision that applied to a request.
const POLICY: HeaderName = HeaderName::from_static("phase6-policy");

/// Paths by which a service is watched. They are never limited, cached, rejected or traced: they are requested
/// every few seconds, and their traces are of no use.
const OPERATIONAL: [&str; 5] = ["/livez", "/readyz", "/health", "/metrics", "/policyz"];

/// Paths that need no API key, besides the operational ones.
const PUBLIC: [&str; 1] = ["/openapi.json"];

/// True for paths that need no API key.
pub(crate) fn is_public(path: &str) -> bool {
    OPERATIONAL.contains(&path) || PUBLIC.contains(&path)
}

/// Peer address of requests that come over no connection, as in tests.
const NO_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Policy and caller of a request. An extension of the request.
#[derive(Clone)]
pub struct RequestContext {
    /// Policy that applies to the whole request.
    pub policy: Arc<ActivePolicy>,
    /// Sender of the request.
    pub caller: Caller,
    /// True if the request is for an operational endpoint, to which no policy applies.
    pub operational: bool,
}

/// Returns the context of a request.
pub(super) fn context(extensions: &Extensions) -> Option<&RequestContext> {
    extensions.get::<RequestContext>()
}

/// Returns the context of a request to which the policy applies; `None` for operational requests.
pub(super) fn governed(extensions: &Extensions) -> Option<&RequestContext> {
    context(extensions).filter(|context| !context.operational)
}

#[derive(Clone)]
pub(crate) struct ContextLayer {
    enforcer: Enforcer,
    access: Arc<Access>,
}

impl ContextLayer {
    pub(crate) fn new(enforcer: Enforcer, access: Access) -> Self {
        Self { enforcer, access: Arc::new(access) }
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = Context<S>;

    fn layer(&self, inner: S) -> Context<S> {
        Context { inner, layer: self.clone(), peer: NO_PEER }
    }
}

/// A service that adds the [`RequestContext`] to requests, and the policy's revision to responses.
#[derive(Clone)]
pub(crate) struct Context<S> {
    inner: S,
    layer: ContextLayer,
    peer: SocketAddr,
}

impl<S: Clone> Context<S> {
    /// Returns a copy for the requests of a connection from `peer`.
    pub(crate) fn for_peer(&self, peer: SocketAddr) -> Self {
        Self { peer, ..self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Context<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = MapResponse<S::Future, AddRevision>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let policy = self.layer.enforcer.active_policy();
        let caller = self.layer.access.caller(self.peer, request.headers());
        let operational = OPERATIONAL.contains(&request.uri().path());
        let revision = policy.revision.clone();
        request.extensions_mut().insert(RequestContext { policy, caller, operational });
        MapResponse::new(self.inner.call(request), AddRevision { revision })
    }
}

/// Adds the policy's revision to a response.
pub(crate) struct AddRevision {
    revision: HeaderValue,
}

impl ResponseMap for AddRevision {
    type Response = Response;

    fn map(self, mut response: Response) -> Response {
        // Replaces the revision of a peer whose response is passed on.
        response.headers_mut().insert(POLICY, self.revision);
        response
    }
}
