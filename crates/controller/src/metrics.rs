//! Metrics of the controller.

mod gauges;
mod told;

use std::time::Duration;

use analytics_runtime::catalogue::{Catalogue, Family, shared_families};
use autoscaler::{Decision, DrainOutcome};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::error::Error;
use crate::kafka::LagError;
use gauges::Gauges;
use told::Told;

/// Metrics of the controller; registered once, shared by all parts.
#[derive(Clone)]
pub(crate) struct Metrics {
    reconciles: IntCounterVec,
    reconcile_seconds: Histogram,
    errors: IntCounterVec,
    writes: IntCounterVec,
    scale_decisions: IntCounterVec,
    lag_read_failures: IntCounterVec,
    lag_events: Gauges,
    lag_seconds: Gauges,
    replicas: Gauges,
    restarts: Gauges,
    rollout: Gauges,
    leader: IntGauge,
    lease_failures: IntCounter,
    told: Told,
}

const PIPELINE: [&str; 2] = ["namespace", "pipeline"];
/// What the controller writes.
const WRITTEN: [&str; 11] = [
    "AnalyticsPipelineStatus",
    "ConfigMap",
    "Deployment",
    "Event",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodMonitor",
    "PrometheusRule",
    "Service",
    "ServiceAccount",
];

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            reconciles: counters(
                "analytics_controller_reconciles_total",
                "Reconciles, by result (ok or error).",
                &["result"],
            )?,
            reconcile_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "analytics_controller_reconcile_seconds",
                    "Duration of a reconcile, in seconds.",
                )
                .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
            )?,
            errors: counters(
                "analytics_controller_errors_total",
                "Failed steps of a reconcile, by category.",
                &["category"],
            )?,
            writes: counters(
                "analytics_controller_writes_total",
                "Writes to the API server, by kind of object.",
                &["kind"],
            )?,
            scale_decisions: counters(
                "analytics_controller_scale_decisions_total",
                "Changes of the number of consumers, by direction (up or down).",
                &["direction"],
            )?,
            lag_read_failures: counters(
                "analytics_controller_lag_read_failures_total",
                "Attempts to read lag from Kafka that failed, by reason.",
                &["reason"],
            )?,
            lag_events: Gauges::new(
                "analytics_pipeline_lag_events",
                "Events that wait in the topic; absent while not known.",
                &PIPELINE,
            )?,
            lag_seconds: Gauges::new(
                "analytics_pipeline_lag_seconds",
                "Longest wait of an event, in seconds; absent while not known.",
                &PIPELINE,
            )?,
            replicas: Gauges::new(
                "analytics_pipeline_replicas",
                "Consumers of a pipeline, by state (desired, existing or ready).",
                &["namespace", "pipeline", "state"],
            )?,
            restarts: Gauges::new(
                "analytics_pipeline_consumer_restarts",
                "Restarts of containers of the consumers that there are now; falls when a pod goes.",
                &PIPELINE,
            )?,
            rollout: Gauges::new(
                "analytics_pipeline_rollout",
                "1 while consumers are being replaced by others, else 0.",
                &PIPELINE,
            )?,
            leader: IntGauge::new("analytics_controller_leader", "1 while this controller leads, else 0.")?,
            lease_failures: IntCounter::new(
                "analytics_controller_lease_failures_total",
                "Attempts to read or write the Lease that failed.",
            )?,
            told: Told::new()?,
        };
        metrics.begin_at_zero();
        metrics.add_to(&mut Catalogue::new(registry))?;
        Ok(metrics)
    }

    // A counter that is there only after something has happened shows no growth when that happens first, and a graph of it shows
    // nothing on a healthy system.
    fn begin_at_zero(&self) {
        for (counters, values) in [
            (&self.reconciles, &["ok", "error"][..]),
            (&self.errors, &Error::CATEGORIES),
            (&self.errors, &["unreadable", "not_listed", "monitoring"]),
            (&self.scale_decisions, &["up", "down"]),
            (&self.lag_read_failures, &LagError::REASONS),
            (&self.writes, &WRITTEN),
        ] {
            for value in values {
                counters.with_label_values(&[*value]);
            }
        }
    }

    /// Every metric that the binary exports, for the reference documentation.
    pub(crate) fn families() -> Result<Vec<Family>, prometheus::Error> {
        let (unused, registry) = (Registry::new(), Registry::new());
        let mut catalogue = Catalogue::new(&registry);
        Self::register(&unused)?.add_to(&mut catalogue)?;
        Ok([catalogue.into_families(), shared_families()].concat())
    }

    fn add_to(&self, catalogue: &mut Catalogue<'_>) -> Result<(), prometheus::Error> {
        catalogue.add(&self.reconciles)?;
        catalogue.add(&self.reconcile_seconds)?;
        catalogue.add(&self.errors)?;
        catalogue.add(&self.writes)?;
        catalogue.add(&self.scale_decisions)?;
        catalogue.add(&self.lag_read_failures)?;
        catalogue.add(&self.lag_events)?;
        catalogue.add(&self.lag_seconds)?;
        catalogue.add(&self.replicas)?;
        catalogue.add(&self.restarts)?;
        catalogue.add(&self.rollout)?;
        catalogue.add(&self.leader)?;
        catalogue.add(&self.lease_failures)?;
        self.told.add_to(catalogue)
    }

    /// A reconcile has ended.
    pub(crate) fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        self.reconciles.with_label_values(&[if error.is_none() { "ok" } else { "error" }]).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
        if let Some(category) = error {
            self.errors.with_label_values(&[category]).inc();
        }
    }

    /// Something failed outside a reconcile.
    pub(crate) fn failed(&self, category: &str) {
        self.errors.with_label_values(&[category]).inc();
    }

    /// An object was written.
    pub(crate) fn wrote(&self, kind: &str) {
        self.writes.with_label_values(&[kind]).inc();
    }

    /// The number of consumers was changed.
    pub(crate) fn scaled(&self, from: i32, to: i32) {
        self.scale_decisions.with_label_values(&[if to > from { "up" } else { "down" }]).inc();
    }

    /// Lag could not be read.
    pub(crate) fn lag_read_failed(&self, reason: &str) {
        self.lag_read_failures.with_label_values(&[reason]).inc();
    }

    /// What is known of the lag; `None` removes the series, because unknown is not zero.
    pub(crate) fn set_lag(&self, namespace: &str, name: &str, events: Option<i64>, seconds: Option<i64>) {
        self.lag_events.set(&[namespace, name], events);
        self.lag_seconds.set(&[namespace, name], seconds);
    }

    /// Consumers of a pipeline.
    pub(crate) fn set_replicas(&self, namespace: &str, name: &str, desired: i32, existing: i32, ready: i32) {
        for (state, count) in [("desired", desired), ("existing", existing), ("ready", ready)] {
            self.replicas.set(&[namespace, name, state], Some(count.into()));
        }
    }

    /// How consumers of a pipeline come and go: restarts of those that there are, and whether they are being replaced.
    pub(crate) fn set_changes(&self, namespace: &str, name: &str, restarts: i32, rollout: bool) {
        self.restarts.set(&[namespace, name], Some(restarts.into()));
        self.rollout.set(&[namespace, name], Some(rollout.into()));
    }

    /// What the status says: conditions, the objective in seconds, and why the number of consumers is what it is.
    pub(crate) fn set_told(
        &self,
        namespace: &str,
        name: &str,
        conditions: &[Condition],
        objective: i32,
        decision: Option<&Decision>,
    ) {
        self.told.set_conditions(namespace, name, conditions);
        self.told.set_objective(namespace, name, objective);
        self.told.set_decision(namespace, name, decision);
    }

    /// The backlog of a growth is gone.
    pub(crate) fn drained(&self, namespace: &str, name: &str, outcome: &DrainOutcome) {
        self.told.drained(namespace, name, outcome);
    }

    /// A pipeline is gone.
    pub(crate) fn remove_pipeline(&self, namespace: &str, name: &str) {
        self.told.remove(namespace, name);
        self.set_lag(namespace, name, None, None);
        for state in ["desired", "existing", "ready"] {
            self.replicas.set(&[namespace, name, state], None);
        }
        for gauges in [&self.restarts, &self.rollout] {
            gauges.set(&[namespace, name], None);
        }
    }

    /// Whether this controller leads.
    pub(crate) fn set_leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// The Lease could not be read or written.
    pub(crate) fn lease_failed(&self) {
        self.lease_failures.inc();
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens first is growth, too.
    #[test]
    fn counters_are_there_before_anything_has_happened() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for series in [
            r#"analytics_controller_errors_total{category="apply"}"#,
            r#"analytics_controller_errors_total{category="monitoring"}"#,
            r#"analytics_controller_lag_read_failures_total{reason="KafkaUnreachable"}"#,
            r#"analytics_controller_reconciles_total{result="error"}"#,
            r#"analytics_controller_scale_decisions_total{direction="up"}"#,
        ] {
            assert!(text().contains(&format!("{series} 0")), "no {series}: {}", text());
        }
        metrics.failed("monitoring");
        assert!(text().contains(r#"analytics_controller_errors_total{category="monitoring"} 1"#));
    }

    /// A dashboard that shows the lag of a deleted pipeline for ever, or zero for unknown, misleads.
    #[test]
    fn series_go_with_their_pipeline_and_with_knowledge() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let text = || prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        metrics.set_lag("shop", "clicks", Some(7), None);
        metrics.set_replicas("shop", "clicks", 3, 2, 1);
        metrics.set_changes("shop", "clicks", 4, true);
        assert!(
            text().contains(r#"analytics_pipeline_consumer_restarts{namespace="shop",pipeline="clicks"} 4"#)
        );
        assert!(text().contains(r#"analytics_pipeline_rollout{namespace="shop",pipeline="clicks"} 1"#));
        let ready = crate::conditions::Verdict::yes("Ready", "AsExpected", "x");
        let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH);
        metrics.set_told("shop", "clicks", &crate::conditions::follow(&[], &[ready], 1, &time), 30, None);
        assert!(text().contains(r#"condition="Ready",namespace="shop",pipeline="clicks"} 1"#), "{}", text());
        assert!(!text().contains(r#"condition="Stalled""#), "unknown is neither true nor false");
        assert!(text().contains(r#"analytics_pipeline_lag_events{namespace="shop",pipeline="clicks"} 7"#));
        assert!(!text().contains("analytics_pipeline_lag_seconds{"));
        metrics.set_lag("shop", "clicks", None, None);
        assert!(!text().contains("analytics_pipeline_lag_events{"));
        metrics.drained("shop", "clicks", &DrainOutcome { predicted_seconds: 20.0, actual_seconds: 25.0 });
        assert!(text().contains(r#"kind="actual",namespace="shop",pipeline="clicks"} 25"#), "{}", text());
        assert!(text().contains(r#"analytics_controller_drain_prediction_ratio_bucket{le="1.33"} 1"#));
        assert!(text().contains(r#"analytics_controller_drain_prediction_ratio_bucket{le="1.1"} 0"#));
        metrics.remove_pipeline("shop", "clicks");
        assert!(!text().contains("clicks"));
    }
}
