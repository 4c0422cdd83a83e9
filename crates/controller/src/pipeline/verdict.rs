//! From facts to conditions.

use autoscaler::{Condition, Decision, Limit};

use super::contest::Contest;
use super::migrate::Migration;
use super::observe::Fleet;
use super::policy::{fixed_replicas, is_dry_run};
use super::scale::Scale;
use super::validate::{Refusal, ValidatedPipeline};
use crate::conditions::{
    HOT_PARTITION, LAG_AVAILABLE, READY, RECONCILED, SCALING_CONFLICT, SCALING_LIMITED, SINK_SATURATED,
    STALLED, SUSPENDED, Verdict, reasons,
};
use crate::error::Error;
use crate::kafka::{LagError, Reading};

/// What is to be said of a pipeline that cannot be run as it is.
pub(crate) fn refused(refusal: &Refusal, fleet: &Fleet) -> Vec<Verdict> {
    let message = if fleet.ready > 0 && !refusal.stop {
        format!("{}. The consumers that run go on as they were.", refusal.message)
    } else {
        format!("{}.", refusal.message)
    };
    vec![
        Verdict::no(RECONCILED, refusal.reason, message.clone()),
        Verdict::no(READY, refusal.reason, message),
    ]
}

/// What is to be said when the API server did not do what was asked.
pub(crate) fn failed(error: &Error) -> Vec<Verdict> {
    let reason = match error {
        Error::Foreign { .. } => reasons::FOREIGN_OBJECT,
        Error::ReadSecret { .. }
        | Error::Read { .. }
        | Error::Apply { .. }
        | Error::Delete { .. }
        | Error::Leftover { .. }
        | Error::Status { .. } => reasons::API_ERROR,
        Error::TimedOut { .. } => reasons::TIMED_OUT,
        Error::Panicked { .. } => reasons::INTERNAL_ERROR,
    };
    let message = format!("{}; it is tried again.", sentence(&error.to_string()));
    match error {
        // Consumers are not touched by it, so whether they are ready is another matter.
        Error::Foreign { .. } => {
            vec![Verdict::no(RECONCILED, reason, message.clone()), Verdict::no(READY, reason, message)]
        }
        _ => vec![Verdict::no(RECONCILED, reason, message)],
    }
}

/// What is to be said of the user's wish to stop: it has come true when the last consumer is gone, for one that still stops may
/// still store what it has read.
pub(crate) fn suspended(suspend: bool, fleet: &Fleet) -> Verdict {
    if !suspend {
        return Verdict::no(SUSPENDED, reasons::NOT_SUSPENDED, "The pipeline is not suspended.");
    }
    if fleet.gone() {
        let message =
            "The pipeline is stopped by `spec.suspend`; offsets and data stay. Set it to false to go on.";
        return Verdict::yes(SUSPENDED, reasons::SUSPENDED, message);
    }
    let message =
        format!("The pipeline is being stopped by `spec.suspend`; pods that remain: {}.", fleet.pods);
    Verdict::no(SUSPENDED, reasons::STOPPING, message)
}

/// What is to be said of a pipeline whose objects are as they should be.
pub(crate) fn running(
    pipeline: &ValidatedPipeline,
    fleet: &Fleet,
    reading: &Result<Reading, LagError>,
    scale: &Scale,
    migration: &Migration,
    job: &str,
) -> Vec<Verdict> {
    let mut verdicts = vec![
        Verdict::yes(RECONCILED, reasons::AS_EXPECTED, "All objects are as they should be."),
        lag(reading, scale.decision.as_ref()),
    ];
    verdicts.extend(migration.verdict(job));
    verdicts.extend(limits(pipeline, scale.decision.as_ref()));
    verdicts.push(ready(pipeline, fleet, reading, scale, migration, job));
    verdicts
}

