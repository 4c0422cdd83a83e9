//! The PodDisruptionBudget: a drained node takes one consumer at a time, so that partitions move one consumer's share at a time.

use analytics_api::{Scaling, ScalingMode, labels};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::{self, Component};
use crate::pipeline::validate::ValidatedPipeline;

/// `None` where there is at most one consumer. Bounds count, not the number at the moment, so that it does not come and go.
pub(super) fn build(pipeline: &ValidatedPipeline) -> Option<PodDisruptionBudget> {
    (most_replicas(&pipeline.spec.scaling) > 1).then(|| PodDisruptionBudget {
        metadata: metadata::object(pipeline, labels::consumer_name(&pipeline.name), Component::Consumer),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(metadata::consumers(&pipeline.name)),
            // A consumer that does not work anyway must not block a drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    })
}

fn most_replicas(scaling: &Scaling) -> i32 {
    match scaling.mode {
        ScalingMode::Lag => scaling.max_replicas.unwrap_or(i32::MAX),
        ScalingMode::Fixed => scaling.replicas.unwrap_or(1),
        ScalingMode::External => i32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    #[test]
    fn there_is_a_budget_wherever_more_than_one_consumer_can_be() {
        let table = [
            ("{}", true),
            (r#"{"scaling": {"maxReplicas": 1}}"#, false),
            (r#"{"scaling": {"mode": "Fixed", "replicas": 1}}"#, false),
            (r#"{"scaling": {"mode": "Fixed", "replicas": 2}}"#, true),
            (r#"{"scaling": {"mode": "External", "replicas": 1}}"#, true),
        ];
        for (spec, expected) in table {
            assert_eq!(build(&fixtures::valid(spec)).is_some(), expected, "{spec}");
        }
    }
}
