//! Prometheus series of a service.
//!
//! Labels come from closed sets: route templates that the service declared, eight methods, five
//! status classes. The handles of a series are resolved once and then only incremented.

use std::{collections::HashMap, sync::OnceLock, time::Duration};

use http::{Method, StatusCode};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};
use serde::Serialize;

use crate::{
    TraceId,
    openmetrics::{self, Exemplars},
    scrape::{Family, SeriesKind, Values},
};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const DURATION: &str = "phase6_http_request_duration_seconds";

/// A route that the service declared, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteId(u16);

impl RouteId {
    /// The route of requests that match no declared one.
    pub const UNMATCHED: Self = Self(0);

    /// As a number, for where nothing else can be kept.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl From<u16> for RouteId {
    /// Any number; one that is no route counts as unmatched.
    fn from(number: u16) -> Self {
        Self(number)
    }
}

/// The series of one service.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    durations: HistogramVec,
    in_flight: IntGauge,
    routes: OnceLock<Routes>,
}

/// The routes of a service; the first one stands for requests that match none.
struct Routes {
    list: Vec<Route>,
    by_template: HashMap<String, RouteId>,
}

struct Route {
    template: String,
    methods: [OnceLock<Handles>; METHODS.len()],
}

struct Handles {
    by_class: [IntCounter; CLASSES.len()],
    duration: Histogram,
    exemplars: Exemplars,
}

/// How often an endpoint was asked, and how it went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointFigures {
    /// `METHOD /template`.
    pub endpoint: String,
    /// Requests since the start.
    pub requests: u64,
    /// Mean latency in milliseconds.
    pub avg_latency: f64,
    /// Share answered with 5xx, from 0 to 1.
    pub error_rate: f64,
}

