//! Access of the telemetry layer to a request, and the metric series of the tracer.

use std::sync::Arc;

use phase6_otlp::{ExportCounts, Exporter};
use phase6_telemetry::{RequestAccessors, Telemetry};

use super::context::{context, governed};
use crate::operations::Registrar;

/// Access of the telemetry layer to the extensions of a request.
pub(super) const ACCESSORS: RequestAccessors = RequestAccessors {
    tracing: |extensions| Some(&governed(extensions)?.policy.document.policy.tracing),
    trusted: |extensions| context(extensions).is_some_and(|context| context.caller.internal),
};

/// Registers the metric series of sampling and of the export of spans.
pub(crate) fn register(
    registrar: &Registrar<'_>,
    telemetry: &Arc<Telemetry>,
    exporter: Option<&Arc<Exporter>>,
) {
    // The telemetry owns the series: a strong reference would be a cycle.
    let weak = Arc::downgrade(telemetry);
    registrar.gauges(
        "phase6_trace_sampling_rate",
        "Fraction of requests sampled, from 0 to 1; below `samplingRate` while `targetSpansPerSecond` limits it",
        &[],
        move || weak.upgrade().map(|telemetry| (vec![], telemetry.sampling_rate())).into_iter().collect(),
    );
    let Some(exporter) = exporter else { return };
    let counts = Arc::clone(exporter);
    registrar.counter(
        "phase6_spans_exported_total",
        "Spans accepted by the OpenTelemetry collector",
        move || counts.counts().exported as f64,
    );
    let counts = Arc::clone(exporter);
    registrar.counters(
        "phase6_spans_dropped_total",
        "Spans dropped without reaching the OpenTelemetry collector, by reason",
        &["reason"],
        move || {
            let ExportCounts { queue_full, export_failed, .. } = counts.counts();
            [("queue_full", queue_full), ("export_failed", export_failed)]
                .map(|(reason, count)| (vec![reason.to_owned()], count as f64))
                .into()
        },
    );
}
