//! A request that is not sampled: where it stands in its trace, the decision, its ids.

use std::hint::black_box;

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{Sampler as Standard, SdkTracerProvider};
use phase6_policy::Tracing;
use phase6_telemetry::{Sampler, Telemetry, TraceContext, context::TRACEPARENT};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use crate::{Rival, compete};

const REQUESTS: u64 = 100_000;

pub fn run(rounds: usize) {
    let telemetry = Telemetry::new("bench", Sampler::new(1), None);
    let policy = Tracing { sampling_rate: 0.0, ..Tracing::default() };
    let alone = HeaderMap::new();
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    let joined: HeaderMap = [(TRACEPARENT, parent)].into_iter().collect();
    let ours = |headers: &HeaderMap| {
        for _ in 0..REQUESTS {
            let parent = TraceContext::from_headers(black_box(headers));
            black_box(telemetry.trace_context(parent, false, Some(&policy)));
        }
        REQUESTS
    };

    // As many services have it: none of those that begin here.
    let sampler = || Standard::ParentBased(Box::new(Standard::TraceIdRatioBased(0.0)));
    let provider = SdkTracerProvider::builder().with_sampler(sampler()).build();
    let tracer = provider.tracer("bench");
    let standard = || {
        for _ in 0..REQUESTS {
            tracer.start(black_box("GET /api/v1/budget")).end();
        }
        REQUESTS
    };

    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
    let subscriber = tracing::Dispatch::new(Registry::default().with(layer));
    let bridged = || {
        tracing::dispatcher::with_default(&subscriber, || {
            for _ in 0..REQUESTS {
                let span = tracing::info_span!("GET /api/v1/budget");
                let _entered = black_box(span.enter());
            }
        });
        REQUESTS
    };

    compete(
        "unsampled",
        rounds,
        vec![
            Rival::new("phase6", || ours(&alone)),
            Rival::new("phase6, joined", || ours(&joined)),
            Rival::new("opentelemetry", standard),
            Rival::new("tracing-opentelemetry", bridged),
        ],
    );
}