/// What is to be said of who sets the number of consumers.
pub(crate) fn contest(scale: &Scale, contest: &Contest, deployment: &str) -> Verdict {
    if scale.truce {
        return Verdict::yes(SCALING_CONFLICT, reasons::SCALED_BY_OTHERS, contest.message(deployment));
    }
    Verdict::no(SCALING_CONFLICT, reasons::NOT_DETECTED, "There is no sign of it.")
}

fn lag(reading: &Result<Reading, LagError>, decision: Option<&Decision>) -> Verdict {
    let unknown = decision.and_then(|decision| {
        let mut conditions = decision.conditions.iter();
        conditions.find(|condition| matches!(condition, Condition::LagUnknown { .. }))
    });
    match reading {
        Ok(_) if unknown.is_some() => {
            let words = unknown.map(explain).unwrap_or_default();
            let message = format!("{words} No consumers are taken away until it is known again.");
            Verdict::no(LAG_AVAILABLE, reasons::PARTITIONS_UNKNOWN, message)
        }
        Ok(reading) => Verdict::yes(
            LAG_AVAILABLE,
            reasons::LAG_READ,
            format!("Lag is read from {} partitions.", reading.partition_count),
        ),
        Err(error) => Verdict::no(
            LAG_AVAILABLE,
            error.reason(),
            format!(
                "{}. The number of consumers stays as it is until lag is known again.",
                sentence(&error.to_string())
            ),
        ),
    }
}

fn ready(
    pipeline: &ValidatedPipeline,
    fleet: &Fleet,
    reading: &Result<Reading, LagError>,
    scale: &Scale,
    migration: &Migration,
    job: &str,
) -> Verdict {
    if pipeline.spec.suspend {
        return Verdict::no(READY, reasons::SUSPENDED, "The pipeline is suspended.");
    }
    if fleet.ready > 0 && fleet.spec > 0 {
        let message = match fleet.ready.saturating_sub(fleet.spec) {
            surplus @ 1.. => format!("{} consumers are ready, and {surplus} of them stop.", fleet.ready),
            _ => format!("{} of {} consumers are ready.", fleet.ready, fleet.spec),
        };
        return Verdict::yes(READY, reasons::CONSUMERS_READY, message);
    }
    if let Some(verdict) = migration.verdict(job).filter(|_| !migration.allows_consumers()) {
        return Verdict::no(READY, verdict.reason, verdict.message);
    }
    if let Err(error) = reading {
        return Verdict::no(READY, error.reason(), format!("{}.", sentence(&error.to_string())));
    }
    if scale.replicas == 0 {
        if let Some(verdict) = held_at_zero(pipeline, scale) {
            return verdict;
        }
        let (reason, message) = match fixed_replicas(&pipeline.spec) {
            Some(_) => (reasons::SCALED_TO_ZERO, "No consumers are wanted (`spec.scaling.replicas` is 0)."),
            None => (reasons::IDLE, "Nothing waits, so no consumer runs; the first event starts one."),
        };
        return Verdict::yes(READY, reason, message);
    }
    match &fleet.trouble {
        Some(trouble) => Verdict::no(
            READY,
            reasons::CONSUMERS_FAILING,
            format!("None of {} consumers is ready; one said: {trouble}", scale.replicas),
        ),
        None => Verdict::no(
            READY,
            reasons::CONSUMERS_NOT_READY,
            format!("None of {} consumers is ready yet.", scale.replicas),
        ),
    }
}

// Events may wait where it is not the operator that says how many consumers there are.
fn held_at_zero(pipeline: &ValidatedPipeline, scale: &Scale) -> Option<Verdict> {
    let lag = scale.decision.as_ref().and_then(|decision| decision.estimates.lag_events);
    let message = match () {
        () if lag.is_none_or(|lag| lag == 0) => return None,
        () if scale.truce => "somebody else has set the Deployment to none, see `ScalingConflict`.",
        () if is_dry_run(&pipeline.spec) => "`dryRun` leaves it to others to start one.",
        () => return None,
    };
    Some(Verdict::no(
        READY,
        reasons::SCALED_BY_OTHERS,
        format!("No consumer runs although events wait: {message}"),
    ))
}

