//! The sender of a request: its principal, and its address.
//!
//! A forwarded address counts only if it comes from a trusted proxy or from one of our own services, and is
//! read from the right: headers that a client writes never change its identity.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};
use ipnet::IpNet;
use jiff::Timestamp;
use phase6_identity::{Authentication, InternalToken, Keys, Principal};

/// Carries the assertion by which one of our own services names the principal of its request.
pub const INTERNAL: HeaderName = HeaderName::from_static("phase6-internal");
/// Carries the addresses of the client and of the proxies before the last one.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Forwarded addresses that are read, from the right.
const MAX_FORWARDED_HOPS: usize = 16;

/// Sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Principal on whose behalf the request is sent, unless its credentials are missing or unknown.
    pub authentication: Authentication,
    /// True if one of our own services sent the request.
    pub internal: bool,
    /// True if the request has credentials, valid or not.
    pub has_credentials: bool,
    /// Address of the client.
    pub address: IpAddr,
}

impl Caller {
    /// Returns the principal of an authenticated request.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.authentication {
            Authentication::Principal(principal) => Some(principal),
            Authentication::Rejected | Authentication::Unavailable => None,
        }
    }
}

/// Credentials and proxies by which callers are identified.
#[derive(Clone)]
pub struct Access {
    /// Accepted API keys.
    pub keys: Keys,
    /// Token of our own services.
    pub internal: InternalToken,
    /// Networks of proxies whose forwarded addresses count.
    pub trusted_proxies: Vec<IpNet>,
}

impl Access {
    /// Requires no key and trusts no proxy.
    pub fn open() -> Self {
        Self { keys: Keys::none(), internal: InternalToken::random(), trusted_proxies: vec![] }
    }

    /// Identifies the sender of a request with these headers over a connection from `peer`.
    pub fn caller(&self, peer: SocketAddr, headers: &HeaderMap) -> Caller {
        let key = presented_key(headers);
        let asserted = headers.get(INTERNAL).and_then(|given| self.internal.verify(given, Timestamp::now()));
        let internal = asserted.is_some();
        // A service that still admits everybody may pass on what this one must not admit any more.
        let named = asserted.filter(|principal| !principal.is_anonymous());
        let authentication = named.map_or_else(|| self.keys.authenticate(key), Authentication::Principal);
        let peer = peer.ip().to_canonical();
        let address =
            if internal || self.trusts(peer) { self.forwarded(headers).unwrap_or(peer) } else { peer };
        Caller {
            authentication,
            internal,
            has_credentials: key.is_some() || headers.contains_key(AUTHORIZATION),
            address,
        }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// Returns the right-most forwarded address that is not a trusted proxy. The header `Forwarded` is not
    /// read: a proxy may set only one of the two, and pass on the other one from the client.
    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let values: Vec<&str> = headers
            .get_all(&X_FORWARDED_FOR)
            .iter()
            .map(|value| value.to_str().unwrap_or_default())
            .collect();
        let mut last = None;
        for hop in values.iter().rev().flat_map(|value| value.rsplit(',')).take(MAX_FORWARDED_HOPS) {
            let Some(address) = parse_hop(hop.trim()) else { return last };
            last = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        last
    }
}

/// Parses an address as proxies write it, with or without a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').split(']').next().unwrap_or_default();
    let address =
        bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// Returns the API key of a request.
fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(X_API_KEY) {
        return Some(key.as_bytes());
    }
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use phase6_identity::{Digest, KeyFile, Role};
    use proptest::prelude::*;

    use super::*;

    fn peer(text: &str) -> SocketAddr {
        format!("{text}:1000").parse().unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn caller(access: &Access, address: &str, headers: &HeaderMap) -> Caller {
        access.caller(peer(address), headers)
    }

    fn behind_proxy() -> Access {
        Access { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Access::open() }
    }

    #[test]
    fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
        let forwarded = headers(&[("x-forwarded-for", "203.0.113.7")]);
        assert_eq!(caller(&behind_proxy(), "192.0.2.1", &forwarded).address.to_string(), "192.0.2.1");
        assert_eq!(caller(&behind_proxy(), "10.1.1.1", &forwarded).address.to_string(), "203.0.113.7");
    }

