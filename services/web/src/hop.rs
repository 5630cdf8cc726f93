//! What belongs to one connection and does not cross to the other (RFC 9110, section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, VIA},
};

const OWN_VIA: HeaderValue = HeaderValue::from_static("1.1 phase6");

/// Removes what was meant for one connection only, what `Connection` names besides, and what
/// `also` says. One look at each name: most messages have nothing to remove.
pub(crate) fn strip(headers: &mut HeaderMap, also: impl Fn(&str) -> bool) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        // These two are no names of headers to be looked for.
        .filter(|name| !matches!(*name, "close" | "keep-alive"))
        .filter_map(|name| name.parse().ok())
        .filter(|name: &HeaderName| !is_for_the_end(name.as_str()))
        .collect();
    let doomed = |name: &&HeaderName| {
        is_for_one_connection(name.as_str()) || also(name.as_str()) || named.contains(name)
    };
    let doomed: Vec<HeaderName> = headers.keys().filter(doomed).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

fn is_for_one_connection(name: &str) -> bool {
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

/// What is meant for the service at the end, whatever `Connection` says of it. Who asks and what
/// may be cached must not get lost on the way: a client would be taken for nobody, and its limit
/// with it.
fn is_for_the_end(name: &str) -> bool {
    matches!(name, "authorization" | "x-api-key" | "cookie" | "set-cookie" | "cache-control" | "vary")
}

/// What a client may not say to our services, what this hop says itself, and `Expect`, to which
/// this hop gives the interim answer.
pub(crate) fn is_not_for_clients_to_say(name: &str) -> bool {
    name.starts_with("phase6-")
        || name.starts_with("x-forwarded-")
        || matches!(name, "forwarded" | "host" | "expect")
}

/// Says that this hop was passed.
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
    fn what_connection_names_stays_on_its_side() {
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
    fn who_asks_cannot_be_lost_on_the_way() {
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
    fn a_client_cannot_claim_to_be_one_of_us_or_somebody_else() {
        let mut map = headers(&[
            ("phase6-internal", "guess"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.2.3.4"),
            ("host", "a"),
            ("x-request-id", "kept"),
        ]);
        strip(&mut map, is_not_for_clients_to_say);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
    }
}
