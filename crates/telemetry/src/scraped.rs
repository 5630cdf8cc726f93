//! Metric families whose values are read from their owner at each scrape.

use std::collections::HashMap;

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// Type of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    /// A value that only increases.
    Counter,
    /// A value that increases and decreases.
    Gauge,
}

/// Samples of a family: the label values of each series, in the order of the family's label names, and its
/// value.
pub type Samples = Vec<(Vec<String>, f64)>;

/// A family whose samples come from the function `read`.
pub(crate) struct ScrapedFamily<F> {
    desc: Desc,
    kind: SeriesKind,
    labels: &'static [&'static str],
    read: F,
}

impl<F: Fn() -> Samples + Send + Sync> ScrapedFamily<F> {
    pub(crate) fn new(
        kind: SeriesKind,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: F,
    ) -> Result<Self, prometheus::Error> {
        let names = labels.iter().map(ToString::to_string).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())?;
        Ok(Self { desc, kind, labels, read })
    }
}

impl<F: Fn() -> Samples + Send + Sync> Collector for ScrapedFamily<F> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = (self.read)().into_iter().map(|(label_values, value)| {
            let labels = self.labels.iter().copied().zip(label_values.iter().map(String::as_str));
            let mut metric = metric_with_labels(labels);
            match self.kind {
                SeriesKind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                SeriesKind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        });
        let kind = match self.kind {
            SeriesKind::Counter => MetricType::COUNTER,
            SeriesKind::Gauge => MetricType::GAUGE,
        };
        metric_family(&self.desc, kind, metrics.collect()).into_iter().collect()
    }
}

/// Creates a metric with labels and without a value.
pub(crate) fn metric_with_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Metric {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

/// Creates a family from its metrics, or returns `None` if there are none.
pub(crate) fn metric_family(desc: &Desc, kind: MetricType, metrics: Vec<Metric>) -> Option<MetricFamily> {
    if metrics.is_empty() {
        return None;
    }
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(metrics);
    Some(family)
}
