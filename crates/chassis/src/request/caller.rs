//! The caller of a request: the owner of an API key, one of our own services, or an address.
//!
//! A forwarded address counts only if it comes from a trusted proxy or from one of our own services, and is
//! read from the right: headers that a client writes never change its identity.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use ipnet::IpNet;
use phase6_telemetry::Sampler;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ApiKeys;

/// Carries the token by which our own services authenticate to each other.
pub const INTERNAL: HeaderName = HeaderName::from_static("phase6-internal");
/// Carries the addresses of the client and of the proxies before the last one.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Forwarded addresses that are read, from the right.
const MAX_FORWARDED_HOPS: usize = 16;

/// Identity of a request's sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Owner of the API key of the request, if it has a valid one.
    pub owner: Option<Arc<str>>,
    /// True if one of our own services sent the request.
    pub internal: bool,
    /// True if the request has credentials, valid or not.
    pub has_credentials: bool,
    /// Address of the client.
    pub address: IpAddr,
}

/// Secret that our own services share. `Debug` does not show it.
#[derive(Clone)]
pub struct InternalToken(HeaderValue);

impl InternalToken {
    /// Shortest accepted token, in characters.
    pub const MIN_LENGTH: usize = 16;

    /// Creates a random token.
    pub fn random() -> Self {
        let text = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        Self::new(&text).expect("hexadecimal digits can be sent in a header")
    }

    /// Creates a token from configuration; `None` if it is shorter than 16 characters, or has others than visible
    /// ASCII characters.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let is_valid = text.len() >= Self::MIN_LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value = HeaderValue::from_str(text).ok().filter(|_| is_valid)?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// Returns the token as a header value, which is marked as sensitive.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// Returns the sampler of traces. Services that share this token sample the same traces.
    pub(crate) fn sampler(&self) -> Sampler {
        let digest = Sha256::digest(format!("sampling:{:?}", self.0.as_bytes()));
        Sampler::new(u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes")))
    }

    fn matches(&self, given: &HeaderValue) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

impl fmt::Debug for InternalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalToken(...)")
    }
}

/// Credentials and proxies by which callers are identified.
#[derive(Clone, Debug)]
pub struct Access {
    /// Accepted API keys. If empty, no key is required.
    pub keys: ApiKeys,
    /// Token of our own services.
    pub internal: InternalToken,
    /// Networks of proxies whose forwarded addresses count.
    pub trusted_proxies: Vec<IpNet>,
}

impl Access {
    /// Requires no key and trusts no proxy.
    pub fn open() -> Self {
        Self { keys: ApiKeys::default(), internal: InternalToken::random(), trusted_proxies: vec![] }
    }

    /// Identifies the sender of a request with these headers over a connection from `peer`.
    pub fn caller(&self, peer: SocketAddr, headers: &HeaderMap) -> Caller {
        let internal = headers.get(INTERNAL).is_some_and(|given| self.internal.matches(given));
        let key = presented_key(headers);
        let owner = match key {
            Some(key) if !self.keys.is_empty() => self.keys.owner(key).cloned(),
            _ => None,
        };
        let peer = peer.ip().to_canonical();
        let address =
            if internal || self.trusts(peer) { self.forwarded(headers).unwrap_or(peer) } else { peer };
        Caller {
            owner,
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

    fn behind_proxy() -> Access {
        Access { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Access::open() }
    }

    #[test]
    fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
        let forwarded = headers(&[("x-forwarded-for", "203.0.113.7")]);
        assert_eq!(behind_proxy().caller(peer("192.0.2.1"), &forwarded).address.to_string(), "192.0.2.1");
        assert_eq!(behind_proxy().caller(peer("10.1.1.1"), &forwarded).address.to_string(), "203.0.113.7");
    }

    #[test]
    fn forwarded_addresses_are_read_from_the_right() {
        let chain = headers(&[
            ("x-forwarded-for", "1.1.1.1, 203.0.113.7, 10.0.0.9"),
            ("x-forwarded-for", "10.0.0.8"),
        ]);
        assert_eq!(behind_proxy().caller(peer("10.1.1.1"), &chain).address.to_string(), "203.0.113.7");
        let junk = headers(&[("x-forwarded-for", "not an address, 10.0.0.9")]);
        assert_eq!(behind_proxy().caller(peer("10.1.1.1"), &junk).address.to_string(), "10.0.0.9");
        let port = headers(&[("x-forwarded-for", "203.0.113.7:4711")]);
        assert_eq!(behind_proxy().caller(peer("10.1.1.1"), &port).address.to_string(), "203.0.113.7");
        let six = headers(&[("x-forwarded-for", "[2001:db8::1]:4711")]);
        assert_eq!(behind_proxy().caller(peer("10.1.1.1"), &six).address.to_string(), "2001:db8::1");
    }

    proptest! {
        #[test]
        fn headers_from_a_client_never_change_its_identity(written in "[0-9a-f.:, \\[\\]]{0,60}") {
            let access = behind_proxy();
            let honest = access.caller(peer("10.1.1.1"), &headers(&[("x-forwarded-for", "203.0.113.7")]));
            let spoofed = format!("{written}, 203.0.113.7");
            let lying = access.caller(peer("10.1.1.1"), &headers(&[("x-forwarded-for", &spoofed)]));
            prop_assert_eq!(honest.address, lying.address);
        }
    }

    #[test]
    fn our_own_services_are_identified_by_their_token() {
        let access = Access::open();
        let mut internal_headers = headers(&[("x-forwarded-for", "203.0.113.7")]);
        internal_headers.insert(INTERNAL, access.internal.header());
        let caller = access.caller(peer("127.0.0.1"), &internal_headers);
        assert!(caller.internal);
        assert_eq!(caller.address.to_string(), "203.0.113.7");
        internal_headers.insert(INTERNAL, InternalToken::random().header());
        let caller = access.caller(peer("127.0.0.1"), &internal_headers);
        assert!(!caller.internal);
        assert_eq!(caller.address.to_string(), "127.0.0.1");
    }

    #[test]
    fn an_api_key_identifies_its_owner() {
        let keys: ApiKeys = format!(
            "# two owners\n{}\n\n{} # a comment\n",
            ApiKeys::line("alice", "a-key"),
            ApiKeys::line("bob", "b-key")
        )
        .parse()
        .unwrap();
        let access = Access { keys, ..Access::open() };
        let owner = |pairs: &[(&'static str, &str)]| access.caller(peer("127.0.0.1"), &headers(pairs)).owner;
        assert_eq!(owner(&[("x-api-key", "b-key")]).as_deref(), Some("bob"));
        assert_eq!(owner(&[("authorization", "Bearer a-key")]).as_deref(), Some("alice"));
        assert_eq!(owner(&[("authorization", "Basic a-key")]), None);
        assert_eq!(owner(&[("x-api-key", "c-key")]), None);
        assert_eq!(owner(&[]), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let token = InternalToken::new("0123456789abcdef0123").unwrap();
        assert!(
            !format!("{token:?}{:?}", Access { internal: token.clone(), ..Access::open() })
                .contains("0123456789")
        );
        for invalid in ["short", "sixteen letters and spaces", "sixteen-letters-\u{e9}"] {
            assert!(InternalToken::new(invalid).is_none(), "{invalid}");
        }
    }
}
