//! Forwards a request to the service that answers it.
//!
//! The request is built anew from its understood parts, never relayed as it came. Method, path,
//! query, end-to-end headers and body go on unchanged, and so do status, end-to-end headers and
//! body of the answer; bodies stream both ways.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header::HOST, uri::PathAndQuery};
use phase6_chassis::{
    ApiError, Kit, RequestContext, StartError, Upstream, X_FORWARDED_FOR,
    telemetry::{Exchange, RouteId},
};

use crate::{
    hop,
    table::{LABELS, PEERS, is_ambiguous, peer},
};

/// Longest time until an upstream begins to answer, unless `UPSTREAM_DEADLINE_MS` says otherwise;
/// below the handler's own limit.
const DEADLINE: Duration = Duration::from_secs(50);

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Which revision of its own policy the upstream judged by.
const UPSTREAM_POLICY: HeaderName = HeaderName::from_static("phase6-upstream-policy");
const POLICY: &str = "phase6-policy";
const FAULT: HeaderName = phase6_chassis::FAULT;

/// The peers, and what the fleet's own endpoints need.
pub(crate) struct Gateway {
    pub(crate) kit: Kit,
    pub(crate) upstreams: Vec<Upstream>,
    deadline: Duration,
    /// Under what forwarded requests are counted; known once the routes are declared.
    labels: OnceLock<[RouteId; PEERS.len()]>,
}

impl Gateway {
    pub(crate) fn new(kit: Kit) -> Result<Self, StartError> {
        let upstreams = PEERS.iter().map(|name| kit.need_peer(name)).collect::<Result<_, _>>()?;
        let deadline =
            kit.settings.whole("UPSTREAM_DEADLINE_MS", 1, 55_000)?.map_or(DEADLINE, Duration::from_millis);
        Ok(Self { upstreams, deadline, labels: OnceLock::new(), kit })
    }

    /// The number under which forwarded requests are counted.
    fn label(&self, index: usize) -> RouteId {
        self.labels.get_or_init(|| LABELS.map(|label| self.kit.telemetry.metrics().route(label)))[index]
    }
}

/// Any request below `/api` that is not answered here.
pub(crate) async fn forward(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    match prepare(request) {
        Ok((index, request)) => {
            if let Some(exchange) = Exchange::current() {
                exchange.set_route(gateway.label(index));
            }
            match gateway.upstreams[index].call(request, gateway.deadline).await {
                Ok(answer) => returned(answer, PEERS[index]),
                Err(error) => error.into_response(),
            }
        }
        Err(error) => error.into_response(),
    }
}

/// The request as it goes on, and to whom.
fn prepare(request: Request) -> Result<(usize, Request<Body>), ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if is_ambiguous(path) {
        let message = "the path holds dot segments or a backslash; send it in its plain form";
        return Err(ApiError::bad_request("ambiguous_path", message));
    }
    let Some(index) = peer(path) else {
        let message = format!("no service answers {path}; /api/v1/system/routes lists what is forwarded");
        return Err(ApiError::not_found(message));
    };
    let mut headers = parts.headers;
    let host = headers.get(HOST).cloned();
    hop::remove(&mut headers);
    hop::remove_claims(&mut headers);
    hop::add_via(&mut headers);
    forwarded(&mut headers, parts.extensions.get::<RequestContext>(), host);
    let mut out = Request::new(body);
    *out.method_mut() = parts.method;
    // Only path and query: an absolute target names this hop, not the next one.
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *out.uri_mut() = Uri::from(target);
    *out.headers_mut() = headers;
    Ok((index, out))
}

/// Says for whom the request is passed on.
fn forwarded(headers: &mut HeaderMap, context: Option<&RequestContext>, host: Option<HeaderValue>) {
    let address = context.and_then(|context| HeaderValue::from_str(&context.caller.address.to_string()).ok());
    if let Some(address) = address {
        headers.insert(X_FORWARDED_FOR, address);
    }
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
}

/// The answer as it goes back.
fn returned(mut answer: Response, peer: &str) -> Response {
    let headers = answer.headers_mut();
    hop::remove(headers);
    let policy = headers.get(POLICY).and_then(|revision| revision.to_str().ok());
    let policy = policy.and_then(|revision| HeaderValue::from_str(&format!("{peer};{revision}")).ok());
    let fault = headers.get(FAULT).cloned();
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("phase6-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
    if let Some(policy) = policy {
        headers.insert(UPSTREAM_POLICY, policy);
    }
    if let Some(fault) = fault {
        headers.insert(FAULT, fault);
    }
    hop::add_via(headers);
    answer
}
