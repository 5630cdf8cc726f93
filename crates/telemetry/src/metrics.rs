//! Prometheus registry of a service: its request metrics ([`crate::request_metrics`]) and those that other
//! parts of the service add. Label values come from closed sets.

use std::sync::Arc;

use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;

use crate::{
    RouteId, StatusClass, openmetrics,
    request_metrics::{DURATION, RequestCollector, RequestMetrics, StatusClassCounts},
    scraped::{Samples, ScrapedFamily, SeriesKind},
};

/// Metrics of one service.
pub struct Metrics {
    registry: Registry,
    requests: Arc<RequestMetrics>,
}

/// Request statistics of one endpoint since the start.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStats {
    /// Method and path template, such as `GET /api/v1/budget`.
    pub endpoint: String,
    /// Number of requests completed.
    pub requests: u64,
    /// Mean latency in milliseconds.
    pub avg_latency: f64,
    /// Fraction of requests with a 5xx response, from 0 to 1.
    pub error_rate: f64,
}

impl Metrics {
    /// Creates the metrics of a service whose routes are not declared yet.
    pub fn new(service: &str) -> Self {
        let labels = [("service".to_owned(), service.to_owned())].into();
        let registry = Registry::new_custom(None, Some(labels)).expect("one constant label is well-formed");
        let requests = Arc::<RequestMetrics>::default();
        let collector = RequestCollector::new(Arc::clone(&requests));
        registry.register(Box::new(collector)).expect("the registry is empty, so no name is taken");
        Self { registry, requests }
    }

    /// Declares the service's route templates. Until then every request counts as unmatched. Only the first
    /// declaration has an effect.
    pub fn declare_routes(&self, templates: impl IntoIterator<Item = String>) {
        self.requests.declare_routes(templates);
    }

    /// Returns the registry, for other parts of the service to register their own metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Registers a metric family whose samples are read from `read` at every scrape. Label values must come
    /// from a closed set. If the name is registered already, the first registration stays.
    pub fn register<F>(
        &self,
        kind: SeriesKind,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: F,
    ) where
        F: Fn() -> Samples + Send + Sync + 'static,
    {
        let family =
            ScrapedFamily::new(kind, name, help, labels, read).expect("constant names are well-formed");
        let _ = self.registry.register(Box::new(family));
    }

    /// Returns the id of a declared route, or [`RouteId::UNMATCHED`].
    pub fn route(&self, template: &str) -> RouteId {
        self.requests.routes().find(template)
    }

    /// Returns the path template of a route.
    pub fn template(&self, route: RouteId) -> &str {
        self.requests.routes().template(route)
    }

    /// Returns the request metrics.
    pub fn requests(&self) -> &RequestMetrics {
        &self.requests
    }

    /// Returns the `limit` endpoints with the most requests, busiest first.
    pub fn busiest_endpoints(&self, limit: usize) -> Vec<EndpointStats> {
        let endpoints = self.requests.totals().map(|(labels, totals)| {
            let requests = totals.requests();
            let divisor = requests.max(1) as f64;
            EndpointStats {
                endpoint: format!("{} {}", labels.method, labels.route),
                requests,
                avg_latency: totals.duration_sum() * 1e3 / divisor,
                error_rate: totals.by_class().get(StatusClass::ServerError) as f64 / divisor,
            }
        });
        let mut endpoints: Vec<_> = endpoints.collect();
        endpoints.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.requests));
        endpoints.truncate(limit);
        endpoints
    }

    /// Returns the numbers of requests completed since the start, by status class.
    pub fn by_status_class(&self) -> StatusClassCounts {
        let mut counts = StatusClassCounts::default();
        for (_, totals) in self.requests.totals() {
            counts.add(totals.by_class());
        }
        counts
    }

    /// Encodes all metrics in the Prometheus text format.
    pub fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory cannot fail; a family that cannot be encoded is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Encodes all metrics in the `OpenMetrics` format, with traces as exemplars of the duration buckets.
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
        metrics.declare_routes(["/api/v1/budget".to_owned(), "/api/v1/budget/metrics/{id}".to_owned()]);
        metrics
    }

    fn record(metrics: &Metrics, template: &str, status: u16) {
        metrics.requests().start();
        let status = StatusCode::from_u16(status).unwrap();
        metrics.requests().finish(
            metrics.route(template),
            &Method::GET,
            status,
            Duration::from_millis(3),
            Some(TraceId::random()),
        );
    }

    #[test]
    fn a_sampled_request_is_the_exemplar_of_its_duration_bucket() {
        let metrics = metrics();
        record(&metrics, "/api/v1/budget", 200);
        let text = metrics.openmetrics();
        let exemplars: Vec<_> = text.lines().filter(|line| line.contains(" # {trace_id=")).collect();
        assert_eq!(exemplars.len(), 1, "{text}");
        assert!(exemplars[0].contains("route=\"/api/v1/budget\"") && exemplars[0].contains("le=\"0.005\""));
        assert!(!metrics.text().contains("trace_id"), "the Prometheus text format has no exemplars");
    }

    #[test]
    fn counts_by_route_template_method_and_status_class() {
        let metrics = metrics();
        record(&metrics, "/api/v1/budget", 200);
        record(&metrics, "/api/v1/budget", 503);
        let text = metrics.text();
        let line = r#"phase6_http_requests_total{method="GET",route="/api/v1/budget",status="5xx",service="budget"} 1"#;
        assert!(text.contains(line), "{text}");
        let by_class = metrics.by_status_class();
        assert_eq!((by_class.total(), by_class.get(StatusClass::ServerError)), (2, 1));
        let busiest = metrics.busiest_endpoints(10);
        assert_eq!(busiest[0].endpoint, "GET /api/v1/budget");
        assert!((busiest[0].error_rate - 0.5).abs() < f64::EPSILON);
        assert!((busiest[0].avg_latency - 3.0).abs() < 0.01);
    }

    /// The original system kept one series for every raw path that it ever saw.
    #[test]
    fn paths_without_a_declared_route_share_one_series() {
        let metrics = metrics();
        for i in 0..1_000 {
            record(&metrics, &format!("/no/such/{i}"), 404);
        }
        assert_eq!(metrics.busiest_endpoints(10).len(), 1);
        assert_eq!(metrics.busiest_endpoints(10)[0].endpoint, "GET unmatched");
    }
}
