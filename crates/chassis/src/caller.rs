//! Who is asking: an API key's owner, one of our own services, or an address.
//!
//! A forwarded address counts only when it comes from a trusted proxy or from one of our own
//! services, and is read from the right: what a client writes itself never changes who it is.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, FORWARDED},
};
use ipnet::IpNet;
use phase6_telemetry::Sampler;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How our own services show each other that they are ours.
pub const INTERNAL: HeaderName = HeaderName::from_static("phase6-internal");
/// Who a proxy says that it speaks for.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Forwarded addresses that are looked at, from the right.
const MOST_HOPS: usize = 16;

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The owner of the API key that came with the request.
    pub owner: Option<Arc<str>>,
    /// Whether one of our own services passed the request on.
    pub internal: bool,
    /// Whether the request carried credentials, valid or not.
    pub credentials: bool,
    /// The client's address.
    pub address: IpAddr,
}

/// A secret that our own services share. Shown as dots.
#[derive(Clone)]
pub struct InternalToken(HeaderValue);

impl InternalToken {
    /// A new one.
    pub fn random() -> Self {
        let text = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        Self::new(&text).expect("hexadecimal digits")
    }

    /// One from configuration; none if it is too short to be a secret or no header value.
    pub fn new(text: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(text.trim()).ok().filter(|value| value.len() >= 16)?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// As it is sent.
    pub fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// By which services that know this secret choose the same traces.
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

/// The hashes of the API keys that are accepted, each with its owner.
#[derive(Clone, Default)]
pub struct ApiKeys {
    by_hash: Vec<([u8; 32], Arc<str>)>,
}

/// A line of a key file is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}; accepted: OWNER sha256:64-HEX-DIGITS")]
pub struct InvalidKeyLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl ApiKeys {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// The line of a key file for a key.
    pub fn line(owner: &str, key: &str) -> String {
        let digest = Sha256::digest(key.as_bytes());
        let digits: String = digest
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|n| char::from_digit(u32::from(n), 16).expect("a hexadecimal digit"))
            .collect();
        format!("{owner} sha256:{digits}")
    }

    /// The owner of a key. Every hash is compared, in constant time.
    fn owner(&self, key: &[u8]) -> Option<&Arc<str>> {
        let digest = Sha256::digest(key);
        self.by_hash.iter().fold(
            None,
            |found, (hash, owner)| {
                if bool::from(hash.ct_eq(&digest[..])) { Some(owner) } else { found }
            },
        )
    }
}

impl FromStr for ApiKeys {
    type Err = InvalidKeyLine;

    /// Reads a key file: lines of an owner and the SHA-256 of a key; `#` begins a comment.
    fn from_str(text: &str) -> Result<Self, InvalidKeyLine> {
        let mut by_hash = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let fault = |what| InvalidKeyLine { line: number + 1, what };
            let (owner, hash) =
                line.split_once(char::is_whitespace).ok_or(fault("there is only one word"))?;
            let digits = hash.trim().strip_prefix("sha256:").ok_or(fault("the hash is not sha256:..."))?;
            let mut bytes = [0; 32];
            if digits.len() != 64 || !digits.is_ascii() {
                return Err(fault("the hash has not 64 digits"));
            }
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16)
                    .map_err(|_| fault("the hash is not hexadecimal"))?;
            }
            by_hash.push((bytes, owner.into()));
        }
        Ok(Self { by_hash })
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({} owners)", self.by_hash.len())
    }
}

/// By what callers are recognised.
#[derive(Clone, Debug)]
pub struct Access {
    /// API keys; empty: nobody needs one.
    pub keys: ApiKeys,
    /// Our own services' secret.
    pub internal: InternalToken,
    /// Networks whose forwarded addresses count.
    pub trusted_proxies: Vec<IpNet>,
}

impl Access {
    /// Nobody needs a key and no proxy is trusted.
    pub fn open() -> Self {
        Self { keys: ApiKeys::default(), internal: InternalToken::random(), trusted_proxies: vec![] }
    }

    /// Who sent a request with these headers over a connection from `peer`.
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
        Caller { owner, internal, credentials: key.is_some() || headers.contains_key(AUTHORIZATION), address }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }

    /// The right-most forwarded address that is not itself a trusted proxy.
    fn forwarded(&self, headers: &HeaderMap) -> Option<IpAddr> {
        // Two ways to say it at once may disagree, and only one of them is read.
        if headers.contains_key(FORWARDED) && !headers.contains_key(&X_FORWARDED_FOR) {
            return None;
        }
        let values: Vec<&str> = headers
            .get_all(&X_FORWARDED_FOR)
            .iter()
            .map(|value| value.to_str().unwrap_or_default())
            .collect();
        let mut last = None;
        for hop in values.iter().rev().flat_map(|value| value.rsplit(',')).take(MOST_HOPS) {
            let Some(address) = parse_hop(hop.trim()) else { return last };
            last = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        last
    }
}

/// An address as proxies write it, with or without a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').split(']').next().unwrap_or_default();
    let address =
        bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical())
}

/// The API key that a request presents.
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
        fn what_a_client_writes_never_changes_who_it_is(written in "[0-9a-f.:, \\[\\]]{0,60}") {
            let access = behind_proxy();
            let honest = access.caller(peer("10.1.1.1"), &headers(&[("x-forwarded-for", "203.0.113.7")]));
            let spoofed = format!("{written}, 203.0.113.7");
            let lying = access.caller(peer("10.1.1.1"), &headers(&[("x-forwarded-for", &spoofed)]));
            prop_assert_eq!(honest.address, lying.address);
        }
    }

    #[test]
    fn our_own_services_are_known_by_their_token() {
        let access = Access::open();
        let mut ours = headers(&[("x-forwarded-for", "203.0.113.7")]);
        ours.insert(INTERNAL, access.internal.header());
        let caller = access.caller(peer("127.0.0.1"), &ours);
        assert!(caller.internal);
        assert_eq!(caller.address.to_string(), "203.0.113.7");
        ours.insert(INTERNAL, InternalToken::random().header());
        let caller = access.caller(peer("127.0.0.1"), &ours);
        assert!(!caller.internal);
        assert_eq!(caller.address.to_string(), "127.0.0.1");
    }

    #[test]
    fn a_key_names_its_owner() {
        let keys: ApiKeys = format!(
            "# two owners\n{}\n\n{} # his\n",
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
    fn a_bad_key_file_is_told_by_line() {
        let told = |text: &str| text.parse::<ApiKeys>().unwrap_err().to_string();
        assert_eq!(told("\nalice"), "line 2: there is only one word; accepted: OWNER sha256:64-HEX-DIGITS");
        assert!(told("alice md5:00").starts_with("line 1: the hash is not sha256:..."));
        assert!(told("alice sha256:00").contains("64 digits"));
        assert!(told(&format!("alice sha256:{}", "zz".repeat(32))).contains("not hexadecimal"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let token = InternalToken::new("0123456789abcdef0123").unwrap();
        assert!(
            !format!("{token:?}{:?}", Access { internal: token.clone(), ..Access::open() })
                .contains("0123456789")
        );
        assert!(InternalToken::new("short").is_none());
    }
}
