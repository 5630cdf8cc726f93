//! Hop-by-hop headers, which belong to one connection and are not forwarded (RFC 9110, section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, VIA},
};

const OWN_VIA: HeaderValue = HeaderValue::from_static("1.1 phase6");

/// Removes the hop-by-hop headers, the headers that `Connection` names, and those that `also` selects.
/// Looks at each name once: most messages have nothing to remove.
pub(crate) fn strip(headers: &mut HeaderMap, also: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        // Options of the connection, not names of headers.
        .filter(|name| !matches!(*name, "close" | "keep-alive"))
        .filter_map(|name| name.parse().ok())
        .filter(|name: &HeaderName| !is_end_to_end(name.as_str()))
        .collect();
    let removed =
        |name: &&HeaderName| is_hop_by_hop(name.as_str()) || also(name.as_str()) || named.contains(name);
    let removed: Vec<HeaderName> = headers.keys().filter(removed).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// True for headers that stay even if `Connection` names them. Without them the upstream would not
/// recognize the client, nor apply its limit, nor apply its cache directives.
fn is_end_to_end(name: &str) -> bool {
    matches!(name, "authorization" | "x-api-key" | "cookie" | "set-cookie" | "cache-control" | "vary")
}

/// True for headers that clients may not send to our services, those that this hop sets itself, and
/// `Expect`, to which this hop sends the interim response.
pub(crate) fn is_reserved(name: &str) -> bool {
    name.starts_with("phase6-")
        || name.starts_with("x-forwarded-")
        || matches!(name, "forwarded" | "host" | "expect")
}

/// Appends this hop to `Via`.
pub(crate) fn add_via(headers: &mut HeaderMap) {
    headers.append(VIA, OWN_VIA);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn headers_that_connection_names_are_not_forwarded() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic x"),
            ("x-kept", "1"),
            ("authorization", "Bearer x"),
        ]);
        strip(&mut map, |_| false);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-kept"]);
    }

    #[test]
    fn credentials_and_cache_directives_are_forwarded_even_if_connection_names_them() {
        let mut map = headers(&[
            ("connection", "x-api-key, Authorization, cache-control, x-other"),
            ("x-api-key", "k"),
            ("authorization", "Bearer x"),
            ("cache-control", "no-store"),
            ("x-other", "1"),
        ]);
        strip(&mut map, |_| false);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "cache-control", "x-api-key"]);
    }

    #[test]
    fn clients_cannot_set_headers_that_identify_services_or_other_clients() {
        let mut map = headers(&[
            ("phase6-internal", "guess"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.2.3.4"),
            ("host", "a"),
            ("x-request-id", "kept"),
        ]);
        strip(&mut map, is_reserved);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
    }
}
