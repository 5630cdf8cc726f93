//! The series of a service's HTTP requests, counted by each thread apart.
//!
//! Labels come from closed sets: the routes that the service declared, eight methods, five status classes.
//! A pair of route and method takes memory when it is first asked for, in each thread that answers it.

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
    RouteId, TraceId,
    count::{Count, Parts},
    openmetrics::Exemplars,
    routes::Routes,
    scrape::{family, labelled},
};

pub(crate) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds of the buckets of durations, in seconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// The same in nanoseconds.
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

/// What is known of the requests of one service.
#[derive(Default)]
pub struct Requests {
    routes: OnceLock<Routes>,
    parts: Parts<Part>,
    /// Of each pair of route and method that had a sampled request.
    exemplars: OnceLock<Box<[OnceLock<Exemplars>]>>,
}

/// What one thread counted.
#[derive(Default)]
struct Part {
    begun: Count,
    ended: Count,
    /// For each pair of route and method that this thread answered.
    pairs: OnceLock<Box<[OnceLock<Box<Pair>>]>>,
}

#[derive(Default)]
struct Pair {
    by_class: [Count; CLASSES.len()],
    /// Those up to each bound, and those above all.
    by_duration: [Count; BOUNDS.len() + 1],
    nanoseconds: Count,
}

/// What all threads counted of a pair.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum {
    pub(crate) by_class: [u64; CLASSES.len()],
    by_duration: [u64; BOUNDS.len() + 1],
    nanoseconds: u64,
}

impl Sum {
    /// Requests answered.
    pub(crate) fn requests(&self) -> u64 {
        self.by_duration.iter().sum()
    }

    /// Time that they took, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }

    fn add(&mut self, pair: &Pair) {
        self.by_class.iter_mut().zip(&pair.by_class).for_each(|(sum, count)| *sum += count.get());
        self.by_duration.iter_mut().zip(&pair.by_duration).for_each(|(sum, count)| *sum += count.get());
        self.nanoseconds += pair.nanoseconds.get();
    }
}

impl Requests {
    /// Declares the routes, once.
    pub(crate) fn declare(&self, templates: impl IntoIterator<Item = String>) {
        let _ = self.routes.set(Routes::new(templates));
    }

    pub(crate) fn routes(&self) -> &Routes {
        self.routes.get_or_init(|| Routes::new([]))
    }

    /// A request begins.
    pub fn begin(&self) {
        self.parts.mine().begun.add(1);
    }

    /// It will never be answered.
    pub fn abandon(&self) {
        self.parts.mine().ended.add(1);
    }

    /// It was answered. `sampled` is its trace, if that can be looked at.
    pub fn end(
        &self,
        route: RouteId,
        method: &Method,
        status: StatusCode,
        took: Duration,
        sampled: Option<TraceId>,
    ) {
        let routes = self.routes();
        let number = routes.pair(route, method);
        let part = self.parts.mine();
        part.ended.add(1);
        let pairs = part.pairs.get_or_init(|| slots(routes.pairs()));
        let pair = pairs[number].get_or_init(Box::default);
        let nanoseconds = took.as_nanos() as u64;
        pair.by_class[usize::from(status.as_u16() / 100).clamp(1, 5) - 1].add(1);
        let bucket = BOUNDS_NS.iter().position(|bound| nanoseconds <= *bound).unwrap_or(BOUNDS.len());
        pair.by_duration[bucket].add(1);
        pair.nanoseconds.add(nanoseconds);
        if let Some(trace_id) = sampled {
            let exemplars = self.exemplars.get_or_init(|| slots(routes.pairs()));
            exemplars[number].get_or_init(|| Exemplars::new(&BOUNDS)).record(trace_id, took);
        }
    }

    /// The examples of durations under these labels.
    pub(crate) fn exemplars(&self, template: &str, method: &str) -> Option<&Exemplars> {
        self.exemplars.get()?[self.routes().pair_of_labels(template, method)].get()
    }

    /// Requests that are being answered.
    fn in_flight(&self) -> u64 {
        // Ends first: who ended had begun.
        let ended: u64 = self.parts.all().map(|part| part.ended.get()).sum();
        let begun: u64 = self.parts.all().map(|part| part.begun.get()).sum();
        begun.saturating_sub(ended)
    }

    /// Template, method and sum of each pair that was answered.
    pub(crate) fn sums(&self) -> impl Iterator<Item = (&str, &'static str, Sum)> {
        let mut sums: Vec<Option<Sum>> = vec![None; self.routes().pairs()];
        for pairs in self.parts.all().filter_map(|part| part.pairs.get()) {
            for (sum, pair) in sums.iter_mut().zip(pairs) {
                if let Some(pair) = pair.get() {
                    sum.get_or_insert_default().add(pair);
                }
            }
        }
        sums.into_iter().enumerate().filter_map(|(number, sum)| {
            let (template, method) = self.routes().labels(number);
            Some((template, method, sum?))
        })
    }
}

fn slots<T>(count: usize) -> Box<[OnceLock<T>]> {
    (0..count).map(|_| OnceLock::new()).collect()
}

/// Requests as Prometheus' registry wants them.
pub(crate) struct RequestSeries {
    requests: Arc<Requests>,
    descs: [Desc; 3],
}

impl RequestSeries {
    pub(crate) fn new(requests: Arc<Requests>) -> Self {
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new(name.into(), help.into(), labels, HashMap::new())
                .expect("constant names are well-formed")
        };
        let descs = [
            desc(
                REQUESTS,
                "Requests answered, by route, method and status class.",
                &["route", "method", "status"],
            ),
            desc(
                DURATION,
                "Time from the head of a request to the head of its answer.",
                &["route", "method"],
            ),
            desc(IN_FLIGHT, "Requests that are being answered.", &[]),
        ];
        Self { requests, descs }
    }
}

impl Collector for RequestSeries {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut requests, mut durations) = (Vec::new(), Vec::new());
        for (route, method, sum) in self.requests.sums() {
            for (class, count) in CLASSES.into_iter().zip(sum.by_class) {
                let mut metric = labelled([("method", method), ("route", route), ("status", class)]);
                let mut counter = Counter::default();
                counter.set_value(count as f64);
                metric.set_counter(counter);
                requests.push(metric);
            }
            let mut metric = labelled([("method", method), ("route", route)]);
            metric.set_histogram(histogram(&sum));
            durations.push(metric);
        }
        let mut gauge = Gauge::default();
        gauge.set_value(self.requests.in_flight() as f64);
        let mut in_flight = labelled([]);
        in_flight.set_gauge(gauge);
        let kinds = [MetricType::COUNTER, MetricType::HISTOGRAM, MetricType::GAUGE];
        let all = self.descs.iter().zip(kinds).zip([requests, durations, vec![in_flight]]);
        all.filter_map(|((desc, kind), metrics)| family(desc, kind, metrics)).collect()
    }
}

fn histogram(sum: &Sum) -> Histogram {
    let mut histogram = Histogram::default();
    let mut so_far = 0;
    let buckets = BOUNDS.iter().zip(sum.by_duration).map(|(bound, count)| {
        so_far += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(so_far);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(sum.requests());
    histogram.set_sample_sum(sum.seconds());
    histogram
}
