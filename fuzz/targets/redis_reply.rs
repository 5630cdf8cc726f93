//! Replies of Redis, of any bytes, to what reads them: the limiter's grants, stored answers, and the log of
//! what was forgotten. A reply that is none gives an error; none gives more tokens than were asked for, makes
//! a key wait for longer than ten seconds, gives an answer under another key, or an answer that the log forgets.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;
use phase6_cache::{
    CachePolicy, Entry, Key,
    freshness::Freshness,
    fuzzing,
    rfc9111::{RequestDirectives, ResponseDirectives},
};
use phase6_ratelimit::{
    Limit,
    escrow::{Grant, GrantReply},
    lease::{Lease, LeaseDecision},
};
use phase6_redis::{FromRedisValue, RedisError, Value};

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_secs(60),
    stale_while_revalidate: Duration::from_secs(10),
    stale_if_error: Duration::from_secs(20),
    max_entries: 100,
};

/// A lease whose reports are answered with these grants, one after another.
fn grants(reply: Value, asks: u32, replicas: u32) {
    let Ok(grants) = Vec::<GrantReply>::from_redis_value(reply) else { return };
    let limit = Limit::new(100, 10.0);
    let mut lease = Lease::new(limit, 1);
    let mut now = 1_000_000_000;
    for told in grants.into_iter().take(16) {
        let mut needed = 0;
        for _ in 0..asks {
            needed += u32::from(lease.decide(&limit, now, || 2) == LeaseDecision::Unknown);
        }
        let report = lease.report(needed, replicas, now).expect("none is on its way");
        let served = lease.apply_grant(&Grant::from(told), now + 1_000_000);
        assert!(served.requests <= needed && served.decision.is_admitted());
        let mut spent = served.requests;
        for later in [1, 200, 2_000] {
            for _ in 0..500 {
                let decision = lease.decide(&limit, now + later * 1_000_000, || 2);
                spent +=
                    u32::from(matches!(decision, LeaseDecision::Decided(decision) if decision.is_admitted()));
            }
        }
        assert!(spent <= report.leased + report.wanted, "{spent} spent of {report:?}, answered {told:?}");
        // Whatever it said, a key waits for ten seconds at most.
        now += 12_000_000_000;
        assert_eq!(lease.decide(&limit, now, || 2), LeaseDecision::Unknown, "answered {told:?}");
    }
}

/// A stored response: none under another key, none from the future, none that stays fresh for longer than the policy
/// allows, and each survives a round trip.
fn stored(reply: Value) {
    let key = Key { tenant: "alice".into(), uri: "/a?b".into() };
    let now_ms = 1_000_000;
    let Some(read) = fuzzing::decode_lookup_reply(reply, &key, now_ms) else { return };
    let entry = read.entry;
    assert!(entry.key == key && entry.fetch_started_at_ms <= now_ms);
    if let Freshness::Fresh { left } = entry.freshness(&POLICY, &RequestDirectives::default(), now_ms) {
        assert!(left <= POLICY.ttl, "no response is fresh for longer than the policy allows");
    }
    let max_age = Duration::from_secs(60);
    let bytes = fuzzing::encode_response(&entry, read.log_offset, max_age);
    let reply = lookup_reply(bytes, max_age.as_millis() as i64);
    let again =
        fuzzing::decode_lookup_reply(reply, &key, now_ms).expect("an encoded response can be decoded");
    assert_eq!(again.log_offset, read.log_offset);
    let again = again.entry;
    assert_eq!((again.body, again.headers, again.status), (entry.body, entry.headers, entry.status));
    assert_eq!((again.directives, again.tags), (entry.directives, entry.tags));
}

/// The invalidation log: the index of its records agrees with a scan of them.
fn log(reply: Value) {
    let entry = Entry {
        key: Key { tenant: "".into(), uri: "/a/b?c".into() },
        vary: vec![],
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        directives: ResponseDirectives {
            lifetime: None,
            max_age: None,
            public: false,
            must_revalidate: false,
            stale_while_revalidate: None,
            stale_if_error: None,
            received_age: Duration::ZERO,
            vary: vec![],
        },
        fetch_started_at_ms: 0,
        jitter: 1.0,
        tags: vec!["red".into()],
        label: Box::default(),
    };
    if let Some(check) = fuzzing::check_log(reply, &entry) {
        assert_eq!(check.by_index, check.by_scan, "{check:?}");
    }
}

/// Reply of `lookup.lua` with a stored response.
fn lookup_reply(bytes: Vec<u8>, ttl_ms: i64) -> Value {
    Value::Array(vec![Value::BulkString(bytes), Value::Int(ttl_ms), Value::Array(vec![]), Value::Int(0)])
}

/// Lines of an id and a text, as records of the invalidation log.
fn entries(text: &[u8]) -> Value {
    let word = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
    let entries = text.split(|byte| *byte == b'\n').take(100).map(|line| {
        let end = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (id, what) = line.split_at(end);
        let fields = [b"o", &b"x"[..], b"w", what.get(1..).unwrap_or_default()].map(word);
        Value::Array(vec![word(id), Value::Array(fields.to_vec())])
    });
    Value::Array(entries.collect())
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let reply = || redis::parse_redis_value(data).ok();
    match kind {
        b's' => stored(lookup_reply(data.to_vec(), 30_000)),
        b'l' => log(entries(data)),
        b'S' => drop(reply().map(stored)),
        b'L' => drop(reply().map(log)),
        kind => {
            let Some(reply) = reply() else { return };
            if let Err(error) = reply.clone().extract_error() {
                let told = RedisError::from(error);
                assert!(!matches!(told, RedisError::Unavailable | RedisError::TimedOut), "it has answered");
            }
            grants(reply, u32::from(kind % 16), u32::from(kind / 16));
        }
    }
});
