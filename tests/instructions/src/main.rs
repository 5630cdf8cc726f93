//! Calls one hot path a given number of times: `instructions NAME CALLS`. Without arguments, prints the name
//! of each hot path and the number of calls to measure it with, one per line.
//!
//! `cargo xtask instructions` runs it under callgrind twice, with that number of calls and with twice as
//! many: the difference is the cost of the calls, without that of the setup. A hot path must therefore be in
//! one steady state after its setup, however many calls follow, and use one thread and the same keys in the
//! same order.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::{
    convert::Infallible,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use foldhash::quality::FixedState;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use phase6_breaker::{Breaker, Outcome, Settings};
use phase6_cache::{Cache, CachePolicy, Client, HttpCacheLayer};
use phase6_live::Live;
use phase6_policy::{CircuitBreaker, PolicyDocument, Tracing};
use phase6_ratelimit::{
    Backend, Limit, Limits, LocalBuckets, Owner,
    escrow::Grant,
    lease::{Lease, LeaseDecision},
};
use phase6_telemetry::{
    Exchange, RequestAccessors, RequestTelemetryLayer, Sampler, Telemetry, context::TRACEPARENT,
};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A hot path whose instructions are counted.
struct HotPath {
    name: &'static str,
    /// Number of calls to measure with. High enough that variation in the setup, where hash tables are seeded
    /// differently in each process, does not show.
    calls: u64,
    /// Runs the setup and then the given number of calls.
    run: fn(u64),
}

const HOT_PATHS: [HotPath; 6] = [
    HotPath { name: "limit-local", calls: 20_000, run: limit_local },
    HotPath { name: "limit-leased", calls: 20_000, run: limit_leased },
    HotPath { name: "breaker", calls: 20_000, run: breaker },
    HotPath { name: "cache-hit", calls: 100_000, run: cache_hit },
    HotPath { name: "telemetry-unsampled", calls: 10_000, run: telemetry_unsampled },
    HotPath { name: "policy-parse", calls: 1_000, run: policy_parse },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let selection = match arguments.as_slice() {
        [] => {
            for HotPath { name, calls, .. } in HOT_PATHS {
                println!("{name} {calls}");
            }
            return ExitCode::SUCCESS;
        }
        [name, calls] => HOT_PATHS.iter().find(|hot_path| hot_path.name == name).zip(calls.parse().ok()),
        _ => None,
    };
    let Some((hot_path, calls)) = selection else {
        eprintln!("usage: instructions [NAME CALLS]");
        return ExitCode::from(2);
    };
    (hot_path.run)(calls);
    ExitCode::SUCCESS
}

