//! What telemetry costs a request: not sampled, sampled one time in ten, and always, with every span given
//! to an exporter. And what is counted of it, alone and with another thread at the same figures, beside
//! Prometheus' own series for the same request.

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
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use phase6_policy::Tracing;
use phase6_telemetry::{Ask, Exchange, Sampler, Sink, Span, Telemetry, TelemetryLayer, traffic::Traffic};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts};
use tower::{Layer, Service, service_fn};

const ASK: Ask =
    Ask { tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref), trusted: |_| false };

/// Takes spans as an exporter's queue does, and has room for all.
#[derive(Default)]
struct Counted(AtomicU64);

impl Sink for Counted {
    fn record(&self, span: &Span) {
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
    let mut service = service_fn(|_: Request<()>| std::future::ready(Ok::<_, Infallible>(answer())));
    move || {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        let answer = service.call(black_box(request)).now_or_never();
        let _ = black_box(answer.expect("it is ready at once"));
    }
}

/// How long two threads take for so many calls each, at the same figures.
fn at_two_threads<F: FnMut()>(count: u64, make: impl Fn() -> F + Sync) -> Duration {
    let start = Barrier::new(2);
    let run = || {
        let mut call = make();
        start.wait();
        let begun = Instant::now();
        (0..count).for_each(|_| call());
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
    group.bench_function("unsampled_two_threads", |b| {
        b.iter_custom(|count| at_two_threads(count, || requests(&shared, 0.0)));
    });
    group.finish();
}

/// What is counted of a request: that it is on its way, route, method, status and duration, and the figures
/// of the last minute.
fn counted(telemetry: &Arc<Telemetry>, traffic: &Arc<Traffic>) -> impl FnMut() + use<> {
    let (telemetry, traffic) = (Arc::clone(telemetry), Arc::clone(traffic));
    let route = telemetry.metrics().route("/api/v1/budget");
    let took = Duration::from_millis(3);
    let mut now_ns = 1_000_000_000;
    move || {
        now_ns += 10_000;
        telemetry.metrics().requests().begin();
        telemetry.metrics().requests().end(
            black_box(route),
            &Method::GET,
            StatusCode::OK,
            black_box(took),
            None,
        );
        traffic.record(took, false, now_ns);
    }
}

/// The series of Prometheus' own crate for the same, without the figures of the last minute.
fn prometheus() -> impl Fn() -> Box<dyn FnMut()> + Sync {
    let labels = ["route", "method", "status"];
    let counters = IntCounterVec::new(Opts::new("requests_total", "Requests."), &labels).expect("valid");
    let durations = HistogramVec::new(HistogramOpts::new("seconds", "Time."), &labels[..2]).expect("valid");
    let counter = counters.with_label_values(&["/api/v1/budget", "GET", "2xx"]);
    let duration: Histogram = durations.with_label_values(&["/api/v1/budget", "GET"]);
    let in_flight = IntGauge::new("in_flight", "Requests.").expect("valid");
    move || {
        let (counter, duration, in_flight) = (counter.clone(), duration.clone(), in_flight.clone());
        Box::new(move || {
            in_flight.inc();
            counter.inc();
            duration.observe(black_box(0.003));
            in_flight.dec();
        })
    }
}

fn metrics(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics");
    let (telemetry, traffic) = (telemetry(), Arc::default());
    let mut one = counted(&telemetry, &traffic);
    group.bench_function("one_thread", |b| b.iter(&mut one));
    group.bench_function("two_threads", |b| {
        b.iter_custom(|count| at_two_threads(count, || counted(&telemetry, &traffic)));
    });
    let prometheus = prometheus();
    let mut one = prometheus();
    group.bench_function("prometheus_one_thread", |b| b.iter(&mut one));
    group.bench_function("prometheus_two_threads", |b| {
        b.iter_custom(|count| at_two_threads(count, &prometheus));
    });
    group.finish();
}

criterion_group!(benches, request, metrics);
criterion_main!(benches);
