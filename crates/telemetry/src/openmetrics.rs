//! Text in the format of `OpenMetrics` (<https://prometheus.io/docs/specs/om/open_metrics_spec/>): what the Prometheus
//! format cannot say, above all which trace is an example of a bucket.
//!
//! Written here, because the registry's own encoder knows the older format only.

use std::{fmt::Write, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::TraceId;

/// A request that fell into a bucket, and whose trace can be looked at.
#[derive(Clone, Copy, Debug)]
struct Exemplar {
    trace_id: TraceId,
    took: Duration,
    at: Timestamp,
}

/// The newest exemplar of each bucket of a histogram.
#[derive(Debug)]
pub(crate) struct Exemplars {
    /// Upper bounds in seconds, rising.
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all.
    newest: Box<[Mutex<Option<Exemplar>>]>,
}

impl Exemplars {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, newest: (0..=bounds.len()).map(|_| Mutex::default()).collect() }
    }

    /// Remembers a request. Called for sampled ones only.
    pub(crate) fn record(&self, trace_id: TraceId, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took.as_secs_f64());
        *self.newest[bucket].lock() = Some(Exemplar { trace_id, took, at: Timestamp::now() });
    }

    fn get(&self, bucket: usize) -> Option<Exemplar> {
        self.newest.get(bucket).and_then(|slot| *slot.lock())
    }
}

/// The content type of what [`encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes families of counters, gauges and histograms. `exemplars` finds those of a histogram.
pub(crate) fn encode<'a>(
    families: &[MetricFamily],
    exemplars: impl Fn(&str, &Metric) -> Option<&'a Exemplars>,
) -> String {
    let mut out = String::new();
    for family in families {
        let kind = family.get_field_type();
        let samples = family.name();
        // A family of counters is called without the suffix that its samples have.
        let (name, kind) = match kind {
            MetricType::COUNTER => (samples.strip_suffix("_total").unwrap_or(samples), "counter"),
            MetricType::HISTOGRAM => (samples, "histogram"),
            MetricType::GAUGE => (samples, "gauge"),
            // Not in use here.
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        let _ = writeln!(out, "# HELP {name} {}", escaped(family.help()));
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for metric in family.get_metric() {
            let labels = labels(metric);
            match kind {
                "counter" => {
                    sample(&mut out, &format!("{name}_total"), &labels, metric.get_counter().get_value());
                }
                "gauge" => sample(&mut out, name, &labels, metric.get_gauge().get_value()),
                _ => histogram(&mut out, name, &labels, metric, exemplars(name, metric)),
            }
        }
    }
    out.push_str("# EOF\n");
    out
}

fn histogram(out: &mut String, name: &str, labels: &str, metric: &Metric, exemplars: Option<&Exemplars>) {
    let histogram = metric.get_histogram();
    let bounded =
        histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let bounded = bounded.filter(|(bound, _)| bound.is_finite());
    let all = (f64::INFINITY, histogram.get_sample_count());
    for (i, (bound, count)) in bounded.chain([all]).enumerate() {
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = write!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}", number(bound));
        if let Some(Exemplar { trace_id, took, at }) = exemplars.and_then(|exemplars| exemplars.get(i)) {
            let (took, at) = (took.as_secs_f64(), at.as_millisecond() as f64 / 1e3);
            let _ = write!(out, " # {{trace_id=\"{trace_id}\"}} {took} {at}");
        }
        out.push('\n');
    }
    sample(out, &format!("{name}_sum"), labels, histogram.get_sample_sum());
    let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(out, "{name}_count{braces} {}", histogram.get_sample_count());
}

fn sample(out: &mut String, name: &str, labels: &str, value: f64) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {}", number(value))
    } else {
        writeln!(out, "{name}{{{labels}}} {}", number(value))
    };
}

/// The labels of a metric, without braces.
fn labels(metric: &Metric) -> String {
    let pairs = metric.get_label().iter();
    let pairs: Vec<_> = pairs.map(|pair| format!("{}=\"{}\"", pair.name(), escaped(pair.value()))).collect();
    pairs.join(",")
}

/// A number as the format wants it: bounds are equal only if their texts are.
fn number(value: f64) -> String {
    if value == f64::INFINITY { "+Inf".into() } else { format!("{value:?}") }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('\n', r"\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry};

    use super::*;

    const BOUNDS: [f64; 2] = [0.5, 1.0];

    #[test]
    fn writes_what_the_specification_says() {
        let registry = Registry::new();
        let counter =
            IntCounter::with_opts(Opts::new("asked_total", "Said \"no\"\\.").const_label("to", "a\"b"))
                .unwrap();
        let gauge = IntGauge::new("open", "Open.").unwrap();
        let histogram =
            Histogram::with_opts(HistogramOpts::new("took_seconds", "Took.").buckets(BOUNDS.to_vec()))
                .unwrap();
        counter.inc_by(3);
        for took in [0.25, 1.0, 7.0] {
            histogram.observe(took);
        }
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        let exemplars = Exemplars::new(&BOUNDS);
        let trace_id = TraceId::random();
        exemplars.record(trace_id, Duration::from_secs(1));
        let at = exemplars.get(1).unwrap().at.as_millisecond() as f64 / 1e3;

        let text = encode(&registry.gather(), |name, _| (name == "took_seconds").then_some(&exemplars));

        assert_eq!(
            text,
            format!(
                "# HELP asked Said \\\"no\\\"\\\\.\n\
                 # TYPE asked counter\n\
                 asked_total{{to=\"a\\\"b\"}} 3.0\n\
                 # HELP open Open.\n\
                 # TYPE open gauge\n\
                 open 0.0\n\
                 # HELP took_seconds Took.\n\
                 # TYPE took_seconds histogram\n\
                 took_seconds_bucket{{le=\"0.5\"}} 1\n\
                 took_seconds_bucket{{le=\"1.0\"}} 2 # {{trace_id=\"{trace_id}\"}} 1 {at}\n\
                 took_seconds_bucket{{le=\"+Inf\"}} 3\n\
                 took_seconds_sum 8.25\n\
                 took_seconds_count 3\n\
                 # EOF\n"
            )
        );
    }

    #[test]
    fn an_exemplar_lies_in_its_bucket() {
        let exemplars = Exemplars::new(&BOUNDS);
        for (took, bucket) in [(0, 0), (500, 0), (501, 1), (1_000, 1), (1_001, 2)] {
            let trace_id = TraceId::random();
            exemplars.record(trace_id, Duration::from_millis(took));
            assert_eq!(exemplars.get(bucket).unwrap().trace_id, trace_id, "{took} ms");
        }
    }
}
