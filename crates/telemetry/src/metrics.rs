//! Prometheus series of a service.
//!
//! [`Metrics`] is the registry: the series of requests ([`crate::requests`]) and those that other parts of
//! the service add. Label values come from closed sets.

use std::sync::Arc;

use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;

use crate::{
    RouteId, openmetrics,
    requests::{CLASSES, DURATION, RequestSeries, Requests},
    scrape::{Family, SeriesKind, Values},
};

/// The series of one service.
pub struct Metrics {
    registry: Registry,
    requests: Arc<Requests>,
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
        let labels = [("service".to_owned(), service.to_owned())].into();
        let registry = Registry::new_custom(None, Some(labels)).expect("one constant label is well-formed");
        let requests = Arc::<Requests>::default();
        let series = RequestSeries::new(Arc::clone(&requests));
        registry.register(Box::new(series)).expect("each name is registered once");
        Self { registry, requests }
    }

    /// Declares the service's route templates. Before it every request counts as unmatched; a
    /// second declaration is ignored.
    pub fn declare(&self, templates: impl IntoIterator<Item = String>) {
        self.requests.declare(templates);
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
        self.requests.routes().find(template)
    }

    /// The template of a route.
    pub fn template(&self, route: RouteId) -> &str {
        self.requests.routes().template(route)
    }

    /// The counts of requests.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The endpoints that were asked most, busiest first.
    pub fn busiest(&self, limit: usize) -> Vec<EndpointFigures> {
        let figures = self.requests.sums().map(|(template, method, sum)| {
            let requests = sum.requests();
            let each = requests.max(1) as f64;
            EndpointFigures {
                endpoint: format!("{method} {template}"),
                requests,
                avg_latency: sum.seconds() * 1e3 / each,
                error_rate: sum.by_class[4] as f64 / each,
            }
        });
        let mut figures: Vec<_> = figures.collect();
        figures.sort_by_key(|figures| std::cmp::Reverse(figures.requests));
        figures.truncate(limit);
        figures
    }

    /// Requests since the start: all, and those answered with 5xx.
    pub fn totals(&self) -> (u64, u64) {
        let by_class = self.by_class().map(|(_, count)| count);
        (by_class.iter().sum(), by_class[4])
    }

    /// Requests since the start by status class, `1xx` to `5xx`.
    pub fn by_class(&self) -> [(&'static str, u64); 5] {
        let mut sums = CLASSES.map(|class| (class, 0));
        for (_, _, sum) in self.requests.sums() {
            sums.iter_mut().zip(sum.by_class).for_each(|(all, count)| all.1 += count);
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
            (family == DURATION).then(|| self.requests.exemplars(label("route"), label("method")))?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{Method, StatusCode};

    use super::*;
    use crate::TraceId;

    fn metrics() -> Metrics {
        let metrics = Metrics::new("budget");
        metrics.declare(["/api/v1/budget".to_owned(), "/api/v1/budget/metrics/{id}".to_owned()]);
        metrics
    }

    fn end(metrics: &Metrics, template: &str, status: u16) {
        metrics.requests().begin();
        let status = StatusCode::from_u16(status).unwrap();
        metrics.requests().end(
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