impl Metrics {
    /// Series for a service whose routes are not declared yet.
    pub fn new(service: &str) -> Self {
        let labels = HashMap::from([("service".to_owned(), service.to_owned())]);
        let registry = Registry::new_custom(None, Some(labels)).expect("one constant label is well-formed");
        let requests = IntCounterVec::new(
            Opts::new("phase6_http_requests_total", "Requests answered, by route, method and status class."),
            &["route", "method", "status"],
        )
        .expect("constant names are well-formed");
        let durations = HistogramVec::new(
            HistogramOpts::new(DURATION, "Time from the head of a request to the head of its answer.")
                .buckets(BUCKETS.to_vec()),
            &["route", "method"],
        )
        .expect("constant names are well-formed");
        let in_flight = IntGauge::new("phase6_http_requests_in_flight", "Requests that are being answered.")
            .expect("constant names are well-formed");
        for collector in [
            Box::new(requests.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(durations.clone()),
            Box::new(in_flight.clone()),
        ] {
            registry.register(collector).expect("each name is registered once");
        }
        Self { registry, requests, durations, in_flight, routes: OnceLock::new() }
    }

    /// Declares the service's route templates. Before it every request counts as unmatched; a
    /// second declaration is ignored.
    pub fn declare(&self, templates: impl IntoIterator<Item = String>) {
        let _ = self.routes.set(Routes::new(templates));
    }

    fn routes(&self) -> &Routes {
        self.routes.get_or_init(|| Routes::new([]))
    }

    /// Where other parts of the service register their own series.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds a family whose values are read from `values` at every look. Label values must come from
    /// a closed set.
    pub fn observe<F>(
        &self,
        kind: SeriesKind,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        values: F,
    ) where
        F: Fn() -> Values + Send + Sync + 'static,
    {
        let family = Family::new(kind, name, help, labels, values).expect("constant names are well-formed");
        // Registered twice, the first one stays.
        let _ = self.registry.register(Box::new(family));
    }

    /// The number of a declared route.
    pub fn route(&self, template: &str) -> RouteId {
        self.routes().by_template.get(template).copied().unwrap_or(RouteId::UNMATCHED)
    }

    /// The template of a route.
    pub fn template(&self, route: RouteId) -> &str {
        &self.routes().get(route).template
    }

    pub(crate) fn begin(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn abandon(&self) {
        self.in_flight.dec();
    }

    /// Counts an answered request. `sampled` is its trace, if that can be looked at.
    pub(crate) fn end(
        &self,
        route: RouteId,
        method: &Method,
        status: StatusCode,
        took: Duration,
        sampled: Option<TraceId>,
    ) {
        self.in_flight.dec();
        let method = method_index(method);
        let route = self.routes().get(route);
        let handles = route.methods[method].get_or_init(|| Handles {
            by_class: CLASSES.map(|class| {
                self.requests.with_label_values(&[route.template.as_str(), METHODS[method], class])
            }),
            duration: self.durations.with_label_values(&[route.template.as_str(), METHODS[method]]),
            exemplars: Exemplars::new(&BUCKETS),
        });
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        handles.by_class[class].inc();
        handles.duration.observe(took.as_secs_f64());
        if let Some(trace_id) = sampled {
            handles.exemplars.record(trace_id, took);
        }
    }

    /// The endpoints that were asked most, busiest first.
    pub fn busiest(&self, limit: usize) -> Vec<EndpointFigures> {
        let mut figures: Vec<_> = self
            .routes()
            .list
            .iter()
            .flat_map(|route| {
                route.methods.iter().zip(METHODS).map(move |(slot, method)| (route, slot, method))
            })
            .filter_map(|(route, slot, method)| {
                let handles = slot.get()?;
                let requests = handles.duration.get_sample_count();
                Some(EndpointFigures {
                    endpoint: format!("{method} {}", route.template),
                    requests,
                    avg_latency: handles.duration.get_sample_sum() * 1e3 / requests.max(1) as f64,
                    error_rate: handles.by_class[4].get() as f64 / requests.max(1) as f64,
                })
            })
            .collect();
        figures.sort_by_key(|figures| std::cmp::Reverse(figures.requests));
        figures.truncate(limit);
        figures
    }

    /// Requests since the start: all, and those answered with 5xx.
    pub fn totals(&self) -> (u64, u64) {
        let handles = self.routes().list.iter().flat_map(|route| &route.methods).filter_map(OnceLock::get);
        handles.fold((0, 0), |(all, failed), handles| {
            (all + handles.duration.get_sample_count(), failed + handles.by_class[4].get())
        })
    }

    /// Requests since the start by status class, `1xx` to `5xx`.
    pub fn by_class(&self) -> [(&'static str, u64); 5] {
        let mut sums = CLASSES.map(|class| (class, 0));
        for handles in self.routes().list.iter().flat_map(|route| &route.methods).filter_map(OnceLock::get) {
            for (sum, counter) in sums.iter_mut().zip(&handles.by_class) {
                sum.1 += counter.get();
            }
        }
        sums
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory does not fail, and a family that cannot be encoded is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Everything in the format of `OpenMetrics`, with traces as examples of the buckets of durations.
    pub fn openmetrics(&self) -> String {
        openmetrics::encode(&self.registry.gather(), |family, metric| {
            let label = |name: &str| {
                metric.get_label().iter().find(|pair| pair.name() == name).map_or("", |pair| pair.value())
            };
            let method = METHODS.iter().position(|method| *method == label("method"))?;
            let route = self.routes().get(self.route(label("route")));
            (family == DURATION).then(|| route.methods[method].get().map(|handles| &handles.exemplars))?
        })
    }
}

impl Routes {
    fn new(templates: impl IntoIterator<Item = String>) -> Self {
        let mut routes = Self { list: vec![Route::new("unmatched".into())], by_template: HashMap::new() };
        for template in templates {
            let id = RouteId(routes.list.len() as u16);
            if !routes.by_template.contains_key(&template) {
                routes.by_template.insert(template.clone(), id);
                routes.list.push(Route::new(template));
            }
        }
        routes
    }

    fn get(&self, route: RouteId) -> &Route {
        self.list.get(usize::from(route.0)).unwrap_or(&self.list[0])
    }
}

impl Route {
    fn new(template: String) -> Self {
        Self { template, methods: std::array::from_fn(|_| OnceLock::new()) }
    }
}

fn method_index(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let metrics = Metrics::new("budget");
        metrics.declare(["/api/v1/budget".to_owned(), "/api/v1/budget/metrics/{id}".to_owned()]);
        metrics
    }

    fn end(metrics: &Metrics, template: &str, status: u16) {
        metrics.begin();
        let status = StatusCode::from_u16(status).unwrap();
        metrics.end(
            metrics.route(template),
            &Method::GET,
            status,
            Duration::from_millis(3),
            Some(TraceId::random()),
        );
    }

    #[test]
    fn a_sampled_request_is_an_example_of_its_bucket() {
        let metrics = metrics();
        end(&metrics, "/api/v1/budget", 200);
        let text = metrics.openmetrics();
        let examples: Vec<_> = text.lines().filter(|line| line.contains(" # {trace_id=")).collect();
        assert_eq!(examples.len(), 1, "{text}");
        assert!(examples[0].contains("route=\"/api/v1/budget\"") && examples[0].contains("le=\"0.005\""));
        assert!(!metrics.text().contains("trace_id"), "the older format has no word for it");
    }

    #[test]
    fn counts_by_route_template_method_and_status_class() {
        let metrics = metrics();
        end(&metrics, "/api/v1/budget", 200);
        end(&metrics, "/api/v1/budget", 503);
        let text = metrics.text();
        let line = r#"phase6_http_requests_total{method="GET",route="/api/v1/budget",status="5xx",service="budget"} 1"#;
        assert!(text.contains(line), "{text}");
        assert_eq!(metrics.totals(), (2, 1));
        let busiest = metrics.busiest(10);
        assert_eq!(busiest[0].endpoint, "GET /api/v1/budget");
        assert!((busiest[0].error_rate - 0.5).abs() < f64::EPSILON);
        assert!((busiest[0].avg_latency - 3.0).abs() < 0.01);
    }

    /// The original kept one series for every raw path it ever saw.
    #[test]
    fn paths_that_no_route_declares_share_one_series() {
        let metrics = metrics();
        for i in 0..1_000 {
            end(&metrics, &format!("/no/such/{i}"), 404);
        }
        assert_eq!(metrics.busiest(10).len(), 1);
        assert_eq!(metrics.busiest(10)[0].endpoint, "GET unmatched");
    }
}
