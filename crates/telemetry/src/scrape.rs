//! Series whose values are read from their owner when somebody looks.

use std::collections::HashMap;

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// What a series is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// The values of a family, one for each set of label values.
pub type Values = Vec<(Vec<String>, f64)>;

pub(crate) struct Family<F> {
    desc: Desc,
    kind: SeriesKind,
    labels: &'static [&'static str],
    values: F,
}

impl<F: Fn() -> Values + Send + Sync> Family<F> {
    pub(crate) fn new(
        kind: SeriesKind,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        values: F,
    ) -> Result<Self, prometheus::Error> {
        let names = labels.iter().map(ToString::to_string).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new())?;
        Ok(Self { desc, kind, labels, values })
    }
}

impl<F: Fn() -> Values + Send + Sync> Collector for Family<F> {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = (self.values)().into_iter().map(|(values, number)| {
            let labels = self.labels.iter().copied().zip(values.iter().map(String::as_str));
            let mut metric = labelled(labels);
            match self.kind {
                SeriesKind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(number);
                    metric.set_counter(counter);
                }
                SeriesKind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(number);
                    metric.set_gauge(gauge);
                }
            }
            metric
        });
        let kind = match self.kind {
            SeriesKind::Counter => MetricType::COUNTER,
            SeriesKind::Gauge => MetricType::GAUGE,
        };
        family(&self.desc, kind, metrics.collect()).into_iter().collect()
    }
}

/// A sample with these labels and no value yet.
pub(crate) fn labelled<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Metric {
    let pairs = labels.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

/// A family of samples; none without a sample.
pub(crate) fn family(desc: &Desc, kind: MetricType, metrics: Vec<Metric>) -> Option<MetricFamily> {
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
