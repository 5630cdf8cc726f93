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
        let metrics: Vec<Metric> = (self.values)()
            .into_iter()
            .map(|(values, number)| {
                let pairs = self.labels.iter().zip(values).map(|(name, value)| {
                    let mut pair = LabelPair::default();
                    pair.set_name((*name).to_owned());
                    pair.set_value(value);
                    pair
                });
                let mut metric = Metric::default();
                metric.set_label(pairs.collect());
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
            })
            .collect();
        if metrics.is_empty() {
            return vec![];
        }
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(match self.kind {
            SeriesKind::Counter => MetricType::COUNTER,
            SeriesKind::Gauge => MetricType::GAUGE,
        });
        family.set_metric(metrics);
        vec![family]
    }
}
