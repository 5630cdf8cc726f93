//! Metrics of the operator.
//!
//! Label values come from closed sets. Serving them is left to [`http`](crate::http).

use std::time::Duration;

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};

use crate::error::ReconcileError;

/// Every metric of the operator, registered.
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    errors: IntCounterVec,
    writes: IntCounterVec,
    duration: Histogram,
    /// Time in seconds from publishing a policy until every ready replica enforced it.
    pub propagation: Histogram,
    /// Number of resources in the watch cache.
    pub resources: IntGauge,
    /// Number of reconciles in progress.
    pub active: IntGauge,
    /// 1 while this replica is the leader, else 0.
    pub leader: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, label: &str| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), &[label]))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            register(&registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.into())))
        };
        Self {
            reconciles: counter(
                "phase6_operator_reconciles_total",
                "Number of finished reconciles, by result",
                "result",
            ),
            errors: counter(
                "phase6_operator_reconcile_errors_total",
                "Number of failed reconciles, by reason",
                "reason",
            ),
            writes: counter(
                "phase6_operator_writes_total",
                "Number of writes to the API server, by kind of object",
                "kind",
            ),
            duration: histogram(
                "phase6_operator_reconcile_duration_seconds",
                "Duration of a reconcile in seconds, including the wait for replicas",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0],
            ),
            propagation: histogram(
                "phase6_policy_propagation_seconds",
                "Time in seconds from publishing a policy until every ready replica enforced it",
                &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0],
            ),
            resources: gauge(
                "phase6_operator_resources",
                "Number of Phase6Service resources in the watch cache",
            ),
            active: gauge("phase6_operator_active_reconciles", "Number of reconciles in progress"),
            leader: gauge("phase6_operator_leader", "1 while this replica is the leader, else 0"),
            registry,
        }
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("the name of a metric is a valid constant");
    registry.register(Box::new(metric.clone())).expect("each name is registered once");
    metric
}

impl Metrics {
    /// Records a finished reconcile.
    pub fn record_reconcile(&self, result: Result<(), &ReconcileError>, duration: Duration) {
        self.duration.observe(duration.as_secs_f64());
        self.reconciles.with_label_values(&[if result.is_ok() { "ok" } else { "error" }]).inc();
        if let Err(error) = result {
            self.errors.with_label_values(&[error.label()]).inc();
        }
    }

    /// Records a write to the API server.
    pub fn record_write(&self, kind: &str) {
        self.writes.with_label_values(&[kind]).inc();
    }

    /// Returns all metrics in the text format of Prometheus.
    pub fn encode(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    /// Encodes metrics of which each has a value.
    fn encoded() -> String {
        let metrics = Metrics::default();
        metrics.record_reconcile(Err(&ReconcileError::NotLeader), Duration::from_millis(3));
        metrics.record_write("ConfigMap");
        metrics.encode()
    }

    #[test]
    fn promtool_accepts_every_metric() {
        let mut tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("promtool is installed; `cargo xtask test` installs it");
        tool.stdin.take().unwrap().write_all(encoded().as_bytes()).unwrap();
        assert!(tool.wait().unwrap().success());
    }

    #[test]
    fn rules_and_dashboards_of_the_chart_use_metrics_that_exist() {
        let encoded = encoded();
        let chart = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("charts/phase6");
        let files = ["rules/phase6.yaml", "dashboards/phase6-operator.json", "dashboards/phase6-fleet.json"];
        let text = files.map(|file| std::fs::read_to_string(chart.join(file)).unwrap()).concat();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let prefixes = ["phase6_operator_", "phase6_policy_propagation_"];
        let mut found = 0;
        for word in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
            assert!(encoded.contains(&format!("\n{word}")), "the operator has no metric {word}");
            found += 1;
        }
        assert!(found > 10);
    }
}
