//! From what was seen to a number of consumers.

use std::time::Instant;

use analytics_api::{AnalyticsPipeline, AnalyticsPipelineSpec, RatesStatus};
use autoscaler::{Condition, Decision, Limit, Reason};
use jiff::Timestamp;

use super::contest::Contest;
use super::observe::{Fleet, Seen};
use super::policy::{fixed_replicas, is_dry_run, policy};
use super::status;
use super::validate::ValidatedPipeline;
use crate::conditions::{SUSPENDED, reasons};
use crate::context::Memory;
use crate::decisions::Decisions;

/// What is remembered about the number of consumers, besides what the autoscaler remembers.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// Whether the status was asked what it knows of all this.
    recalled: bool,
    /// Consumers that ran when the operator stopped all of them.
    pub(crate) stopped: Option<i32>,
    /// When the number was last changed by the operator.
    pub(crate) changed: Option<Timestamp>,
    /// Who else sets the number.
    pub(crate) contest: Contest,
    /// Whether it was said that the autoscaler's memory is too long for the status.
    pub(crate) cut: bool,
}

/// How many consumers the Deployment shall ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scale {
    /// Replicas to set.
    pub(crate) replicas: i32,
    /// What the autoscaler says; `None` as long as there was nothing to decide on.
    pub(crate) decision: Option<Decision>,
    /// Name of the schedule whose window is open.
    pub(crate) schedule: Option<String>,
    /// Somebody else sets the number, and is given way to.
    pub(crate) truce: bool,
}

/// What status, Events and metrics show of it, as far as it can change while nothing waits and nothing arrives.
#[derive(Debug, PartialEq)]
pub(crate) struct Shown {
    replicas: i32,
    schedule: Option<String>,
    truce: bool,
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
            truce: scale.truce,
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
    let spec = &pipeline.spec;
    let course = &mut memory.course;
    // Who stops a pipeline wants it stopped, whatever others set.
    let truce = !spec.suspend && !is_dry_run(spec) && fleet.exists && course.contest.holds(Instant::now());
    let replicas = if truce { fleet.spec } else { replicas(spec, fleet, decision.as_ref(), course.stopped) };
    let decided = fixed_replicas(spec).is_some() || (seen.observation.is_some() && !is_dry_run(spec));
    course.stopped = stopped(course.stopped, fleet, spec.suspend, decided && !truce);
    Scale { replicas, decision, schedule: policy.schedule_name, truce }
}

fn timestamp(seconds: f64) -> Option<Timestamp> {
    Timestamp::from_second(seconds as i64).ok()
}

fn replicas(
    spec: &AnalyticsPipelineSpec,
    fleet: &Fleet,
    decision: Option<&Decision>,
    stopped: Option<i32>,
) -> i32 {
    if spec.suspend {
        return 0;
    }
    let least = spec.scaling.min_replicas;
    let start = match stopped {
        _ if !fleet.exists => least,
        // That there are none was the operator's own doing, and nobody's wish any more.
        Some(before) if fleet.spec == 0 => before.max(least),
        _ => fleet.spec,
    };
    let wanted = match (fixed_replicas(spec), decision) {
        (Some(fixed), _) => fixed,
        (None, Some(decision)) if !is_dry_run(spec) => decision.desired,
        _ => return start,
    };
    i32::try_from(wanted).unwrap_or(i32::MAX)
}

/// How many consumers the operator has stopped, all that there were: noted when it does (`stops`), kept until some run again or
/// somebody decides how many.
pub(super) fn stopped(before: Option<i32>, fleet: &Fleet, stops: bool, decided: bool) -> Option<i32> {
    match (stops, fleet.spec) {
        (true, running @ 1..) => Some(running),
        (true, _) => before.or(Some(0)),
        (false, 1..) => None,
        (false, _) => before.filter(|_| !decided),
    }
}

