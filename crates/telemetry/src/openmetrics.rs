//! Encoder of the `OpenMetrics` text format (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! Carries exemplars, which link a histogram bucket to a trace and which the Prometheus text format cannot
//! express. The `prometheus` crate's encoder writes only the older format.

use std::{fmt::Write, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::TraceId;

/// A sampled request that fell into a bucket.
#[derive(Clone, Copy, Debug)]
struct Exemplar {
    trace_id: TraceId,
    duration: Duration,
    at: Timestamp,
}

/// The newest exemplar of each bucket of a histogram.
#[derive(Debug)]
pub(crate) struct Exemplars {
    /// Upper bounds of the buckets in seconds, ascending.
    bounds: &'static [f64],
    /// One slot per bound, and one for durations above all bounds.
    newest: Box<[Mutex<Option<Exemplar>>]>,
}

impl Exemplars {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, newest: (0..=bounds.len()).map(|_| Mutex::default()).collect() }
    }

    /// Records a sampled request as the exemplar of its bucket.
    pub(crate) fn record(&self, trace_id: TraceId, duration: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < duration.as_secs_f64());
        *self.newest[bucket].lock() = Some(Exemplar { trace_id, duration, at: Timestamp::now() });
    }

    fn get(&self, bucket: usize) -> Option<Exemplar> {
        self.newest.get(bucket).and_then(|slot| *slot.lock())
    }
}

/// Content type of the `OpenMetrics` text format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Encodes families of counters, gauges and histograms; other types are left out. `exemplars` returns those
/// of a histogram, by the name of its family.
pub(crate) fn encode<'a>(
    families: &[MetricFamily],
    exemplars: impl Fn(&str, &Metric) -> Option<&'a Exemplars>,
) -> String {
    let mut out = String::new();
    for family in families {
        let full_name = family.name();
        // The specification names a counter family without the `_total` suffix of its samples.
        let (name, kind) = match family.get_field_type() {
            MetricType::COUNTER => (full_name.strip_suffix("_total").unwrap_or(full_name), "counter"),
            MetricType::HISTOGRAM => (full_name, "histogram"),
            MetricType::GAUGE => (full_name, "gauge"),
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        let _ = writeln!(out, "# HELP {name} {}", escape(family.help()));
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for metric in family.get_metric() {
            let labels = format_labels(metric);
            match kind {
                "counter" => {
                    write_sample(
                        &mut out,
                        &format!("{name}_total"),
                        &labels,
                        metric.get_counter().get_value(),
                    );
                }
                "gauge" => write_sample(&mut out, name, &labels, metric.get_gauge().get_value()),
                _ => write_histogram(&mut out, name, &labels, metric, exemplars(name, metric)),
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

fn write_histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    metric: &Metric,
    exemplars: Option<&Exemplars>,
) {
    let histogram = metric.get_histogram();
    let buckets =
        histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let finite = buckets.filter(|(bound, _)| bound.is_finite());
    let infinite = (f64::INFINITY, histogram.get_sample_count());
    for (i, (bound, count)) in finite.chain([infinite]).enumerate() {
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = write!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", format_number(bound));
        if let Some(Exemplar { trace_id, duration, at }) = exemplars.and_then(|exemplars| exemplars.get(i)) {
            let (seconds, at) = (duration.as_secs_f64(), at.as_millisecond() as f64 / 1e3);
            let _ = write!(out, " # {{trace_id=\"{trace_id}\"}} {seconds} {at}");
        }
        out.push('\n');
    }
    write_sample(out, &format!("{name}_sum"), labels, histogram.get_sample_sum());
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(out, "{name}_count{braces} {}", histogram.get_sample_count());
}

fn write_sample(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {}", format_number(value))
    } else {
        writeln!(out, "{name}{{{labels}}} {}", format_number(value))
    };
}

/// Formats the labels of a metric, without braces.
fn format_labels(metric: &Metric) -> String {
    let pairs = metric.get_label().iter();
    let pairs: Vec<_> = pairs.map(|pair| format!("{}=\"{}\"", pair.name(), escape(pair.value()))).collect();
    pairs.join(",")
}

/// Formats a number in the canonical form of the specification, in which a whole number has a fraction
/// (`1.0`): consumers compare bucket bounds as text.
fn format_number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".into() } else { format!("{value:?}") }
}

fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

    use super::*;

    const BOUNDS: [f64; 2] = [0.5, 1.0];

    #[test]
    fn encodes_each_type_as_specified() {
        let registry = Registry::new();
        let counter =
            IntCounter::with_opts(Opts::new("calls_total", "Calls \"made\"\\.").const_label("to", "a\"b"))
                .unwrap();
        let gauge = IntGauge::new("open", "Open.").unwrap();
        let histogram =
            Histogram::with_opts(HistogramOpts::new("duration_seconds", "Time.").buckets(BOUNDS.to_vec()))
                .unwrap();
        counter.inc_by(3);
        for seconds in [0.25, 1.0, 7.0] {
            histogram.observe(seconds);
        }
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        let exemplars = Exemplars::new(&BOUNDS);
        let trace_id = TraceId::random();
        exemplars.record(trace_id, Duration::from_secs(1));
        let at = exemplars.get(1).unwrap().at.as_millisecond() as f64 / 1e3;

        let text = encode(&registry.gather(), |name, _| (name == "duration_seconds").then_some(&exemplars));

        assert_eq!(
            text,
            format!(
                "# HELP calls Calls \\\"made\\\"\\\\.\n\
                 # TYPE calls counter\n\
                 calls_total{{to=\"a\\\"b\"}} 3.0\n\
                 # HELP duration_seconds Time.\n\
                 # TYPE duration_seconds histogram\n\
                 duration_seconds_bucket{{le=\"0.5\"}} 1\n\
                 duration_seconds_bucket{{le=\"1.0\"}} 2 # {{trace_id=\"{trace_id}\"}} 1 {at}\n\
                 duration_seconds_bucket{{le=\"+Inf\"}} 3\n\
                 duration_seconds_sum 8.25\n\
                 duration_seconds_count 3\n\
                 # HELP open Open.\n\
                 # TYPE open gauge\n\
                 open 0.0\n\
                 # EOF\n"
            )
        );
    }

    #[test]
    fn an_exemplar_is_recorded_in_the_bucket_of_its_duration() {
        let exemplars = Exemplars::new(&BOUNDS);
        for (millis, bucket) in [(0, 0), (500, 0), (501, 1), (1_000, 1), (1_001, 2)] {
            let trace_id = TraceId::random();
            exemplars.record(trace_id, Duration::from_millis(millis));
            assert_eq!(exemplars.get(bucket).unwrap().trace_id, trace_id, "{millis} ms");
        }
    }
}
