//! What a pipeline's status says, as metrics: conditions, the objective, and why the number of consumers is what it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use analytics_runtime::catalogue::Catalogue;
use autoscaler::{Decision, DrainOutcome};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus::{GaugeVec, Histogram, HistogramOpts, Opts};

use super::gauges::Gauges;
use crate::conditions;

const KINDS: [&str; 2] = ["predicted", "actual"];

type Name = (String, String);

/// Gauges that say what the status says.
#[derive(Clone)]
pub(super) struct Told {
    condition: Gauges,
    objective: Gauges,
    decision: Gauges,
    drain: GaugeVec,
    drain_ratio: Histogram,
    /// Reason and limit of the decision that has a series now.
    last: Arc<Mutex<HashMap<Name, (String, String)>>>,
}

impl Told {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            condition: Gauges::new(
                "analytics_pipeline_condition",
                "Conditions of a pipeline's status: 1 when true, 0 when false; absent while unknown.",
                &["namespace", "pipeline", "condition"],
            )?,
            objective: Gauges::new(
                "analytics_pipeline_lag_objective_seconds",
                "Longest wait that the pipeline's owner wants, spec.scaling.targetLagSeconds.",
                &["namespace", "pipeline"],
            )?,
            decision: Gauges::new(
                "analytics_pipeline_scaling_decision",
                "Why the number of consumers is what it is: 1 for the reason and the limit of the last decision.",
                &["namespace", "pipeline", "reason", "limited_by"],
            )?,
            drain: GaugeVec::new(
                Opts::new(
                    "analytics_pipeline_drain_seconds",
                    "Seconds from the last growth to the end of its backlog, by kind (predicted when it was decided, or actual); absent before there was one.",
                ),
                &["namespace", "pipeline", "kind"],
            )?,
            drain_ratio: Histogram::with_opts(
                HistogramOpts::new(
                    "analytics_controller_drain_prediction_ratio",
                    "Actual over predicted seconds from a growth to the end of its backlog, over all pipelines; 1 is a perfect prediction.",
                )
                .buckets(vec![0.25, 0.5, 0.75, 0.9, 1.1, 1.33, 2.0, 4.0]),
            )?,
            last: Arc::default(),
        })
    }

    pub(super) fn add_to(&self, catalogue: &mut Catalogue<'_>) -> Result<(), prometheus::Error> {
        catalogue.add(&self.condition)?;
        catalogue.add(&self.objective)?;
        catalogue.add(&self.decision)?;
        catalogue.add(&self.drain)?;
        catalogue.add(&self.drain_ratio)
    }

    pub(super) fn set_conditions(&self, namespace: &str, name: &str, conditions: &[Condition]) {
        for condition in conditions {
            let value = match condition.status.as_str() {
                "True" => Some(1),
                "False" => Some(0),
                _ => None,
            };
            self.condition.set(&[namespace, name, &condition.type_], value);
        }
    }

    pub(super) fn set_objective(&self, namespace: &str, name: &str, seconds: i32) {
        self.objective.set(&[namespace, name], Some(seconds.into()));
    }

    pub(super) fn set_decision(&self, namespace: &str, name: &str, decision: Option<&Decision>) {
        let key = (namespace.to_owned(), name.to_owned());
        let new = decision.map(|decision| (decision.reason.to_string(), decision.limited_by.to_string()));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((reason, limit)) = last.remove(&key) {
            self.decision.set(&[namespace, name, &reason, &limit], None);
        }
        if let Some((reason, limit)) = new {
            self.decision.set(&[namespace, name, &reason, &limit], Some(1));
            last.insert(key, (reason, limit));
        }
    }

    pub(super) fn drained(&self, namespace: &str, name: &str, outcome: &DrainOutcome) {
        for (kind, seconds) in KINDS.into_iter().zip([outcome.predicted_seconds, outcome.actual_seconds]) {
            self.drain.with_label_values(&[namespace, name, kind]).set(seconds);
        }
        // Nobody reads lag more often than each second; less than that is no difference.
        self.drain_ratio.observe(outcome.actual_seconds.max(1.0) / outcome.predicted_seconds.max(1.0));
    }

    pub(super) fn remove(&self, namespace: &str, name: &str) {
        for condition in conditions::ALL {
            self.condition.set(&[namespace, name, condition], None);
        }
        self.objective.set(&[namespace, name], None);
        for kind in KINDS {
            // An error says only that there was no such series.
            let _ = self.drain.remove_label_values(&[namespace, name, kind]);
        }
        self.set_decision(namespace, name, None);
    }
}
