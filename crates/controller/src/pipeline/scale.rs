//! From what was seen to a number of consumers.

use std::sync::Arc;

use analytics_api::{AnalyticsPipeline, AnalyticsPipelineSpec, RatesStatus};
use autoscaler::{Condition, Decision, Limit, Reason, State};
use jiff::Timestamp;

use super::observe::{Fleet, Seen};
use super::policy::{fixed_replicas, policy};
use super::status;
use super::validate::ValidatedPipeline;
use crate::context::Memory;
use crate::decisions::Decisions;

/// How many consumers the Deployment shall ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    /// Replicas to set.
    pub(crate) replicas: i32,
    /// What the autoscaler says; `None` as long as there was nothing to decide on.
    pub(crate) decision: Option<Decision>,
    /// Name of the schedule whose window is open.
    pub(crate) schedule: Option<String>,
}

/// What status, Events and metrics show of it, as far as it can change while nothing waits and nothing arrives.
#[derive(Debug, PartialEq)]
pub(crate) struct Shown {
    replicas: i32,
    schedule: Option<String>,
    /// What was decided.
    decided: Option<(u32, u32, Limit, Reason)>,
    rates: Option<RatesStatus>,
    conditions: Vec<Condition>,
}

impl Shown {
    /// What is shown of it.
    pub(crate) fn of(scale: &Scale) -> Self {
        let decision = scale.decision.as_ref();
        Self {
            replicas: scale.replicas,
            schedule: scale.schedule.clone(),
            decided: decision
                .map(|decision| (decision.desired, decision.needed, decision.limited_by, decision.reason)),
            rates: decision.and_then(status::rates),
            conditions: decision.map(|decision| decision.conditions.clone()).unwrap_or_default(),
        }
    }
}

/// Decides, and remembers what the autoscaler wants remembered. (no client required)
pub(crate) fn run(
    pipeline: &ValidatedPipeline,
    fleet: &Fleet,
    seen: &Seen,
    memory: &mut Memory,
    decisions: &Decisions,
) -> Scale {
    let now = seen.observation.as_ref().map(|observation| observation.time);
    let policy = policy(&pipeline.spec, now.and_then(timestamp).unwrap_or_else(Timestamp::now));
    if let Some(observation) = &seen.observation {
        let state = memory.scaling.take().unwrap_or_default();
        let name = (pipeline.namespace.clone(), pipeline.name.clone());
        let (next, mut decision) = decisions.decide(&name, &state, observation, &policy);
        // Told once, and not with every reconcile until the next decision.
        memory.drained = decision.drain_outcome.take().or(memory.drained.take());
        memory.scaling = Some(next);
        memory.decision = Some(decision);
    }
    let decision = memory.decision.clone();
    let replicas = replicas(pipeline, fleet, decision.as_ref());
    Scale { replicas, decision, schedule: policy.schedule_name }
}

fn timestamp(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_second(seconds as i64).ok()
}

fn replicas(pipeline: &ValidatedPipeline, fleet: &Fleet, decision: Option<&Decision>) -> i32 {
    let spec = &pipeline.spec;
    if spec.suspend {
        return 0;
    }
    let start = if fleet.exists { fleet.spec } else { spec.scaling.min_replicas };
    let wanted = match (fixed_replicas(spec), decision) {
        (Some(fixed), _) => fixed,
        (None, Some(decision)) if !spec.scaling.dry_run => decision.desired,
        _ => return start,
    };
    i32::try_from(wanted).unwrap_or(i32::MAX)
}

/// Why the number of consumers is what it is, for people.
pub(crate) fn explanation(spec: &AnalyticsPipelineSpec, decision: Option<&Decision>) -> String {
    match (spec.suspend, fixed_replicas(spec), decision) {
        (true, ..) => "the pipeline is suspended.".to_owned(),
        (false, Some(replicas), _) => format!("`spec.scaling.replicas` is {replicas}."),
        (false, None, Some(decision)) => decision.explanation.clone(),
        (false, None, None) => "nothing is known of the load yet.".to_owned(),
    }
}

