//! What is known of a request before anything is decided about it.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::response::Response;
use http::{Extensions, HeaderName, HeaderValue, Request};
use phase6_telemetry::Exchange;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Access, Caller, Enforcer, enforce::Judgement};

/// Says which revision of the policy judged a request.
const POLICY: HeaderName = HeaderName::from_static("phase6-policy");

/// What every layer may want to know; in the request's extensions.
#[derive(Clone)]
pub struct RequestContext {
    /// The policy that judges this request.
    pub judgement: Arc<Judgement>,
    /// Who is asking.
    pub caller: Caller,
    /// Whether the request is about the service's own health, which no policy may get in the way
    /// of.
    pub operational: bool,
    /// Whether the service knows its callers by key, so that strangers are refused.
    pub keys_required: bool,
}

/// Paths by which a service is watched: never limited, cached, refused or traced. Somebody asks for them every
/// second, and nobody looks at such traces.
const OPERATIONAL: [&str; 5] = ["/livez", "/readyz", "/health", "/metrics", "/policyz"];

fn of(extensions: &Extensions) -> Option<&RequestContext> {
    extensions.get::<RequestContext>()
}

fn judged(extensions: &Extensions) -> Option<&RequestContext> {
    of(extensions).filter(|context| !context.operational)
}

/// How the tracer is told of a request.
pub(super) const TRACING: phase6_telemetry::RequestAccessors = phase6_telemetry::RequestAccessors {
    tracing: |extensions| Some(&judged(extensions)?.judgement.document.policy.tracing),
    trusted: |extensions| of(extensions).is_some_and(|context| context.caller.internal),
};

/// How the limiter is told of a request.
pub(super) const LIMITING: phase6_ratelimit::RequestAccessors = phase6_ratelimit::RequestAccessors {
    limits: |extensions| judged(extensions)?.judgement.limits.as_ref(),
    client: |extensions| match of(extensions) {
        Some(context) => phase6_ratelimit::Client {
            owner: context.caller.owner.as_deref(),
            address: context.caller.address,
        },
        None => phase6_ratelimit::Client { owner: None, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) },
    },
};

/// How the cache is told of a request.
pub(super) const CACHING: phase6_cache::Accessors = phase6_cache::Accessors {
    policy: |extensions| judged(extensions)?.judgement.terms.as_ref(),
    client: |extensions| match of(extensions) {
        Some(context) => phase6_cache::Client {
            tenant: context.caller.owner.as_deref().unwrap_or_default(),
            has_credentials: context.caller.credentials,
        },
        None => phase6_cache::Client { tenant: "", has_credentials: true },
    },
    // The route, in words: another replica counts its routes in another order.
    label: |extensions| match extensions.get::<Arc<Exchange>>() {
        Some(exchange) => exchange.telemetry().metrics().template(exchange.route()).into(),
        None => Box::default(),
    },
    set_label: |extensions, label| {
        if let Some(exchange) = extensions.get::<Arc<Exchange>>() {
            exchange.set_route(exchange.telemetry().metrics().route(label));
        }
    },
};

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
    type Service = Contextual<S>;

    fn layer(&self, inner: S) -> Contextual<S> {
        Contextual { inner, layer: self.clone(), peer: NOWHERE }
    }
}

#[derive(Clone)]
pub(crate) struct Contextual<S> {
    inner: S,
    layer: ContextLayer,
    peer: SocketAddr,
}

impl<S: Clone> Contextual<S> {
    /// The same, for requests that come over a connection from `peer`.
    pub(crate) fn for_peer(&self, peer: SocketAddr) -> Self {
        Self { peer, ..self.clone() }
    }
}

impl<S, B> Service<Request<B>> for Contextual<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ContextualFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let judgement = self.layer.enforcer.judgement();
        let caller = self.layer.access.caller(self.peer, request.headers());
        let operational = OPERATIONAL.contains(&request.uri().path());
        let revision = judgement.revision.clone();
        let keys_required = !self.layer.access.keys.is_empty();
        request.extensions_mut().insert(RequestContext { judgement, caller, operational, keys_required });
        ContextualFuture { future: self.inner.call(request), revision: Some(revision) }
    }
}

/// Where a request comes from that came over no connection.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pin_project! {
    pub(crate) struct ContextualFuture<F> {
        #[pin]
        future: F,
        revision: Option<HeaderValue>,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for ContextualFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut answer) = ready!(this.future.poll(cx));
        if let Some(revision) = this.revision.take() {
            // An answer that was passed on from a peer was judged by the peer's policy too.
            answer.headers_mut().insert(POLICY, revision);
        }
        Poll::Ready(Ok(answer))
    }
}
