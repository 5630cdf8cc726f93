//! Metrics of a service's HTTP requests, counted by each thread separately.
//!
//! Labels come from closed sets: the routes that the service declared, eight methods and five status classes.
//! A combination of route and method takes memory when a thread first counts a request of it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Method, StatusCode};
use prometheus::{
    core::{Collector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram, MetricFamily, MetricType},
};

use crate::{
    RouteId, StatusClass, TraceId,
    labels::{RouteLabels, Routes},
    openmetrics::Exemplars,
    per_thread::{PerThread, SingleWriterCounter},
    scraped::{metric_family, metric_with_labels},
};

/// Upper bounds of the duration buckets in seconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of the duration buckets in nanoseconds.
const BOUNDS_NS: [u64; BOUNDS.len()] = {
    let mut bounds = [0; BOUNDS.len()];
    let mut i = 0;
    while i < BOUNDS.len() {
        bounds[i] = (BOUNDS[i] * 1e9 + 0.5) as u64;
        i += 1;
    }
    bounds
};

const REQUESTS: &str = "phase6_http_requests_total";
pub(crate) const DURATION: &str = "phase6_http_request_duration_seconds";
const IN_FLIGHT: &str = "phase6_http_requests_in_flight";

/// Request counts and durations of one service.
#[derive(Default)]
pub struct RequestMetrics {
    routes: OnceLock<Routes>,
    threads: PerThread<ThreadCounts>,
    /// Exemplars by combination of route and method; allocated by the first sampled request.
    exemplars: OnceLock<Box<[OnceLock<Exemplars>]>>,
}

/// Requests that one thread counted.
#[derive(Default)]
struct ThreadCounts {
    started: SingleWriterCounter,
    ended: SingleWriterCounter,
    /// Counts by combination of route and method.
    series: OnceLock<Box<[OnceLock<Box<SeriesCounts>>]>>,
}

/// Requests of one combination of route and method that one thread counted.
#[derive(Default)]
struct SeriesCounts {
    by_class: [SingleWriterCounter; StatusClass::ALL.len()],
    /// Requests within each bound but above the one before; the last bucket is above all bounds.
    by_duration: [SingleWriterCounter; BOUNDS.len() + 1],
    duration_sum_ns: SingleWriterCounter,
}

/// Requests of one combination of route and method that all threads counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct SeriesTotals {
    by_class: StatusClassCounts,
    by_duration: [u64; BOUNDS.len() + 1],
    duration_sum_ns: u64,
}

/// Numbers of requests by status class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatusClassCounts([u64; StatusClass::ALL.len()]);

impl StatusClassCounts {
    /// Returns the number of requests with a response of `class`.
    pub fn get(&self, class: StatusClass) -> u64 {
        self.0[class as usize]
    }

    /// Returns the number of all requests.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }
}

impl SeriesTotals {
    pub(crate) fn requests(&self) -> u64 {
        self.by_duration.iter().sum()
    }

    pub(crate) fn by_class(&self) -> &StatusClassCounts {
        &self.by_class
    }

    /// Returns the sum of all durations in seconds.
    pub(crate) fn duration_sum(&self) -> f64 {
        self.duration_sum_ns as f64 / 1e9
    }

    fn add(&mut self, counts: &SeriesCounts) {
        self.by_class.0.iter_mut().zip(&counts.by_class).for_each(|(sum, count)| *sum += count.get());
        self.by_duration.iter_mut().zip(&counts.by_duration).for_each(|(sum, count)| *sum += count.get());
        self.duration_sum_ns += counts.duration_sum_ns.get();
    }
}

impl RequestMetrics {
    /// Declares the routes. Only the first call has an effect.
    pub(crate) fn declare_routes(&self, templates: impl IntoIterator<Item = String>) {
        let _ = self.routes.set(Routes::new(templates));
    }

    pub(crate) fn routes(&self) -> &Routes {
        self.routes.get_or_init(|| Routes::new([]))
    }

    /// Counts a request as in flight.
    pub fn start(&self) {
        self.threads.local().started.add(1);
    }

    /// Counts a request as no longer in flight, without a response: its client disconnected.
    pub fn abandon(&self) {
        self.threads.local().ended.add(1);
    }

