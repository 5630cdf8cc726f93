//! Cost of telemetry per request: unsampled, sampled one time in ten, and always sampled with every span
//! given to an exporter. Also the cost of the metrics alone, on one thread and on two threads that share
//! them, next to the `prometheus` crate's own counters and histograms for the same request.

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
use phase6_telemetry::{
    Exchange, RequestAccessors, RequestTelemetryLayer, Sampler, Span, SpanSink, Telemetry, TrafficWindow,
};
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts};
use tower::{Layer, Service, service_fn};

const ACCESSORS: RequestAccessors = RequestAccessors {
    tracing: |extensions| extensions.get::<Arc<Tracing>>().map(AsRef::as_ref),
    trusted: |_| false,
};

/// Accepts every span, as an exporter with room in its queue does.
#[derive(Default)]
struct CountingSink(AtomicU64);

impl SpanSink for CountingSink {
    fn record(&self, span: &Span) {
        black_box(span);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn telemetry() -> Arc<Telemetry> {
    let telemetry = Telemetry::new("bench", Sampler::new(1), Some(Arc::new(CountingSink::default())));
    telemetry.metrics().declare_routes(["/api/v1/budget".to_owned()]);
    telemetry
}

/// Returns a response with one header, as every response of a service has.
fn response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns a function that sends one request through a stack of nothing but telemetry.
fn with_telemetry(telemetry: &Arc<Telemetry>, sampling_rate: f64) -> impl FnMut() + Send + use<> {
    let policy = Arc::new(Tracing { sampling_rate, ..Tracing::default() });
    let route = telemetry.metrics().route("/api/v1/budget");
    let handler = move |request: Request<()>| {
        if let Some(exchange) = request.extensions().get::<Arc<Exchange>>() {
            exchange.set_route(route);
        }
        std::future::ready(Ok::<_, Infallible>(response()))
    };
    let mut service = RequestTelemetryLayer::new(Arc::clone(telemetry), ACCESSORS).layer(service_fn(handler));
    move || {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        let response = service.call(black_box(request)).now_or_never();
        let _ = black_box(response.expect("the handler is ready at once"));
    }
}

/// Returns a function that sends one request through a stack without telemetry.
fn without_telemetry() -> impl FnMut() {
    let policy = Arc::new(Tracing::default());
    let mut service = service_fn(|_: Request<()>| std::future::ready(Ok::<_, Infallible>(response())));
    move || {
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::clone(&policy));
        let response = service.call(black_box(request)).now_or_never();
        let _ = black_box(response.expect("the handler is ready at once"));
    }
}

/// Returns how long two threads take for `count` calls each that share one state.
fn on_two_threads<F: FnMut()>(count: u64, make_call: impl Fn() -> F + Sync) -> Duration {
    let start = Barrier::new(2);
    let run = || {
        let mut call = make_call();
        start.wait();
        let started = Instant::now();
        (0..count).for_each(|_| call());
        started.elapsed()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(run);
        let this = run();
        this.max(other.join().unwrap_or(this))
    })
}

fn request(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    let mut call = without_telemetry();
    group.bench_function("bare", |b| b.iter(&mut call));
    for (name, rate) in [("unsampled", 0.0), ("one_in_ten", 0.1), ("sampled", 1.0)] {
        let mut call = with_telemetry(&telemetry(), rate);
        group.bench_function(name, |b| b.iter(&mut call));
    }
    let shared = telemetry();
    group.bench_function("unsampled_two_threads", |b| {
        b.iter_custom(|count| on_two_threads(count, || with_telemetry(&shared, 0.0)));
    });
    group.finish();
}

/// Returns a function that counts one request: in flight, by route, method and status, its duration, and in
/// the traffic window.
fn count_request(telemetry: &Arc<Telemetry>, traffic: &Arc<TrafficWindow>) -> impl FnMut() + use<> {
    let (telemetry, traffic) = (Arc::clone(telemetry), Arc::clone(traffic));
    let route = telemetry.metrics().route("/api/v1/budget");
    let duration = Duration::from_millis(3);
    let mut now_ns = 1_000_000_000;
    move || {
        now_ns += 10_000;
        telemetry.metrics().requests().start();
        telemetry.metrics().requests().finish(
            black_box(route),
            &Method::GET,
            StatusCode::OK,
            black_box(duration),
            None,
        );
        traffic.record(duration, false, now_ns);
    }
}

/// Returns a function that counts one request with the `prometheus` crate, without a traffic window.
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
    let mut call = count_request(&telemetry, &traffic);
    group.bench_function("one_thread", |b| b.iter(&mut call));
    group.bench_function("two_threads", |b| {
        b.iter_custom(|count| on_two_threads(count, || count_request(&telemetry, &traffic)));
    });
    let prometheus = prometheus();
    let mut call = prometheus();
    group.bench_function("prometheus_one_thread", |b| b.iter(&mut call));
    group.bench_function("prometheus_two_threads", |b| {
        b.iter_custom(|count| on_two_threads(count, &prometheus));
    });
    group.finish();
}

criterion_group!(benches, request, metrics);
criterion_main!(benches);
