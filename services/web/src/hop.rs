//! What belongs to one connection and does not cross to the other (RFC 9110, section 7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, EXPECT, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
        TRANSFER_ENCODING, UPGRADE, VIA,
    },
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const OWN_VIA: HeaderValue = HeaderValue::from_static("1.1 phase6");

/// Removes what was meant for one connection only, and what `Connection` names besides.
pub(crate) fn remove(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Removes what a client may not say to our services, and what this hop says itself.
pub(crate) fn remove_claims(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("phase6-") || name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
    // The interim answer to `Expect` is given by this hop.
    for name in [FORWARDED, HOST, EXPECT] {
        headers.remove(name);
    }
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
        remove(&mut map);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-kept"]);
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
        remove_claims(&mut map);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
    }
}