/// Rate-limit decision in memory for one of a thousand clients: selects the rule and the bucket, and takes a
/// token.
fn limit_local(calls: u64) {
    let policy = serde_json::json!({"capacity": 1_000_000, "refillPerSecond": 1000});
    let policy = serde_json::from_value(policy).expect("a valid policy");
    let (limits, buckets) = (Limits::new(&policy, 1, false), LocalBuckets::with_capacity(10_000));
    let names: Vec<String> = (0..1_000).map(|number| format!("customer-{number:06}")).collect();
    let (hasher, address) = (FixedState::default(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let decide = |name: &String| {
        let rule = limits.rule("GET", "/api/v1/budget");
        let bucket = limits.bucket(
            rule,
            Some(Owner { tenant: "default", subject: black_box(name) }),
            address,
            |_| None,
            &hasher,
        );
        let _ = black_box(buckets.decide(&bucket, &rule.config));
    };
    for name in &names {
        decide(name);
    }
    for (_, name) in (0..calls).zip(names.iter().cycle()) {
        decide(name);
    }
}

/// Rate-limit decision on a shared bucket by a replica that leases tokens of it.
fn limit_leased(calls: u64) {
    const TOKENS: u32 = 100_000;
    let limit = Limit::new(1_000_000, 1_000.0);
    let mut lease = Lease::new(limit, 1);
    for _ in 0..TOKENS {
        let _ = lease.decide(&limit, 1, || 2);
    }
    let wanted = lease.report(0, 1, 1).map_or(0, |report| report.wanted);
    lease.apply_grant(&Grant { tokens: wanted, ..Grant::default() }, 1);
    for now in 1..=calls {
        let decision = lease.decide(black_box(&limit), now, || 2);
        assert!(
            matches!(decision, LeaseDecision::Decided(decision) if decision.is_admitted()),
            "{wanted} tokens are leased"
        );
    }
}

/// Successful call through a closed breaker.
fn breaker(calls: u64) {
    let breaker = Breaker::new("peer", Live::new(Settings::from(&CircuitBreaker::default())));
    for _ in 0..calls {
        match breaker.admit() {
            Ok(permit) => permit.record(black_box(Outcome::Success)),
            Err(rejection) => unreachable!("{rejection}"),
        }
    }
}

/// Lookup of a fresh response in memory, one of five hundred: their positions in the hash table differ
/// between processes, but the mean over so many does not.
fn cache_hit(calls: u64) {
    const POLICY: CachePolicy = CachePolicy {
        ttl: Duration::from_hours(1),
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        max_entries: 10_000,
    };
    const ACCESSORS: phase6_cache::Accessors = phase6_cache::Accessors {
        policy: |_| Some(&POLICY),
        client: |_| Client { tenant: "", has_credentials: false },
        label: |_| Box::default(),
        set_label: |_, _| {},
    };
    let cache = Cache::with_manual_clock(None, Arc::new(AtomicU64::new(1)));
    let target = |number: u32| -> Uri { format!("/api/v1/cohort-{number:05}").parse().expect("a path") };
    let targets: Vec<Uri> = (0..500).map(target).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for target in &targets {
        let handler = service_fn(|_: Request<Full<Bytes>>| {
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"answer")))))
        });
        let mut request = Request::new(Full::default());
        *request.uri_mut() = target.clone();
        let Ok(_) = runtime
            .block_on(HttpCacheLayer::new(cache.clone(), "count", ACCESSORS).layer(handler).oneshot(request));
    }
    let headers = HeaderMap::new();
    for (_, target) in (0..calls).zip(targets.iter().cycle()) {
        assert!(cache.get_fresh("", black_box(target), &headers, &POLICY).is_some(), "it was stored");
    }
}

/// Unsampled request with a `traceparent` header.
fn telemetry_unsampled(calls: u64) {
    const ACCESSORS: RequestAccessors = RequestAccessors {
        tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref),
        trusted: |_| false,
    };
    let telemetry = Telemetry::new("count", Sampler::new(1), None);
    telemetry.metrics().declare_routes(["/api/v1/budget".to_owned()]);
    let route = telemetry.metrics().route("/api/v1/budget");
    // An hour, so that no request counts as slow under callgrind.
    let keep_slower_than = phase6_policy::Duration::from_secs(3_600);
    let policy = Arc::new(Tracing { sampling_rate: 0.0, keep_slower_than, ..Tracing::default() });
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let handler = move |request: Request<()>| {
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>() {
            exchange.set_route(route);
        }
        std::future::ready(Ok::<_, Infallible>(Response::new(())))
    };
    let mut service = RequestTelemetryLayer::new(telemetry, ACCESSORS).layer(service_fn(handler));
    for _ in 0..calls {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        request.headers_mut().insert(TRACEPARENT, parent.clone());
        let response = service.call(black_box(request)).now_or_never();
        let _ = black_box(response.expect("the handler is ready at once"));
    }
}

/// Parsing of a compiled policy document.
fn policy_parse(calls: u64) {
    let document = serde_json::json!({
        "ownerUid": "0b0a8a2e", "revision": 7, "generation": 3, "hash": "0", "replicas": 2,
        "publishedAt": "2026-11-24T10:00:00Z",
        "policy": {
            "cache": {"ttl": "5s", "staleWhileRevalidate": "2s", "staleIfError": "1m30s", "maxEntries": 10_000},
            "rateLimit": {
                "capacity": 100, "refillPerSecond": 0.5, "key": "Header", "headerName": "X-Team",
                "overrides": [{"match": {"path": "/api/v1/*", "method": "POST"}, "capacity": 10, "refillPerSecond": 1}]
            },
            "tracing": {"samplingRate": 0.15, "targetSpansPerSecond": 50, "keepErrors": true, "keepSlowerThan": "500ms"},
            "circuitBreaker": {
                "failureRatio": 0.5, "minimumCalls": 10, "window": "10s", "openFor": "30s", "halfOpenProbes": 1
            },
        },
    });
    let text = document.to_string();
    for _ in 0..calls {
        let document: Result<PolicyDocument, _> = serde_json::from_slice(black_box(text.as_bytes()));
        assert!(document.is_ok_and(|document| document.revision == 7), "the document was parsed");
    }
}
