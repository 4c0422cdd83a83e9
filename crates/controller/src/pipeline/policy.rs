//! What the user wants of scaling, in the autoscaler's words.

use analytics_api::{AnalyticsPipelineSpec, OnUnknown, ScalingMode, Sink, StartFrom};
use autoscaler::Policy;
use jiff::Timestamp;

use super::schedule;

/// Database connections that one consumer writes with.
pub(crate) const WRITERS_PER_REPLICA: u32 = 2;

/// Database connections that one consumer may hold: those it writes with, and each minute one that looks after partitions.
pub(crate) const fn connections_per_replica(sink: &Sink) -> u32 {
    if sink.partitioning.is_some() { WRITERS_PER_REPLICA + 1 } else { WRITERS_PER_REPLICA }
}

/// The policy of a pipeline at this moment. With the modes Fixed and External the user's number is both floor and ceiling, so that the
/// autoscaler still measures and explains, but never decides.
pub(crate) fn policy(spec: &AnalyticsPipelineSpec, now: Timestamp) -> Policy {
    let scaling = &spec.scaling;
    // A suspended pipeline has none, whatever the load: the autoscaler is to know that this is meant so.
    let fixed = if spec.suspend { Some(0) } else { fixed_replicas(spec) };
    let floor = if fixed.is_none() { schedule::floor(&scaling.schedules, now) } else { None };
    Policy {
        target_lag_seconds: f64::from(scaling.target_lag_seconds),
        min_replicas: fixed.unwrap_or_else(|| count(scaling.min_replicas)),
        max_replicas: fixed.or_else(|| scaling.max_replicas.map(count)),
        start_from: match spec.source.start_from {
            StartFrom::Earliest => autoscaler::StartFrom::Earliest,
            StartFrom::Latest => autoscaler::StartFrom::Latest,
        },
        stabilization_seconds: f64::from(scaling.behavior.scale_down_stabilization_seconds),
        cooldown_seconds: f64::from(scaling.behavior.cooldown_seconds),
        idle_seconds: f64::from(scaling.behavior.idle_seconds),
        changes_per_hour: count(scaling.behavior.max_changes_per_hour),
        on_unknown: match (scaling.on_unknown, scaling.unknown_floor_replicas) {
            (OnUnknown::Floor, Some(floor)) => autoscaler::OnUnknown::Floor(count(floor)),
            (OnUnknown::Floor, None) | (OnUnknown::Hold, _) => autoscaler::OnUnknown::Hold,
        },
        max_connections: Some(count(spec.sink.max_connections)),
        connections_per_replica: connections_per_replica(&spec.sink),
        schedule_floor: floor.as_ref().map(|floor| floor.replicas),
        schedule_name: floor.map(|floor| floor.name),
        ..Policy::default()
    }
}

/// The number of consumers that somebody else has decided, with the modes Fixed and External.
pub(crate) fn fixed_replicas(spec: &AnalyticsPipelineSpec) -> Option<u32> {
    match spec.scaling.mode {
        ScalingMode::Lag => None,
        ScalingMode::Fixed | ScalingMode::External => Some(count(spec.scaling.replicas.unwrap_or(1))),
    }
}

/// Whether decisions are told and not carried out.
pub(crate) fn is_dry_run(spec: &AnalyticsPipelineSpec) -> bool {
    spec.scaling.dry_run && fixed_replicas(spec).is_none()
}

// The schema allows no negative number; should one get through, none is meant.
fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    fn at(now: &str, spec: &str) -> Policy {
        policy(&fixtures::pipeline(spec).spec, now.parse().unwrap())
    }

    #[test]
    fn an_open_window_raises_the_floor_unless_nobody_shall_run() {
        let scaling = r#""scaling": {"schedules": [{"name": "noon", "start": "0 12 * * *", "end": "0 13 * * *", "timeZone": "UTC", "minReplicas": 4}]}"#;
        let table = [
            ("2026-01-14T12:00:00Z", false, Some(4), Some("noon")),
            ("2026-01-14T13:00:00Z", false, None, None),
            ("2026-01-14T12:00:00Z", true, None, None),
        ];
        for (now, suspend, floor, name) in table {
            let policy = at(now, &format!(r#"{{"suspend": {suspend}, {scaling}}}"#));
            assert_eq!(
                (policy.schedule_floor, policy.schedule_name.as_deref()),
                (floor, name),
                "{now} {suspend}"
            );
        }
    }

    #[test]
    fn defaults_of_the_resource_are_those_of_the_autoscaler() {
        let policy = at("2026-01-14T12:00:00Z", "{}");
        assert_eq!(policy, Policy { max_connections: Some(40), ..Policy::default() });
    }

    #[test]
    fn a_number_given_by_the_user_leaves_nothing_to_decide() {
        for mode in ["Fixed", "External"] {
            let spec = format!(r#"{{"scaling": {{"mode": "{mode}", "replicas": 3, "minReplicas": 0}}}}"#);
            let policy = at("2026-01-14T12:00:00Z", &spec);
            assert_eq!((policy.min_replicas, policy.max_replicas), (3, Some(3)), "{mode}");
        }
    }

    /// One more than the database allows is a consumer that cannot start.
    #[test]
    fn the_connection_that_looks_after_partitions_counts() {
        let table = [("{}", 2), (r#"{"sink": {"partitioning": {"interval": "Day"}}}"#, 3)];
        for (spec, expected) in table {
            assert_eq!(at("2026-01-14T12:00:00Z", spec).connections_per_replica, expected, "{spec}");
        }
    }

    #[test]
    fn a_suspended_pipeline_is_meant_to_have_no_consumers() {
        let policy = at("2026-01-14T12:00:00Z", r#"{"suspend": true, "scaling": {"minReplicas": 2}}"#);
        assert_eq!((policy.min_replicas, policy.max_replicas), (0, Some(0)));
    }

    #[test]
    fn what_to_do_without_lag_is_passed_on() {
        let spec = r#"{"scaling": {"onUnknown": "Floor", "unknownFloorReplicas": 4}}"#;
        assert_eq!(at("2026-01-14T12:00:00Z", spec).on_unknown, autoscaler::OnUnknown::Floor(4));
    }
}
