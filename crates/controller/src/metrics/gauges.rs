//! Gauges for thousands of pipelines: a series takes some dozens of bytes, where one of the library's own takes a kilobyte.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use analytics_runtime::catalogue::{Described, Kind};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// Between the values of labels in a key; none of them has it.
const SEPARATOR: char = '\u{1f}';

/// Whole numbers, one for each combination of label values.
#[derive(Clone)]
pub(super) struct Gauges {
    description: Arc<Desc>,
    by_labels: Arc<Mutex<BTreeMap<Box<str>, i64>>>,
}

impl Gauges {
    /// No series yet.
    ///
    /// # Errors
    /// When the name or a label is none that Prometheus accepts.
    pub(super) fn new(name: &str, help: &str, labels: &[&str]) -> Result<Self, prometheus::Error> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let description = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
        Ok(Self { description: Arc::new(description), by_labels: Arc::default() })
    }

    /// Sets the series with these label values, in the order of the labels; `None` removes it.
    pub(super) fn set(&self, values: &[&str], value: Option<i64>) {
        let key = values.join(SEPARATOR.encode_utf8(&mut [0; 4]));
        let mut by_labels = self.lock();
        match (value, by_labels.get_mut(key.as_str())) {
            (Some(value), Some(series)) => *series = value,
            (Some(value), None) => {
                by_labels.insert(key.into_boxed_str(), value);
            }
            (None, _) => {
                by_labels.remove(key.as_str());
            }
        }
    }

    fn metric(&self, key: &str, value: i64) -> Metric {
        let pairs = self.description.variable_labels.iter().zip(key.split(SEPARATOR));
        let mut pairs: Vec<_> = pairs
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.clone());
                pair.set_value(value.to_owned());
                pair
            })
            .collect();
        // As the library sorts them.
        pairs.sort_by(|a, b| a.name().cmp(b.name()));
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = Metric::from_label(pairs);
        metric.set_gauge(gauge);
        metric
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, i64>> {
        self.by_labels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.description]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.description.fq_name.clone());
        family.set_help(self.description.help.clone());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(self.lock().iter().map(|(key, value)| self.metric(key, *value)).collect());
        vec![family]
    }
}

impl Described for Gauges {
    const KIND: Kind = Kind::Gauge;
}

#[cfg(test)]
mod tests {
    use prometheus::{IntGaugeVec, Opts, Registry, TextEncoder};

    use super::*;

    fn text(collector: Box<dyn Collector>) -> String {
        let registry = Registry::new();
        registry.register(collector).unwrap();
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    /// Whoever reads the metrics must not notice which of the two wrote them.
    #[test]
    fn they_look_like_those_of_the_library() {
        let labels = ["namespace", "pipeline", "condition"];
        let series = [["shop", "clicks", "Ready"], ["shop", "clicks", "a\"b\\c"], ["", "views", "Ready"]];
        let gauges = Gauges::new("waiting", "What waits.", &labels).unwrap();
        let library = IntGaugeVec::new(Opts::new("waiting", "What waits."), &labels).unwrap();
        for (value, series) in (7..).zip(&series) {
            gauges.set(series, Some(1));
            gauges.set(series, Some(value));
            library.with_label_values(series).set(value);
        }
        gauges.set(&["shop", "gone", "Ready"], Some(1));
        gauges.set(&["shop", "gone", "Ready"], None);
        gauges.set(&["shop", "never", "Ready"], None);
        assert_eq!(text(Box::new(gauges)), text(Box::new(library)));
    }

    #[test]
    fn a_name_that_prometheus_does_not_accept_is_refused() {
        assert!(Gauges::new("not a name", "x", &[]).is_err());
    }
}
