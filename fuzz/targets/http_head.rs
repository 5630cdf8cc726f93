//! Arbitrary bytes on a connection, and the request heads in them: identity of the caller, bucket of the limiter,
//! and decisions of the cache.
//!
//! Every response is well-formed HTTP, and that to malformed input has the common error envelope. No header of
//! an untrusted client gives it another identity, and no further `Cache-Control` line makes the cache store more
//! or reuse a response for longer.

#![no_main]

use std::{
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, SET_COOKIE, VARY},
};
use libfuzzer_sys::fuzz_target;
use phase6_cache::{
    CachePolicy,
    freshness::{Freshness, freshness},
    rfc9111::{CacheControl, RequestDirectives, ResponseDirectives, storable},
};
use phase6_chassis::{
    Access, Principal, Role, X_FORWARDED_FOR,
    fuzzing::connection,
    identity::{Digest, InternalToken, KeyFile, Keys},
};
use phase6_ratelimit::Limits;
use serde_json::json;

const TOKEN: &str = "internal-token-of-the-fuzzer";
const KEYS: [(&str, &str); 2] = [("alice", "a-key"), ("bob", "b-key")];

static ACCESS: LazyLock<Access> = LazyLock::new(|| {
    let mut file = KeyFile::default();
    for (name, key) in KEYS {
        let subject = name.parse().expect("a name");
        let principal = Principal { tenant: Principal::default_tenant(), subject, role: Role::Member };
        file.add(principal, Digest::of(key.as_bytes()));
    }
    Access {
        keys: Keys::fixed(file),
        internal: InternalToken::new(TOKEN).expect("it is long enough"),
        trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
    }
});
static LIMITS: LazyLock<Limits> = LazyLock::new(|| {
    let policy = json!({"capacity": 1, "refillPerSecond": 1, "key": "Header", "headerName": "x-team"});
    Limits::new(&serde_json::from_value(policy).expect("a policy"), 1, false)
});

/// Checks the responses: one to each request that was read, and at most one more, to malformed input.
fn responses(mut bytes: &[u8], requests: usize) {
    let mut successes = 0;
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let status = response.parse(bytes).expect("a well-formed head");
        let head = match status {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => panic!("an incomplete head"),
        };
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            header.map(|header| std::str::from_utf8(header.value).expect("text"))
        };
        let length = value("content-length").map_or(0, |length| length.parse().expect("a number"));
        let (body, rest) = bytes[head..].split_at_checked(length).expect("a complete body");
        match response.code {
            Some(100) => {}
            Some(200) => successes += 1,
            Some(400 | 414 | 431) => {
                let error: serde_json::Value = serde_json::from_slice(body).expect("the envelope");
                assert!(error["error"]["code"].is_string() && error["traceId"].is_string(), "{error}");
                assert!(
                    rest.is_empty() && value("connection") == Some("close"),
                    "the connection ends after an error"
                );
            }
            code => panic!("{code:?}"),
        }
        bytes = rest;
    }
    assert_eq!(successes, requests);
}

/// Checks the identity of the caller, and the bucket of the limiter.
fn caller(headers: &HeaderMap) {
    let peer = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let direct = ACCESS.caller(peer("192.0.2.1:1"), headers);
    assert!(!direct.internal, "nobody can sign an assertion without the token");
    assert_eq!(direct.address, peer("192.0.2.1:1").ip(), "a client cannot set its address");
    if let Some(principal) = direct.principal() {
        let key = KEYS.iter().find(|(name, _)| *name == principal.subject.as_str()).expect("a known name").1;
        assert!(direct.has_credentials);
        let mut values = headers.get_all("x-api-key").iter().chain(headers.get_all(AUTHORIZATION));
        assert!(
            values.any(|value| value.as_bytes().ends_with(key.as_bytes())),
            "a principal has sent its key"
        );
    }
    // The addresses that a trusted proxy appends count, regardless of those before them.
    let mut forwarded = headers.clone();
    forwarded.append(X_FORWARDED_FOR, HeaderValue::from_static("203.0.113.7, 10.9.9.9"));
    let proxied = ACCESS.caller(peer("10.1.1.1:1"), &forwarded);
    assert_eq!(proxied.address.to_string(), "203.0.113.7");
    assert_eq!(proxied.authentication, direct.authentication, "an address does not authenticate");

    let address = IpAddr::from([192, 0, 2, 1]);
    let rule = LIMITS.rule("GET", "/");
    let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
    let team = headers.get("x-team");
    let bucket = |team| LIMITS.bucket(rule, None, address, |_| team, &hasher).name();
    let other = HeaderValue::from_static("another-team");
    assert_eq!(bucket(team) == bucket(Some(&other)), team == Some(&other));
    assert_eq!(bucket(team) == bucket(None), team.is_none());
}

