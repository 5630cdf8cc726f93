//! Forwards a request to the service that owns its path.
//!
//! The request is built anew from its parsed parts, never relayed byte by byte. Method, path, query,
//! end-to-end headers and body go to the upstream unchanged; status, end-to-end headers and body of the
//! response come back. Bodies stream in both directions.

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
    ApiError, Kit, Principal, RequestContext, StartError, Upstream, X_FORWARDED_FOR,
    catalog::Service,
    telemetry::{Exchange, RouteId},
};

use crate::{config::UPSTREAM_DEADLINE, hop, path::is_ambiguous};

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Carries the upstream's `phase6-policy`, preceded by its name.
const UPSTREAM_POLICY: HeaderName = HeaderName::from_static("phase6-upstream-policy");
const POLICY: HeaderName = HeaderName::from_static("phase6-policy");
const FAULT: HeaderName = phase6_chassis::FAULT;

/// The upstreams, and the kit that the fleet's own endpoints read from.
pub(crate) struct Gateway {
    pub(crate) kit: Kit,
    pub(crate) routes: Vec<Route>,
    deadline: Duration,
}

/// One service that requests are forwarded to.
pub(crate) struct Route {
    pub(crate) service: &'static Service,
    pub(crate) upstream: Upstream,
    /// Route label of forwarded requests in metrics; resolved once the labels are declared.
    label: OnceLock<RouteId>,
}

/// Route labels of forwarded requests, one per peer.
pub(crate) fn labels() -> Vec<String> {
    Service::named("web").peers().map(label).collect()
}

fn label(service: &Service) -> String {
    format!("forward {}", service.name)
}

impl Gateway {
    pub(crate) fn new(kit: Kit) -> Result<Self, StartError> {
        let route = |service: &'static Service| {
            Ok(Route { service, upstream: kit.need_peer(service.name)?, label: OnceLock::new() })
        };
        let routes = Service::named("web").peers().map(route).collect::<Result<_, StartError>>()?;
        let deadline = kit.settings.duration(&UPSTREAM_DEADLINE);
        Ok(Self { kit, routes, deadline })
    }

    /// Returns the route whose service owns `path`.
    fn route(&self, path: &str) -> Option<&Route> {
        let owner = Service::owning(path)?;
        self.routes.iter().find(|route| route.service.name == owner.name)
    }

    /// Counts the current request under `route`.
    fn count_under(&self, route: &Route) {
        if let Some(exchange) = Exchange::current() {
            let metrics = self.kit.telemetry.metrics();
            exchange.set_route(*route.label.get_or_init(|| metrics.route(&label(route.service))));
        }
    }
}

/// Handles every request that no endpoint of the gateway itself matches.
pub(crate) async fn forward(
    State(gateway): State<Arc<Gateway>>,
    principal: Principal,
    request: Request,
) -> Response {
    let path = request.uri().path();
    if is_ambiguous(path) {
        let message = "the path has dot segments or a backslash; send it in its normalized form";
        return ApiError::bad_request("ambiguous_path", message).into_response();
    }
    let Some(route) = gateway.route(path) else {
        let message = format!("no service owns {path}; /api/v1/system/routes lists the prefixes");
        return ApiError::not_found(message).into_response();
    };
    gateway.count_under(route);
    let upstream = route.upstream.on_behalf_of(principal);
    match upstream.call(rebuild(request), gateway.deadline).await {
        Ok(response) => from_upstream(response, route.service.name),
        Err(error) => error.into_response(),
    }
}

/// Builds the request for the next hop.
fn rebuild(request: Request) -> Request<Body> {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    let host = headers.get(HOST).cloned();
    hop::strip(&mut headers, hop::is_reserved);
    hop::add_via(&mut headers);
    add_forwarded(&mut headers, parts.extensions.get::<RequestContext>(), host);
    let mut out = Request::new(body);
    *out.method_mut() = parts.method;
    // Path and query only: an absolute target names this hop, not the next one.
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *out.uri_mut() = Uri::from(target);
    *out.headers_mut() = headers;
    out
}

/// Adds the `X-Forwarded-*` headers: address of the client, host and scheme that it used.
fn add_forwarded(headers: &mut HeaderMap, context: Option<&RequestContext>, host: Option<HeaderValue>) {
    if let Some(context) = context {
        headers.insert(X_FORWARDED_FOR, address_value(context.caller.address));
    }
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
}

/// Formats an address as a header value, without `format!` for IPv4: every request needs it.
fn address_value(address: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(40);
    match address {
        IpAddr::V4(v4) => {
            for (position, octet) in v4.octets().into_iter().enumerate() {
                if position > 0 {
                    text.push('.');
                }
                text.push_str(itoa::Buffer::new().format(octet));
            }
        }
        IpAddr::V6(v6) => text.push_str(&v6.to_string()),
    }
    HeaderValue::from_str(&text).expect("addresses are visible ASCII")
}

/// Prepares an upstream's response for the client. Of the `phase6-*` headers two remain: the policy
/// revision, under another name, and `phase6-fault`, which attributes a failure.
fn from_upstream(mut response: Response, upstream: &str) -> Response {
    let headers = response.headers_mut();
    let policy = headers.get(POLICY).and_then(|revision| revision.to_str().ok());
    let policy = policy.and_then(|revision| HeaderValue::from_str(&format!("{upstream};{revision}")).ok());
    hop::strip(headers, |name| name.starts_with("phase6-") && name != FAULT);
    if let Some(policy) = policy {
        headers.insert(UPSTREAM_POLICY, policy);
    }
    hop::add_via(headers);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_standard_form() {
        for address in ["0.0.0.0", "192.0.2.255", "2001:db8::1", "::ffff:192.0.2.1"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(address_value(address), address.to_string());
        }
    }
}