/// Why the number of consumers is what it is: a word for machines, one of [`analytics_api::SCALING_REASONS`], and a sentence for people.
pub(crate) fn explanation(
    spec: &AnalyticsPipelineSpec,
    decision: Option<&Decision>,
    truce: bool,
) -> Option<(String, String)> {
    let given = |code: &str, text: String| Some((code.to_owned(), text));
    match (spec.suspend, fixed_replicas(spec), decision) {
        (true, ..) => given("Suspended", "the pipeline is suspended.".to_owned()),
        _ if truce => given(
            "SetByOthers",
            "somebody else sets the replicas of the Deployment, see `ScalingConflict`.".to_owned(),
        ),
        (false, Some(replicas), _) => given("SetByUser", format!("`spec.scaling.replicas` is {replicas}.")),
        (false, None, Some(decision)) => Some((decision.reason.to_string(), decision.explanation.clone())),
        (false, None, None) => None,
    }
}

/// What the status knows of the operator's own doings, for a controller that has just begun.
pub(crate) fn recall(pipeline: &AnalyticsPipeline, memory: &mut Memory) {
    if std::mem::replace(&mut memory.course.recalled, true) {
        return;
    }
    let status = pipeline.status.as_ref();
    let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let was_stopped = conditions.iter().any(|condition| {
        let reason = condition.reason.as_str();
        condition.type_ == SUSPENDED && [reasons::SUSPENDED, reasons::STOPPING].contains(&reason)
    });
    let noted = status.and_then(|status| status.scaling.as_ref()?.stopped_replicas);
    memory.course.stopped = noted.or(was_stopped.then_some(0));
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
            partitions: std::sync::Arc::new([partition]),
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
        let fixed = r#"{"scaling": {"mode": "Fixed", "replicas": 5}}"#;
        let table = [
            (r#"{"suspend": true}"#, true, Some(("Suspended", "suspended"))),
            (fixed, false, Some(("SetByUser", "`spec.scaling.replicas` is 5"))),
            (fixed, true, Some(("SetByOthers", "somebody else"))),
            ("{}", false, None),
        ];
        for (spec, truce, expected) in table {
            let told = explanation(&fixtures::pipeline(spec).spec, None, truce);
            assert_eq!(told.is_some(), expected.is_some(), "{spec}");
            for ((code, text), (expected, words)) in told.iter().zip(expected) {
                assert!(code == expected && text.contains(words), "{spec}: {code} {text}");
                assert!(analytics_api::SCALING_REASONS.contains(&code.as_str()), "{code}");
            }
        }
    }

    /// The schema names every value, so that nobody meets another one.
    #[test]
    fn limits_and_reasons_are_those_of_the_schema() {
        let limits = [
            Limit::MinReplicas,
            Limit::Schedule,
            Limit::MaxReplicas,
            Limit::Partitions,
            Limit::Connections,
            Limit::HotPartition,
            Limit::Sink,
            Limit::Stabilization,
            Limit::Budget,
            Limit::Converging,
            Limit::Unknown,
        ];
        let reasons = [
            Reason::Steady,
            Reason::LagAboveTarget,
            Reason::Surplus,
            Reason::Drained,
            Reason::Idle,
            Reason::Wake,
            Reason::Bounds,
            Reason::Waiting,
            Reason::Converging,
            Reason::LagUnknown,
            Reason::Learning,
            Reason::Stalled,
            Reason::SinkSaturated,
            Reason::AtLimit,
        ];
        // A new one does not compile until it is listed above and in the schema.
        for limit in limits {
            match limit {
                Limit::None
                | Limit::MinReplicas
                | Limit::Schedule
                | Limit::MaxReplicas
                | Limit::Partitions
                | Limit::Connections
                | Limit::HotPartition
                | Limit::Sink
                | Limit::Stabilization
                | Limit::Budget
                | Limit::Converging
                | Limit::Unknown => {}
            }
        }
        for reason in reasons {
            match reason {
                Reason::Steady
                | Reason::LagAboveTarget
                | Reason::Surplus
                | Reason::Drained
                | Reason::Idle
                | Reason::Wake
                | Reason::Bounds
                | Reason::Waiting
                | Reason::Converging
                | Reason::LagUnknown
                | Reason::Learning
                | Reason::Stalled
                | Reason::SinkSaturated
                | Reason::AtLimit => {}
            }
        }
        assert_eq!(limits.map(|limit| limit.to_string()), analytics_api::SCALING_LIMITS);
        let own = ["Suspended", "SetByUser", "SetByOthers"].map(str::to_owned);
        let all: Vec<_> = reasons.map(|reason| reason.to_string()).into_iter().chain(own).collect();
        assert_eq!(all, analytics_api::SCALING_REASONS);
    }

    /// A dry run changes nothing, so it must begin with what was there before somebody stopped it.
    #[test]
    fn a_dry_run_goes_on_after_a_suspension_with_as_many_as_before() {
        let spec = |more: &str| {
            fixtures::valid(&format!(r#"{{"scaling": {{"dryRun": true, "minReplicas": 2}}{more}}}"#))
        };
        let (suspended, resumed) = (spec(r#", "suspend": true"#), spec(""));
        let decide = |pipeline: &ValidatedPipeline, running: i32, memory: &mut Memory, time: f64| {
            run(pipeline, &fleet(running), &seen(0, 0, time), memory, &Decisions::default()).replicas
        };
        for (running, expected) in [(3, 3), (1, 2)] {
            let mut memory = Memory::default();
            assert_eq!(decide(&suspended, running, &mut memory, 1.0), 0);
            assert_eq!(decide(&suspended, 0, &mut memory, 11.0), 0);
            assert_eq!(decide(&resumed, 0, &mut memory, 21.0), expected, "{running} before");
            assert_eq!(decide(&resumed, 0, &mut memory, 31.0), expected, "until they run");
            assert_eq!(decide(&resumed, expected, &mut memory, 41.0), expected);
            assert_eq!(memory.course.stopped, None, "they run again");
            assert_eq!(decide(&resumed, 0, &mut memory, 51.0), 0, "the zero of somebody else is theirs");
        }
    }

    #[test]
    fn what_a_restarted_controller_finds_in_the_status_says_whose_the_zero_is() {
        let status = |noted: Option<i32>, reason: &str| analytics_api::AnalyticsPipelineStatus {
            scaling: Some(analytics_api::ScalingStatus { stopped_replicas: noted, ..Default::default() }),
            conditions: crate::conditions::follow(
                &[],
                &[crate::conditions::Verdict::yes(
                    SUSPENDED,
                    if reason == "Suspended" { reasons::SUSPENDED } else { reasons::NOT_SUSPENDED },
                    "x",
                )],
                1,
                &fixtures::time(1),
            ),
            ..Default::default()
        };
        let table = [
            (status(Some(4), "Suspended"), Some(4)),
            // Written by a version that did not note it.
            (status(None, "Suspended"), Some(0)),
            (status(None, "NotSuspended"), None),
        ];
        for (status, expected) in table {
            let mut pipeline = fixtures::pipeline("{}");
            pipeline.status = Some(status);
            let mut memory = Memory::default();
            recall(&pipeline, &mut memory);
            assert_eq!(memory.course.stopped, expected);
            memory.course.stopped = None;
            recall(&pipeline, &mut memory);
            assert_eq!(memory.course.stopped, None, "asked once only");
        }
    }

    #[test]
    fn a_number_that_somebody_else_insists_on_is_left_alone_unless_nobody_shall_run() {
        let contested = || {
            let mut memory = Memory::default();
            for version in [2, 4, 6] {
                memory.course.contest.set(1, Some(version - 1));
                memory.course.contest.look(5, Some(version), Instant::now());
            }
            memory
        };
        let table =
            [("{}", 5), (r#"{"scaling": {"mode": "Fixed", "replicas": 2}}"#, 5), (r#"{"suspend": true}"#, 0)];
        for (spec, expected) in table {
            let pipeline = fixtures::valid(spec);
            let scale = run(&pipeline, &fleet(5), &seen(0, 5, 1.0), &mut contested(), &Decisions::default());
            assert_eq!((scale.replicas, scale.truce), (expected, expected > 0), "{spec}");
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
}
