//! Forwards a request to the service that answers it.
//!
//! The request is built anew from its understood parts, never relayed as it came. Method, path,
//! query, end-to-end headers and body go on unchanged, and so do status, end-to-end headers and
//! body of the answer; bodies stream both ways.

use std::{
    net::IpAddr,
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
const POLICY: HeaderName = HeaderName::from_static("phase6-policy");
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

/// Any request that no route of this service answers.
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
    hop::strip(&mut headers, hop::is_not_for_clients_to_say);
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
    if let Some(context) = context {
        headers.insert(X_FORWARDED_FOR, written(context.caller.address));
    }
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
}

/// An address as a header's value.
fn written(address: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(40);
    match address {
        // On the path of every request, so without `format!`.
        IpAddr::V4(v4) => {
            for (place, octet) in v4.octets().into_iter().enumerate() {
                if place > 0 {
                    text.push('.');
                }
                text.push_str(itoa::Buffer::new().format(octet));
            }
        }
        IpAddr::V6(v6) => text.push_str(&v6.to_string()),
    }
    HeaderValue::from_str(&text).expect("digits, colons and dots")
}

/// The answer as it goes back. What the upstream says of itself stays here, but for two things:
/// the policy it judged by, under another name, and whether a failure was its own.
fn returned(mut answer: Response, peer: &str) -> Response {
    let headers = answer.headers_mut();
    let policy = headers.get(POLICY).and_then(|revision| revision.to_str().ok());
    let policy = policy.and_then(|revision| HeaderValue::from_str(&format!("{peer};{revision}")).ok());
    hop::strip(headers, |name| name.starts_with("phase6-") && name != FAULT);
    if let Some(policy) = policy {
        headers.insert(UPSTREAM_POLICY, policy);
    }
    hop::add_via(headers);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everybody_does() {
        for address in ["0.0.0.0", "192.0.2.255", "2001:db8::1", "::ffff:192.0.2.1"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(written(address), address.to_string());
        }
    }
}
