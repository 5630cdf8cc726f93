//! Replies of Redis, of any bytes, to what reads them: the limiter's grants, stored answers, and the log of
//! what was forgotten. A reply that is none gives an error; none gives more tokens than were asked for, makes
//! a key wait for longer than ten seconds, gives an answer under another key, or an answer that the log forgets.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use libfuzzer_sys::fuzz_target;
use phase6_cache::{
    Entry, Key, Terms, fuzzing,
    judge::{Verdict, judge},
    rfc9111::{Storable, Wish},
};
use phase6_ratelimit::{
    Limit,
    escrow::{Grant, Told},
    lease::{Lease, Step},
};
use phase6_redis::{FromRedisValue, RedisError, Value};

const TERMS: Terms = Terms {
    ttl: Duration::from_secs(60),
    stale_while_revalidate: Duration::from_secs(10),
    stale_if_error: Duration::from_secs(20),
    max_entries: 100,
};

/// A lease whose reports are answered with these grants, one after another.
fn grants(reply: Value, asks: u32, replicas: u32) {
    let Ok(grants) = Vec::<Told>::from_redis_value(reply) else { return };
    let limit = Limit::new(100, 10.0);
    let mut lease = Lease::new(limit, 1);
    let mut now = 1_000_000_000;
    for told in grants.into_iter().take(16) {
        let mut needed = 0;
        for _ in 0..asks {
            needed += u32::from(lease.decide(&limit, now, || 2) == Step::Ask);
        }
        let report = lease.report(needed, replicas, now).expect("none is on its way");
        let (served, decision) = lease.granted(&Grant::from(told), now + 1_000_000);
        assert!(served <= needed && decision.is_admitted());
        let mut spent = served;
        for later in [1, 200, 2_000] {
            for _ in 0..500 {
                let step = lease.decide(&limit, now + later * 1_000_000, || 2);
                spent += u32::from(matches!(step, Step::Decided(decision) if decision.is_admitted()));
            }
        }
        assert!(spent <= report.held + report.wanted, "{spent} spent of {report:?}, answered {told:?}");
        // Whatever it said, a key waits for ten seconds at most.
        now += 12_000_000_000;
        assert_eq!(lease.decide(&limit, now, || 2), Step::Ask, "answered {told:?}");
    }
}

/// What is stored under a key.
fn stored(reply: Value) {
    let key = Key { tenant: "alice".into(), uri: "/a?b".into() };
    let now_ms = 1_000_000;
    let Some((entry, place)) = fuzzing::looked(reply, &key, now_ms) else { return };
    assert!(entry.key == key && entry.made_at_ms <= now_ms);
    let verdict = judge(
        &entry.storable,
        entry.is_negative(),
        entry.jitter,
        entry.age(now_ms),
        &TERMS,
        &Wish::default(),
    );
    if let Verdict::Fresh { left } = verdict {
        assert!(left <= TERMS.ttl, "no answer says that it is fresh for longer than the policy does");
    }
    let kept = Duration::from_secs(60);
    let bytes = fuzzing::written(&entry, place, kept);
    let reply = answer(bytes, kept.as_millis() as i64);
    let (again, at) = fuzzing::looked(reply, &key, now_ms).expect("what is written can be read");
    assert_eq!((again.body, again.headers, again.status), (entry.body, entry.headers, entry.status));
    assert_eq!((again.storable, again.tags, at), (entry.storable, entry.tags, place));
}

/// The log of what was forgotten.
fn log(reply: Value) {
    let entry = Entry {
        key: Key { tenant: "".into(), uri: "/a/b?c".into() },
        vary: vec![],
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        storable: Storable {
            lifetime: None,
            max_age: None,
            public: false,
            must_revalidate: false,
            stale_while_revalidate: None,
            stale_if_error: None,
            age: Duration::ZERO,
            vary: vec![],
        },
        made_at_ms: 0,
        jitter: 1.0,
        tags: vec!["red".into()],
        label: Box::default(),
    };
    if let Some((remembered, said)) = fuzzing::forgotten(reply, &entry) {
        assert_eq!(remembered, said, "what was said to be forgotten is, and nothing else");
    }
}

/// As `read.lua` gives a stored answer.
fn answer(bytes: Vec<u8>, left_ms: i64) -> Value {
    Value::Array(vec![Value::BulkString(bytes), Value::Int(left_ms), Value::Array(vec![]), Value::Int(0)])
}

/// Lines of an id and what was said, as entries of the log.
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
        b's' => stored(answer(data.to_vec(), 30_000)),
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
