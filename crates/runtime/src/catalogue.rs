//! Registers metrics and remembers what they are called, so that the reference documentation is written by the code
//! that exports them.

use std::fmt;

use prometheus::core::{Atomic, Collector, GenericCounter, GenericCounterVec, GenericGauge, GenericGaugeVec};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{Histogram, HistogramVec, Registry};

/// How the values of a metric behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; read its rate.
    Counter,
    /// Goes up and down; read its value.
    Gauge,
    /// Counts observations in buckets; read its quantiles.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// A collector whose kind is known before it has any series.
pub trait Described: Collector + Clone + 'static {
    /// The kind.
    const KIND: Kind;
}

impl<P: Atomic + 'static> Described for GenericCounter<P> {
    const KIND: Kind = Kind::Counter;
}
impl<P: Atomic + 'static> Described for GenericCounterVec<P> {
    const KIND: Kind = Kind::Counter;
}
impl<P: Atomic + 'static> Described for GenericGauge<P> {
    const KIND: Kind = Kind::Gauge;
}
impl<P: Atomic + 'static> Described for GenericGaugeVec<P> {
    const KIND: Kind = Kind::Gauge;
}
impl Described for Histogram {
    const KIND: Kind = Kind::Histogram;
}
impl Described for HistogramVec {
    const KIND: Kind = Kind::Histogram;
}

/// One metric as the reference documentation shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Name, as a query writes it (a histogram without `_bucket`).
    pub name: String,
    /// How its values behave.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
}

impl Family {
    /// The unit, which Prometheus' naming puts at the end of the name.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        let base = self.name.strip_suffix("_total").unwrap_or(&self.name);
        match base.rsplit('_').next() {
            Some("seconds") => "seconds",
            Some("bytes") => "bytes",
            _ => "count",
        }
    }

    fn of_gathered(family: &MetricFamily) -> Self {
        let labels = family.get_metric().first().map(|metric| metric.get_label()).unwrap_or_default();
        Self {
            name: family.name().to_owned(),
            kind: match family.get_field_type() {
                MetricType::COUNTER => Kind::Counter,
                MetricType::HISTOGRAM => Kind::Histogram,
                _ => Kind::Gauge,
            },
            labels: labels.iter().map(|label| label.name().to_owned()).collect(),
            help: family.help().to_owned(),
        }
    }
}

/// Registers collectors and remembers their descriptions.
pub struct Catalogue<'a> {
    registry: &'a Registry,
    families: Vec<Family>,
}

impl<'a> Catalogue<'a> {
    /// An empty catalogue on top of `registry`.
    #[must_use]
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, families: Vec::new() }
    }

    /// Registers one collector.
    ///
    /// # Errors
    /// Its name is taken.
    pub fn add<C: Described>(&mut self, collector: &C) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(collector.clone()))?;
        self.families.extend(collector.desc().into_iter().map(|desc| Family {
            name: desc.fq_name.clone(),
            kind: C::KIND,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        Ok(())
    }

    /// What was registered.
    #[must_use]
    pub fn into_families(self) -> Vec<Family> {
        self.families
    }
}

/// What every binary exports beside its own metrics: its version, its readiness, and its process.
#[must_use]
pub fn shared_families() -> Vec<Family> {
    let registry = Registry::new();
    crate::build_info(&registry, "", "");
    let mut gathered = registry.gather();
    gathered.extend(crate::server::OwnMetrics::new().gather(true));
    gathered.iter().map(Family::of_gathered).collect()
}

/// The metrics as a Markdown table, sorted by name.
#[must_use]
pub fn markdown(mut families: Vec<Family>) -> String {
    families.sort_by(|left, right| left.name.cmp(&right.name));
    let rows = families.iter().map(|family| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, unit, help) =
            (&family.name, family.kind, family.unit(), family.help.trim_end_matches('.'));
        format!("| `{name}` | {kind} | {} | {unit} | {help} |\n", labels.join(" "))
    });
    let head = "| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n".to_owned();
    rows.fold(head, |text, row| text + &row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{IntCounterVec, Opts};

    #[test]
    fn a_metric_without_series_is_described_too() {
        let registry = Registry::new();
        let mut catalogue = Catalogue::new(&registry);
        let waits =
            IntCounterVec::new(Opts::new("wait_seconds_total", "Seconds of waiting."), &["by", "whom"])
                .unwrap();
        catalogue.add(&waits).unwrap();
        assert!(catalogue.add(&waits).is_err(), "registered twice");
        let families = catalogue.into_families();
        assert_eq!(families.len(), 1);
        let row = "| `wait_seconds_total` | counter | `by` `whom` | seconds | Seconds of waiting |\n";
        assert!(markdown(families).ends_with(row));
    }

    #[test]
    fn what_every_binary_has_is_described_with_its_kind_and_labels() {
        let families = shared_families();
        let find = |name: &str| families.iter().find(|family| family.name == name).unwrap();
        assert_eq!(find("build_info").labels, ["name", "version"]);
        assert_eq!(find("service_ready").kind, Kind::Gauge);
        assert_eq!(find("process_cpu_seconds_total").kind, Kind::Counter);
        assert_eq!(find("process_resident_memory_bytes").unit(), "bytes");
    }
}