/// What the autoscaler remembered when the status was last written, for a controller that has just begun. Unreadable
/// memories (of another version) are forgotten.
pub(crate) fn recall(pipeline: &AnalyticsPipeline, memory: &mut Memory) {
    if memory.scaling.is_none() {
        let text = pipeline.status.as_ref().and_then(|status| status.scaling.as_ref()?.memory.as_deref());
        memory.scaling = text.and_then(|text| serde_json::from_str::<State>(text).ok()).map(Arc::new);
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::{CommittedOffset, GroupState, Observation, PartitionObservation, ReplicaObservation};

    use super::*;
    use crate::kafka::Reading;
    use crate::pipeline::fixtures;

    fn seen(lag: i64, spec: u32, time: f64) -> Seen {
        let partition = PartitionObservation {
            partition: 0,
            log_start: Some(0),
            log_end: Some(lag),
            committed: CommittedOffset::At(0),
            lag_seconds: None,
        };
        let observation = Observation {
            time,
            replicas: ReplicaObservation {
                spec,
                ready: spec,
                group_members: Some(spec),
                group: GroupState::Stable,
                rollout_in_progress: false,
            },
            partition_count: Some(1),
            partitions: vec![partition],
            consumers: Vec::new(),
        };
        Seen { reading: Ok(Reading::default()), observation: Some(observation), nothing_new: false }
    }

    fn fleet(spec: i32) -> Fleet {
        Fleet { exists: true, spec, ..Fleet::default() }
    }

    #[test]
    fn a_suspended_pipeline_has_no_consumers_whatever_waits() {
        let pipeline = fixtures::valid(r#"{"suspend": true, "scaling": {"minReplicas": 3}}"#);
        let scale = run(
            &pipeline,
            &fleet(3),
            &seen(1_000_000, 3, 1.0),
            &mut Memory::default(),
            &Decisions::default(),
        );
        assert_eq!(scale.replicas, 0);
    }

    #[test]
    fn a_number_of_the_user_is_taken_as_it_is() {
        let pipeline = fixtures::valid(r#"{"scaling": {"mode": "Fixed", "replicas": 5}}"#);
        let scale =
            run(&pipeline, &fleet(1), &seen(0, 1, 1.0), &mut Memory::default(), &Decisions::default());
        assert_eq!(scale.replicas, 5, "more than partitions too: the user decides");
    }

    #[test]
    fn the_explanation_names_who_decided() {
        let table = [
            (r#"{"suspend": true}"#, "suspended"),
            (r#"{"scaling": {"mode": "Fixed", "replicas": 5}}"#, "`spec.scaling.replicas` is 5"),
            ("{}", "nothing is known"),
        ];
        for (spec, words) in table {
            assert!(explanation(&fixtures::pipeline(spec).spec, None).contains(words), "{spec}");
        }
    }

    #[test]
    fn a_dry_run_changes_nothing_and_still_decides() {
        let pipeline = fixtures::valid(r#"{"scaling": {"dryRun": true, "minReplicas": 0}}"#);
        let mut memory = Memory::default();
        run(&pipeline, &fleet(0), &seen(10, 0, 1.0), &mut memory, &Decisions::default());
        let scale = run(&pipeline, &fleet(0), &seen(1_000, 0, 11.0), &mut memory, &Decisions::default());
        assert_eq!(scale.replicas, 0);
        assert!(scale.decision.unwrap().desired > 0);
    }

    #[test]
    fn before_the_first_look_at_the_lag_the_least_is_made() {
        let pipeline = fixtures::valid(r#"{"scaling": {"minReplicas": 2}}"#);
        let nothing = Seen { reading: Ok(Reading::default()), observation: None, nothing_new: false };
        let scale =
            run(&pipeline, &Fleet::default(), &nothing, &mut Memory::default(), &Decisions::default());
        assert_eq!(scale.replicas, 2);
    }

    /// A restart of the controller must not forget capacity and windows.
    #[test]
    fn memories_come_back_from_the_status_and_nonsense_is_forgotten() {
        let mut memory = Memory::default();
        run(&fixtures::valid("{}"), &fleet(1), &seen(10, 1, 5.0), &mut memory, &Decisions::default());
        let text = serde_json::to_string(memory.scaling.as_ref().unwrap()).unwrap();
        let with = |text: &str| {
            let mut pipeline = fixtures::pipeline("{}");
            let scaling =
                analytics_api::ScalingStatus { memory: Some(text.to_owned()), ..Default::default() };
            pipeline.status =
                Some(analytics_api::AnalyticsPipelineStatus { scaling: Some(scaling), ..Default::default() });
            let mut fresh = Memory::default();
            recall(&pipeline, &mut fresh);
            fresh.scaling
        };
        assert_eq!(with(&text), memory.scaling);
        assert_eq!(with("{nonsense"), None);
    }
}