fn limits(pipeline: &ValidatedPipeline, decision: Option<&Decision>) -> Vec<Verdict> {
    let Some(decision) = decision else { return Vec::new() };
    let detected = |name: &'static str| {
        let found = decision.conditions.iter().find(|condition| condition.name() == name);
        found.map_or_else(
            || Verdict::no(name, reasons::NOT_DETECTED, "There is no sign of it."),
            |condition| Verdict::yes(name, reasons::DETECTED, explain(condition)),
        )
    };
    vec![
        scaling_limited(pipeline, decision),
        detected(STALLED),
        detected(HOT_PARTITION),
        detected(SINK_SATURATED),
    ]
}

fn scaling_limited(pipeline: &ValidatedPipeline, decision: &Decision) -> Verdict {
    if pipeline.spec.suspend {
        return Verdict::no(SCALING_LIMITED, reasons::NOT_SCALED_BY_LAG, "The pipeline is suspended.");
    }
    if fixed_replicas(&pipeline.spec).is_some() {
        let message = "The operator does not decide the number of consumers (`spec.scaling.mode`).";
        return Verdict::no(SCALING_LIMITED, reasons::NOT_SCALED_BY_LAG, message);
    }
    let found = decision.conditions.iter().find_map(|condition| match condition {
        Condition::AtMaximum { .. } => Some((reasons::AT_MAXIMUM, explain(condition))),
        Condition::AtPartitionCount { .. } => Some((reasons::AT_PARTITION_COUNT, explain(condition))),
        _ => None,
    });
    match found {
        Some((reason, message)) => Verdict::yes(SCALING_LIMITED, reason, message),
        None if decision.limited_by == Limit::Connections && decision.needed > decision.desired => {
            Verdict::yes(
                SCALING_LIMITED,
                reasons::AT_MAXIMUM,
                "More consumers are needed than `spec.sink.maxConnections` allows; raise it if the database can take more.",
            )
        }
        None => Verdict::no(
            SCALING_LIMITED,
            reasons::WITHIN_LIMITS,
            "The number of consumers is within its limits.",
        ),
    }
}

fn explain(condition: &Condition) -> String {
    match condition {
        Condition::LagUnknown { partitions } if partitions.is_empty() => "The lag is not known.".to_owned(),
        Condition::LagUnknown { partitions } => {
            format!("The lag of partitions {} is not known.", some_of(partitions))
        }
        Condition::Stalled { partitions, seconds } => format!(
            "Partitions {} have not moved for {seconds:.0} s although consumers are alive; more consumers would not help. Look at the consumers' logs.",
            some_of(partitions)
        ),
        Condition::HotPartition { partition, rate, capacity } => format!(
            "Partition {partition} receives {rate:.0} events per second and one consumer handles {capacity:.0}; more consumers cannot share a partition. Spread the keys, or make single consumers faster."
        ),
        Condition::SinkSaturated { throughput, replicas } => format!(
            "The database stores {throughput:.0} events per second with {replicas} consumers, and no more with more of them; look at the database."
        ),
        Condition::AtMaximum { maximum } => format!(
            "More than {maximum} consumers are needed and not allowed; raise `spec.scaling.maxReplicas` or `spec.sink.maxConnections`."
        ),
        Condition::AtPartitionCount { partitions } => format!(
            "More consumers are needed than the {partitions} partitions of the topic can occupy; add partitions to the topic."
        ),
    }
}

// Of thousands of partitions nobody reads more than a few.
fn some_of(partitions: &[i32]) -> String {
    const MOST: usize = 20;
    match partitions.len().checked_sub(MOST) {
        Some(more @ 1..) => format!("{:?} and {more} more", &partitions[..MOST]),
        _ => format!("{partitions:?}"),
    }
}

fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::Truth;
    use crate::pipeline::fixtures;

    fn fleet(spec: i32, ready: i32, trouble: Option<&str>) -> Fleet {
        Fleet {
            exists: true,
            spec,
            ready,
            existing: spec,
            pods: usize::try_from(spec).unwrap(),
            rollout: false,
            restarts: 0,
            trouble: trouble.map(str::to_owned),
        }
    }

    fn missing_topic() -> LagError {
        LagError::TopicMissing { topic: "t".into(), brokers: "b:1".into() }
    }

    #[test]
    fn ready_names_the_first_thing_that_stands_in_the_way() {
        let lag = Scale { replicas: 2, ..Scale::default() };
        let idle = Scale::default();
        let dry = r#"{"scaling": {"dryRun": true}}"#;
        let waiting = |events| {
            let (_, mut decision) =
                autoscaler::decide(&Default::default(), &Default::default(), &Default::default());
            decision.estimates.lag_events = Some(events);
            Scale { decision: Some(decision), ..Scale::default() }
        };
        let held = |events| Scale { truce: true, ..waiting(events) };
        let fixed_zero = r#"{"scaling": {"mode": "Fixed", "replicas": 0}}"#;
        let failing = Migration::Failing { trouble: "no such role".into(), anew: false };
        let ok = || Ok(Reading::default());
        let table = [
            ("{}", fleet(2, 1, None), ok(), &lag, Migration::Done, Truth::True, "ConsumersReady"),
            (
                "{}",
                fleet(2, 1, None),
                Err(missing_topic()),
                &lag,
                Migration::Done,
                Truth::True,
                "ConsumersReady",
            ),
            (
                "{}",
                fleet(2, 0, None),
                Err(missing_topic()),
                &lag,
                Migration::Done,
                Truth::False,
                "TopicNotFound",
            ),
            (
                "{}",
                fleet(0, 0, None),
                Err(missing_topic()),
                &idle,
                Migration::Done,
                Truth::False,
                "TopicNotFound",
            ),
            ("{}", fleet(2, 0, None), ok(), &lag, Migration::Done, Truth::False, "ConsumersNotReady"),
            ("{}", fleet(2, 0, Some("x")), ok(), &lag, Migration::Done, Truth::False, "ConsumersFailing"),
            ("{}", fleet(2, 0, None), ok(), &lag, Migration::Running, Truth::False, "MigrationRunning"),
            ("{}", fleet(2, 0, None), ok(), &lag, failing.clone(), Truth::False, "MigrationFailed"),
            ("{}", fleet(2, 2, None), ok(), &lag, failing, Truth::True, "ConsumersReady"),
            ("{}", fleet(0, 0, None), ok(), &idle, Migration::Done, Truth::True, "Idle"),
            ("{}", fleet(0, 0, None), ok(), &held(7), Migration::Done, Truth::False, "ScaledByOthers"),
            ("{}", fleet(0, 0, None), ok(), &held(0), Migration::Done, Truth::True, "Idle"),
            (dry, fleet(0, 0, None), ok(), &waiting(7), Migration::Done, Truth::False, "ScaledByOthers"),
            (dry, fleet(0, 0, None), ok(), &idle, Migration::Done, Truth::True, "Idle"),
            (fixed_zero, fleet(0, 0, None), ok(), &idle, Migration::Done, Truth::True, "ScaledToZero"),
            (
                r#"{"suspend": true}"#,
                fleet(0, 0, None),
                ok(),
                &idle,
                Migration::NotWanted,
                Truth::False,
                "Suspended",
            ),
        ];
        for (spec, fleet, reading, scale, migration, truth, reason) in table {
            let verdict = ready(&fixtures::valid(spec), &fleet, &reading, scale, &migration, "job");
            assert_eq!((verdict.truth, verdict.reason), (truth, reason), "{verdict:?}");
        }
    }

    #[test]
    fn a_pipeline_is_suspended_when_its_last_consumer_is_gone() {
        let none = Fleet { exists: true, ..Fleet::default() };
        let table = [
            (false, fleet(2, 2, None), Truth::False, "NotSuspended"),
            (true, fleet(2, 2, None), Truth::False, "Stopping"),
            // The Deployment counts no pod that stops.
            (true, Fleet { pods: 1, ..none.clone() }, Truth::False, "Stopping"),
            // The Deployment has not been looked at by its controller since it was told to have none.
            (true, Fleet { rollout: true, ..none.clone() }, Truth::False, "Stopping"),
            (true, none, Truth::True, "Suspended"),
            (true, Fleet::default(), Truth::True, "Suspended"),
        ];
        for (suspend, fleet, truth, reason) in table {
            let verdict = suspended(suspend, &fleet);
            assert_eq!((verdict.truth, verdict.reason), (truth, reason), "{fleet:?}");
        }
    }

    fn decision(spec: &str, change: impl FnOnce(&mut Decision)) -> Verdict {
        let (_, mut decision) =
            autoscaler::decide(&Default::default(), &Default::default(), &Default::default());
        change(&mut decision);
        scaling_limited(&fixtures::valid(spec), &decision)
    }

    /// One partition that cannot be read is enough for nothing to shrink, so it is told.
    #[test]
    fn lag_is_available_only_if_that_of_every_partition_is() {
        let decision = |partitions: Option<Vec<i32>>| {
            let (_, decision) =
                autoscaler::decide(&Default::default(), &Default::default(), &Default::default());
            let conditions = partitions.map(|partitions| Condition::LagUnknown { partitions });
            Decision { conditions: conditions.into_iter().collect(), ..decision }
        };
        let table = [
            (Ok(Reading::default()), None, Truth::True, "LagRead", "0 partitions"),
            (
                Ok(Reading::default()),
                Some(vec![3, 7]),
                Truth::False,
                "PartitionsUnknown",
                "partitions [3, 7] is not",
            ),
            (
                Ok(Reading::default()),
                Some((0..100).collect()),
                Truth::False,
                "PartitionsUnknown",
                "19] and 80 more",
            ),
            (
                Ok(Reading::default()),
                Some(vec![]),
                Truth::False,
                "PartitionsUnknown",
                "The lag is not known.",
            ),
            (Err(missing_topic()), Some(vec![]), Truth::False, "TopicNotFound", "stays as it is"),
        ];
        for (reading, partitions, truth, reason, words) in table {
            let verdict = lag(&reading, Some(&decision(partitions)));
            assert_eq!((verdict.truth, verdict.reason), (truth, reason), "{verdict:?}");
            assert!(verdict.message.contains(words), "{verdict:?}");
        }
    }

    /// A budget that was lowered takes consumers away; that is no lack of them.
    #[test]
    fn a_budget_of_connections_limits_only_what_needs_more() {
        for (needed, desired, truth) in [(3, 3, Truth::False), (2, 3, Truth::False), (4, 3, Truth::True)] {
            let verdict = decision("{}", |decision| {
                (decision.needed, decision.desired) = (needed, desired);
                (decision.limited_by, decision.conditions) = (Limit::Connections, Vec::new());
            });
            assert_eq!(verdict.truth, truth, "{needed} of {desired}");
        }
    }

    #[test]
    fn a_refusal_says_whether_consumers_go_on() {
        let refusal = Refusal::invalid("it is wrong");
        assert!(refused(&refusal, &fleet(1, 1, None))[0].message.contains("go on as they were"));
        assert!(!refused(&refusal, &fleet(1, 0, None))[0].message.contains("go on"));
        let conflict = Refusal { stop: true, ..refusal };
        assert!(!refused(&conflict, &fleet(1, 1, None))[0].message.contains("go on"));
    }

    #[test]
    fn messages_are_sentences() {
        let error = Error::Foreign { kind: "Service".into(), name: "clicks-consumer".into() };
        let verdict = &failed(&error)[0];
        assert!(verdict.message.starts_with("Service `clicks-consumer` exists"), "{verdict:?}");
        assert_eq!(verdict.reason, "ForeignObject");
    }
}
