//! Registration of metric series and snapshots: one call per series, by the part that it belongs to.
//!
//! Values are read when a series is scraped. Closures must not hold the telemetry or the state of the
//! service, which own the series: the service would never be freed.

use phase6_telemetry::{SeriesKind, Telemetry};
use serde_json::Value;

use super::{ComponentKind, Components};

/// Values of a family: label values in the order of the labels, and the number.
pub(crate) type Values = Vec<(Vec<String>, f64)>;

/// The places where a part of a service registers what it shows.
pub(crate) struct Registrar<'a> {
    components: &'a Components,
    telemetry: &'a Telemetry,
}

impl<'a> Registrar<'a> {
    pub(crate) fn new(components: &'a Components, telemetry: &'a Telemetry) -> Self {
        Self { components, telemetry }
    }

    /// Registers the snapshot of a component, as `/api/v1/system/observability` shows it.
    pub(crate) fn snapshot(
        &self,
        kind: ComponentKind,
        name: &str,
        snapshot: impl Fn() -> Value + Send + Sync + 'static,
    ) {
        self.components.register(kind, name, snapshot);
    }

    /// Registers a counter without labels.
    pub(crate) fn counter(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.counters(name, help, &[], move || vec![(vec![], read())]);
    }

    /// Registers a gauge without labels.
    pub(crate) fn gauge(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.gauges(name, help, &[], move || vec![(vec![], read())]);
    }

    /// Registers a family of counters. The values of its labels must come from a closed set.
    pub(crate) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: impl Fn() -> Values + Send + Sync + 'static,
    ) {
        self.telemetry.metrics().register(SeriesKind::Counter, name, help, labels, read);
    }

    /// Registers a family of gauges. The values of its labels must come from a closed set.
    pub(crate) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: impl Fn() -> Values + Send + Sync + 'static,
    ) {
        self.telemetry.metrics().register(SeriesKind::Gauge, name, help, labels, read);
    }
}
