//! The operator's own series, and the pages it serves: `/healthz`, `/readyz`, `/metrics`.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

use crate::{error::Error, run::Shared};

/// Every series. Label values come from closed sets.
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    writes: IntCounterVec,
    /// How long a reconcile takes.
    pub duration: Histogram,
    /// From publishing a policy until every ready replica enforces it.
    pub propagation: Histogram,
    /// Resources in view.
    pub resources: IntGauge,
    /// Reconciles under way.
    pub active: IntGauge,
    /// 1 while this replica is the one that writes.
    pub leader: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, label: &str| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            registered(
                &registry,
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.into())),
            )
        };
        Self {
            reconciles: counter(
                "phase6_operator_reconciles_total",
                "Reconciles that ended, by result.",
                "result",
            ),
            errors: counter(
                "phase6_operator_reconcile_errors_total",
                "Reconciles that failed, by reason.",
                "reason",
            ),
            writes: counter(
                "phase6_operator_writes_total",
                "Objects written to the API server, by kind.",
                "kind",
            ),
            duration: histogram(
                "phase6_operator_reconcile_duration_seconds",
                "Time of a reconcile, the wait for replicas included.",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            ),
            propagation: histogram(
                "phase6_policy_propagation_seconds",
                "Time from publishing a policy until every ready replica enforced it.",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0],
            ),
            resources: gauge("phase6_operator_resources", "Phase6Service resources in view."),
            active: gauge("phase6_operator_active_reconciles", "Reconciles under way."),
            leader: gauge("phase6_operator_leader", "1 while this replica is the one that writes."),
            registry,
        }
    }
}

/// Series are made once, from names that are fixed.
fn registered<C: Collector + Clone + 'static>(registry: &Registry, series: prometheus::Result<C>) -> C {
    let series = series.expect("a series with a valid name");
    registry.register(Box::new(series.clone())).expect("a name that is used once");
    series
}

impl Metrics {
    /// A reconcile ended.
    pub fn ended(&self, result: Result<(), &Error>, took: Duration) {
        self.duration.observe(took.as_secs_f64());
        self.reconciles.with_label_values(&[if result.is_ok() { "ok" } else { "error" }]).inc();
        if let Err(error) = result {
            self.errors.with_label_values(&[error.reason()]).inc();
        }
    }

    /// An object was written.
    pub fn wrote(&self, kind: &str) {
        self.writes.with_label_values(&[kind]).inc();
    }

    fn text(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// The operator's pages.
pub(crate) fn pages(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

/// Ready: every watch has shown all there is, so that this replica could take over at once.
async fn readyz(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    if shared.is_warm() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "watches are starting\n")
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shared.metrics.text())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    /// Each series with a value.
    fn all() -> String {
        let metrics = Metrics::default();
        metrics.ended(Err(&Error::NotLeader), Duration::from_millis(3));
        metrics.wrote("ConfigMap");
        metrics.text()
    }

    #[test]
    fn prometheus_finds_nothing_wrong_with_the_series() {
        let mut tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("promtool can be started; cargo xtask test installs it");
        tool.stdin.take().unwrap().write_all(all().as_bytes()).unwrap();
        assert!(tool.wait().unwrap().success());
    }

    #[test]
    fn rules_and_dashboards_of_the_chart_name_series_that_there_are() {
        let shown = all();
        let chart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("charts/phase6");
        let files = ["rules/phase6.yaml", "dashboards/phase6-operator.json", "dashboards/phase6-fleet.json"];
        let text = files.map(|file| std::fs::read_to_string(chart.join(file)).unwrap()).concat();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let ours = ["phase6_operator_", "phase6_policy_propagation_"];
        let mut found = 0;
        for word in words.filter(|word| ours.iter().any(|start| word.starts_with(start))) {
            assert!(shown.contains(&format!("\n{word}")), "the operator does not show {word}");
            found += 1;
        }
        assert!(found > 10);
    }
}