    #[test]
    fn forwarded_addresses_are_read_from_the_right() {
        let chain = headers(&[
            ("x-forwarded-for", "1.1.1.1, 203.0.113.7, 10.0.0.9"),
            ("x-forwarded-for", "10.0.0.8"),
        ]);
        assert_eq!(caller(&behind_proxy(), "10.1.1.1", &chain).address.to_string(), "203.0.113.7");
        let junk = headers(&[("x-forwarded-for", "not an address, 10.0.0.9")]);
        assert_eq!(caller(&behind_proxy(), "10.1.1.1", &junk).address.to_string(), "10.0.0.9");
        let port = headers(&[("x-forwarded-for", "203.0.113.7:4711")]);
        assert_eq!(caller(&behind_proxy(), "10.1.1.1", &port).address.to_string(), "203.0.113.7");
        let six = headers(&[("x-forwarded-for", "[2001:db8::1]:4711")]);
        assert_eq!(caller(&behind_proxy(), "10.1.1.1", &six).address.to_string(), "2001:db8::1");
    }

    proptest! {
        #[test]
        fn headers_from_a_client_never_change_its_identity(written in "[0-9a-f.:, \\[\\]]{0,60}") {
            let access = behind_proxy();
            let honest = caller(&access, "10.1.1.1", &headers(&[("x-forwarded-for", "203.0.113.7")]));
            let spoofed = format!("{written}, 203.0.113.7");
            let lying = caller(&access, "10.1.1.1", &headers(&[("x-forwarded-for", &spoofed)]));
            prop_assert_eq!(honest.address, lying.address);
        }
    }

    #[test]
    fn our_own_services_name_the_principal_of_their_requests() {
        let access = Access::open();
        let ada = Principal {
            tenant: "acme".parse().unwrap(),
            subject: "ada".parse().unwrap(),
            role: Role::Reader,
        };
        let mut internal_headers = headers(&[("x-forwarded-for", "203.0.113.7")]);
        internal_headers.insert(INTERNAL, access.internal.sign(&ada, Timestamp::now()));
        let caller = access.caller(peer("127.0.0.1"), &internal_headers);
        assert!(caller.internal);
        assert_eq!(caller.principal(), Some(&ada));
        assert_eq!(caller.address.to_string(), "203.0.113.7");
        internal_headers.insert(INTERNAL, InternalToken::random().sign(&ada, Timestamp::now()));
        let caller = access.caller(peer("127.0.0.1"), &internal_headers);
        assert!(!caller.internal);
        assert_eq!(caller.principal(), Some(&Principal::anonymous()), "no key is required");
        assert_eq!(caller.address.to_string(), "127.0.0.1");
    }

    #[test]
    fn where_keys_are_required_another_service_cannot_vouch_for_an_anonymous_caller() {
        let mut file = KeyFile::default();
        file.add(Principal::service("web"), Digest::of(b"a-key"));
        let access = Access { keys: Keys::fixed(file), ..Access::open() };
        let mut asserted = headers(&[]);
        asserted.insert(INTERNAL, access.internal.sign(&Principal::anonymous(), Timestamp::now()));
        let refused = caller(&access, "127.0.0.1", &asserted);
        assert_eq!((refused.internal, refused.authentication), (true, Authentication::Rejected));
        asserted.insert(X_API_KEY, HeaderValue::from_static("a-key"));
        assert_eq!(caller(&access, "127.0.0.1", &asserted).principal(), Some(&Principal::service("web")));
    }

    #[test]
    fn an_api_key_is_read_from_either_header() {
        let key = |pairs: &[(&'static str, &str)]| {
            presented_key(&headers(pairs)).map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        assert_eq!(key(&[("x-api-key", "b-key")]).as_deref(), Some("b-key"));
        assert_eq!(key(&[("authorization", "Bearer a-key")]).as_deref(), Some("a-key"));
        assert_eq!(key(&[("authorization", "bearer a-key")]).as_deref(), Some("a-key"));
        assert_eq!(key(&[("authorization", "Basic a-key")]), None);
        assert_eq!(key(&[]), None);
    }
}
