//! Calls one core so many times: `instructions CORE TIMES`. Without CORE, names them and how many calls are
//! enough, one a line.
//!
//! Run by `cargo xtask instructions` under callgrind, once with so many calls and once with twice as many:
//! the difference is what the calls cost, whatever the start does. So a core has to be in the same state after
//! its start however many calls follow; one thread, and the same keys in the same order.

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
    Backend, Limit, Limits, Memory,
    escrow::Grant,
    lease::{Lease, Step},
};
use phase6_telemetry::{Ask, Exchange, Sampler, Telemetry, TelemetryLayer, context::TRACEPARENT};
use tower::{Layer, Service, ServiceExt, service_fn};

type Core = fn(u64);

/// With how many calls the start's own cost, which hash tables with another seed in each process make somewhat
/// different, is nothing beside theirs.
const CORES: [(&str, u64, Core); 6] = [
    ("limit-local", 20_000, limit_local),
    ("limit-leased", 20_000, limit_leased),
    ("breaker", 20_000, breaker),
    ("cache-hit", 100_000, cache_hit),
    ("telemetry-unsampled", 10_000, telemetry_unsampled),
    ("policy-parse", 1_000, policy_parse),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = match arguments.as_slice() {
        [] => {
            for (name, calls, _) in CORES {
                println!("{name} {calls}");
            }
            return ExitCode::SUCCESS;
        }
        [core, times] => CORES.iter().find(|(name, ..)| name == core).zip(times.parse().ok()),
        _ => None,
    };
    let Some(((.., core), times)) = asked else {
        eprintln!("usage: instructions [CORE TIMES]");
        return ExitCode::from(2);
    };
    core(times);
    ExitCode::SUCCESS
}

/// A decision about one of a thousand callers in memory: which rule, whose bucket, and whether it has a token.
fn limit_local(times: u64) {
    let policy = serde_json::json!({"capacity": 1_000_000, "refillPerSecond": 1000});
    let policy = serde_json::from_value(policy).expect("a valid policy");
    let (limits, memory) = (Limits::new(&policy, 1, false), Memory::with_room_for(10_000));
    let names: Vec<String> = (0..1_000).map(|number| format!("customer-{number:06}")).collect();
    let (hasher, address) = (FixedState::default(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let decide = |name: &String| {
        let rule = limits.rule("GET", "/api/v1/budget");
        let bucket = limits.bucket(rule, Some(black_box(name)), address, |_| None, &hasher);
        let _ = black_box(memory.decide(&bucket, &rule.terms));
    };
    for name in &names {
        decide(name);
    }
    for (_, name) in (0..times).zip(names.iter().cycle()) {
        decide(name);
    }
}

/// A decision about a shared bucket by a replica that holds tokens of it.
fn limit_leased(times: u64) {
    const TOKENS: u32 = 100_000;
    let limit = Limit::new(1_000_000, 1_000.0);
    let mut lease = Lease::new(limit, 1);
    for _ in 0..TOKENS {
        let _ = lease.decide(&limit, 1, || 2);
    }
    let wanted = lease.report(0, 1, 1).map_or(0, |report| report.wanted);
    lease.granted(&Grant { tokens: wanted, ..Grant::default() }, 1);
    for now in 1..=times {
        let step = lease.decide(black_box(&limit), now, || 2);
        assert!(
            matches!(step, Step::Decided(decision) if decision.is_admitted()),
            "{wanted} tokens are held"
        );
    }
}

/// A call that a closed breaker admits, and that succeeds.
fn breaker(times: u64) {
    let breaker = Breaker::new("peer", Live::new(Settings::from(&CircuitBreaker::default())));
    for _ in 0..times {
        match breaker.admit() {
            Ok(permit) => permit.end(black_box(Outcome::Success)),
            Err(refused) => unreachable!("{refused}"),
        }
    }
}

/// A fresh answer in memory, one of five hundred: where each of them lies is another in every process, and of so
/// many the mean is the same.
fn cache_hit(times: u64) {
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
    for (_, target) in (0..times).zip(targets.iter().cycle()) {
        assert!(cache.get_fresh("", black_box(target), &headers, &POLICY).is_some(), "it was stored");
    }
}

/// A request with a trace context that leaves no trace.
fn telemetry_unsampled(times: u64) {
    const ASK: Ask =
        Ask { tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref), trusted: |_| false };
    let telemetry = Telemetry::new("count", Sampler::new(1), None);
    telemetry.metrics().declare(["/api/v1/budget".to_owned()]);
    let route = telemetry.metrics().route("/api/v1/budget");
    // However slow it is under callgrind.
    let keep_slower_than = phase6_policy::Duration::from_secs(3_600);
    let policy = Arc::new(Tracing { sampling_rate: 0.0, keep_slower_than, ..Tracing::default() });
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let handler = move |request: Request<()>| {
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>() {
            exchange.set_route(route);
        }
        std::future::ready(Ok::<_, Infallible>(Response::new(())))
    };
    let mut service = TelemetryLayer::new(telemetry, ASK).layer(service_fn(handler));
    for _ in 0..times {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        request.headers_mut().insert(TRACEPARENT, parent.clone());
        let answer = service.call(black_box(request)).now_or_never();
        let _ = black_box(answer.expect("it is ready at once"));
    }
}

/// A compiled policy as a pod finds it.
fn policy_parse(times: u64) {
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
    for _ in 0..times {
        let document: Result<PolicyDocument, _> = serde_json::from_slice(black_box(text.as_bytes()));
        assert!(document.is_ok_and(|document| document.revision == 7), "the whole of it was read");
    }
}
