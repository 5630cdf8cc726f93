//! A request that is not sampled: its trace context, the sampling decision, its IDs.

use std::hint::black_box;

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SdkTracerProvider};
use phase6_policy::Tracing;
use phase6_telemetry::{Sampler, Telemetry, TraceContext, context::TRACEPARENT};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use crate::{Contender, compare};

const REQUESTS: u64 = 100_000;

pub fn run(rounds: usize) {
    let telemetry = Telemetry::new("bench", Sampler::new(1), None);
    let policy = Tracing { sampling_rate: 0.0, ..Tracing::default() };
    let without_parent = HeaderMap::new();
    let parent = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    let with_parent: HeaderMap = [(TRACEPARENT, parent)].into_iter().collect();
    let phase6_round = |headers: &HeaderMap| {
        for _ in 0..REQUESTS {
            let parent = TraceContext::from_headers(black_box(headers));
            black_box(telemetry.trace_context(parent, false, Some(&policy)));
        }
        REQUESTS
    };

    // A common configuration: no trace that begins here is sampled.
    let sampler = || SdkSampler::ParentBased(Box::new(SdkSampler::TraceIdRatioBased(0.0)));
    let provider = SdkTracerProvider::builder().with_sampler(sampler()).build();
    let tracer = provider.tracer("bench");
    let opentelemetry_round = || {
        for _ in 0..REQUESTS {
            tracer.start(black_box("GET /api/v1/budget")).end();
        }
        REQUESTS
    };

    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
    let subscriber = tracing::Dispatch::new(Registry::default().with(layer));
    let bridge_round = || {
        tracing::dispatcher::with_default(&subscriber, || {
            for _ in 0..REQUESTS {
                let span = tracing::info_span!("GET /api/v1/budget");
                let _entered = black_box(span.enter());
            }
        });
        REQUESTS
    };

    compare(
        "unsampled",
        rounds,
        vec![
            Contender::new("phase6", || phase6_round(&without_parent)),
            Contender::new("phase6, continued", || phase6_round(&with_parent)),
            Contender::new("opentelemetry", opentelemetry_round),
            Contender::new("tracing-opentelemetry", bridge_round),
        ],
    );
}