    /// Counts a request as completed with a response. `trace_id` is its trace if that is sampled, and becomes
    /// the exemplar of its duration bucket.
    pub fn finish(
        &self,
        route: RouteId,
        method: &Method,
        status: StatusCode,
        duration: Duration,
        trace_id: Option<TraceId>,
    ) {
        let routes = self.routes();
        let combination = routes.combination(route, method);
        let thread = self.threads.local();
        thread.ended.add(1);
        let series = thread.series.get_or_init(|| empty_slots(routes.combinations()));
        let counts = series[combination].get_or_init(Box::default);
        let nanoseconds = duration.as_nanos() as u64;
        counts.by_class[StatusClass::index_of(status)].add(1);
        let bucket = BOUNDS_NS.iter().position(|bound| nanoseconds <= *bound).unwrap_or(BOUNDS.len());
        counts.by_duration[bucket].add(1);
        counts.duration_sum_ns.add(nanoseconds);
        if let Some(trace_id) = trace_id {
            let exemplars = self.exemplars.get_or_init(|| empty_slots(routes.combinations()));
            exemplars[combination].get_or_init(|| Exemplars::new(&BOUNDS)).record(trace_id, duration);
        }
    }

    /// Returns the exemplars of the durations with these labels.
    pub(crate) fn exemplars(&self, template: &str, method: &str) -> Option<&Exemplars> {
        self.exemplars.get()?[self.routes().combination_of_labels(template, method)].get()
    }

    fn in_flight(&self) -> u64 {
        // Ends are read before starts: every end that is counted then has its start counted too.
        let ended: u64 = self.threads.iter().map(|thread| thread.ended.get()).sum();
        let started: u64 = self.threads.iter().map(|thread| thread.started.get()).sum();
        started.saturating_sub(ended)
    }

    /// Returns the totals of each combination of route and method that had a request.
    pub(crate) fn totals(&self) -> impl Iterator<Item = (RouteLabels<'_>, SeriesTotals)> {
        let mut totals: Vec<Option<SeriesTotals>> = vec![None; self.routes().combinations()];
        for series in self.threads.iter().filter_map(|thread| thread.series.get()) {
            for (total, counts) in totals.iter_mut().zip(series) {
                if let Some(counts) = counts.get() {
                    total.get_or_insert_default().add(counts);
                }
            }
        }
        let labeled = totals.into_iter().enumerate();
        labeled.filter_map(|(combination, total)| Some((self.routes().labels(combination), total?)))
    }
}

fn empty_slots<T>(count: usize) -> Box<[OnceLock<T>]> {
    (0..count).map(|_| OnceLock::new()).collect()
}

/// Exposes [`RequestMetrics`] to a Prometheus registry.
pub(crate) struct RequestCollector {
    metrics: Arc<RequestMetrics>,
    requests: Desc,
    duration: Desc,
    in_flight: Desc,
}

impl RequestCollector {
    pub(crate) fn new(metrics: Arc<RequestMetrics>) -> Self {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new(name.into(), help.into(), labels, HashMap::new())
                .expect("constant names are well-formed")
        };
        Self {
            metrics,
            requests: desc(
                REQUESTS,
                "HTTP requests completed, by route, method and status class",
                &["route", "method", "status"],
            ),
            duration: desc(
                DURATION,
                "Time from the request head to the response head in seconds, by route and method",
                &["route", "method"],
            ),
            in_flight: desc(IN_FLIGHT, "HTTP requests in flight", &[]),
        }
    }
}

impl Collector for RequestCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.requests, &self.duration, &self.in_flight]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut requests, mut durations) = (Vec::new(), Vec::new());
        for (RouteLabels { route, method }, totals) in self.metrics.totals() {
            for class in StatusClass::ALL {
                let labels = [("method", method), ("route", route), ("status", class.label())];
                let mut metric = metric_with_labels(labels);
                let mut counter = Counter::default();
                counter.set_value(totals.by_class.get(class) as f64);
                metric.set_counter(counter);
                requests.push(metric);
            }
            let mut metric = metric_with_labels([("method", method), ("route", route)]);
            metric.set_histogram(histogram(&totals));
            durations.push(metric);
        }
        let mut gauge = Gauge::default();
        gauge.set_value(self.metrics.in_flight() as f64);
        let mut in_flight = metric_with_labels([]);
        in_flight.set_gauge(gauge);
        let families = [
            metric_family(&self.requests, MetricType::COUNTER, requests),
            metric_family(&self.duration, MetricType::HISTOGRAM, durations),
            metric_family(&self.in_flight, MetricType::GAUGE, vec![in_flight]),
        ];
        families.into_iter().flatten().collect()
    }
}

fn histogram(totals: &SeriesTotals) -> Histogram {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let buckets = BOUNDS.iter().zip(totals.by_duration).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(totals.requests());
    histogram.set_sample_sum(totals.duration_sum());
    histogram
}
