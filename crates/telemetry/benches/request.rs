//! What telemetry costs a request: not sampled, sampled one time in ten, and always, with every span given
//! to an exporter; alone, and with another thread at the same figures. Beside it what OpenTelemetry's own
//! tracer and Prometheus' own series cost for the same request.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    convert::Infallible,
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use opentelemetry::trace::{Span as _, Tracer, TracerProvider};
use opentelemetry_sdk::trace::{Sampler as Standard, SdkTracerProvider};
use phase6_policy::Tracing;
use phase6_telemetry::{Ask, Exchange, Sampler, Sink, Span, Telemetry, TelemetryLayer};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts};
use tower::{Layer, Service, service_fn};

const ASK: Ask =
    Ask { tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref), trusted: |_| false };

/// Takes spans as an exporter's queue does, and has room for all.
#[derive(Default)]
struct Counted(AtomicU64);

impl Sink for Counted {
    fn record(&self, span: Span) {
        black_box(span);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn telemetry() -> Arc<Telemetry> {
    let telemetry = Telemetry::new("bench", Sampler::new(1), Some(Arc::new(Counted::default())));
    telemetry.metrics().declare(["/api/v1/budget".to_owned()]);
    telemetry
}

/// As every answer, it has a header already.
fn answer() -> Response<()> {
    let mut answer = Response::new(());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// One request through a stack that does nothing else.
fn requests(telemetry: &Arc<Telemetry>, rate: f64) -> impl FnMut() + Send + use<> {
    let policy = Arc::new(Tracing { sampling_rate: rate, ..Tracing::default() });
    let route = telemetry.metrics().route("/api/v1/budget");
    let handler = move |request: Request<()>| {
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>() {
            exchange.set_route(route);
        }
        std::future::ready(Ok::<_, Infallible>(answer()))
    };
    let mut service = TelemetryLayer::new(Arc::clone(telemetry), ASK).layer(service_fn(handler));
    move || {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        let answer = service.call(black_box(request)).now_or_never();
        let _ = black_box(answer.expect("it is ready at once"));
    }
}

/// The same without telemetry.
fn bare() -> impl FnMut() {
    let policy = Arc::new(Tracing::default());
    let mut service = service_fn(|_: Request<()>| std::future::ready(Ok::<_, Infallible>(Response::new(()))));
    move || {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        let answer = service.call(black_box(request)).now_or_never();
        let _ = black_box(answer.expect("it is ready at once"));
    }
}

/// How long two threads take for so many requests each, at the same figures.
fn at_two_threads(telemetry: &Arc<Telemetry>, count: u64) -> Duration {
    let start = Barrier::new(2);
    let run = || {
        let mut request = requests(telemetry, 0.0);
        start.wait();
        let begun = Instant::now();
        (0..count).for_each(|_| request());
        begun.elapsed()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        let one = run();
        one.max(other.join().unwrap_or(one))
    })
}

fn request(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    let mut one = bare();
    group.bench_function("bare", |b| b.iter(&mut one));
    for (name, rate) in [("unsampled", 0.0), ("one_in_ten", 0.1), ("sampled", 1.0)] {
        let mut one = requests(&telemetry(), rate);
        group.bench_function(name, |b| b.iter(&mut one));
    }
    let shared = telemetry();
    group.bench_function("unsampled_two_threads", |b| b.iter_custom(|count| at_two_threads(&shared, count)));

    let provider = SdkTracerProvider::builder().with_sampler(Standard::AlwaysOff).build();
    let tracer = provider.tracer("bench");
    group.bench_function("opentelemetry_unsampled", |b| {
        b.iter(|| tracer.start(black_box("GET /api/v1/budget")).end());
    });
    let labels = ["route", "method", "status"];
    let counters = IntCounterVec::new(Opts::new("requests_total", "Requests."), &labels).expect("valid");
    let durations = HistogramVec::new(HistogramOpts::new("seconds", "Time."), &labels[..2]).expect("valid");
    let counter = counters.with_label_values(&["/api/v1/budget", "GET", "2xx"]);
    let duration: Histogram = durations.with_label_values(&["/api/v1/budget", "GET"]);
    group.bench_function("prometheus", |b| {
        b.iter(|| {
            counter.inc();
            duration.observe(black_box(0.003));
        });
    });
    group.finish();
}

criterion_group!(benches, request);
criterion_main!(benches);