/// True if a cache may reuse the response `with` a further line for no longer than the one `without` it.
fn is_stricter(with: Option<&ResponseDirectives>, without: Option<&ResponseDirectives>) -> bool {
    let at_most = |a: Option<Duration>, b: Option<Duration>| b.is_none_or(|b| a.is_some_and(|a| a <= b));
    match (with, without) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(with), Some(without)) => {
            at_most(with.stale_if_error, without.stale_if_error)
                && at_most(with.stale_while_revalidate, without.stale_while_revalidate)
                && (with.must_revalidate || !without.must_revalidate)
                && with.received_age == without.received_age
        }
    }
}

/// Checks the decisions of the cache.
fn cache(headers: &HeaderMap) {
    let control = CacheControl::parse(headers);
    let none = CacheControl::default();
    let store =
        |has_credentials, headers: &HeaderMap| storable(&none, has_credentials, StatusCode::OK, headers);
    let stored = store(false, headers);
    if let Some(response) = &stored {
        let has = |directive: &str| {
            let mut lines = headers.get_all(CACHE_CONTROL).iter();
            lines.any(|line| line.as_bytes().trim_ascii().eq_ignore_ascii_case(directive.as_bytes()))
        };
        assert!(!["no-store", "no-cache", "private"].into_iter().any(has));
        assert!(!headers.contains_key(SET_COOKIE) && !headers.contains_key(CONTENT_RANGE));
        let vary = &response.vary;
        assert!(vary.is_sorted_by(|a, b| a.as_str() < b.as_str()) && !vary.contains(&AUTHORIZATION));
        for line in headers.get_all(VARY) {
            let mut names = line.as_bytes().split(|byte| *byte == b',');
            assert!(names.all(|name| name.trim_ascii() != b"*"), "no request matches `Vary: *`");
        }
        let request = RequestDirectives::parse(headers, &control);
        let policy = CachePolicy {
            ttl: Duration::from_secs(60),
            stale_while_revalidate: Duration::from_secs(5),
            stale_if_error: Duration::from_secs(7),
            max_entries: 1,
        };
        for age in [0, 1, 59, 60, 67] {
            let age = Duration::from_secs(age);
            let total = age + response.received_age;
            match freshness(response, false, 1.0, age, &policy, &request) {
                Freshness::Fresh { .. } => assert!(
                    total < policy.ttl
                        && !request.reload
                        && response.lifetime.is_none_or(|lifetime| total < lifetime)
                        && request.max_age.is_none_or(|max_age| total <= max_age)
                ),
                Freshness::StaleWhileRevalidate { .. } => {
                    assert!(total < Duration::from_secs(65) && !response.must_revalidate);
                }
                Freshness::StaleIfError { .. } => {
                    assert!(total < Duration::from_secs(67) && !response.must_revalidate);
                }
                Freshness::Expired => {}
            }
        }
    }
    assert!(is_stricter(store(true, headers).as_ref(), stored.as_ref()), "credentials allow nothing more");
    assert!(storable(&control, false, StatusCode::OK, headers).is_none() || !control.no_store);
    for line in ["max-age=5", "must-revalidate", "stale-if-error=1", "no-store", "s-maxage=0", "nonsense=\""]
    {
        let mut more = headers.clone();
        more.append(CACHE_CONTROL, HeaderValue::from_static(line));
        let with = store(false, &more);
        assert!(is_stricter(with.as_ref(), stored.as_ref()), "{line}");
        let limited = CacheControl::parse(&more);
        assert!(
            control.max_age.is_none_or(|before| limited.max_age.is_some_and(|max_age| max_age <= before)),
            "{line}"
        );
    }
}

fuzz_target!(|data: &[u8]| {
    let (heads, output) = connection(data);
    responses(&output, heads.len());
    for head in &heads {
        caller(&head.headers);
        cache(&head.headers);
    }
});
