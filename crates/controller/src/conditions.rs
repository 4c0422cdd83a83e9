//! Conditions of a pipeline: their names, their reasons, and how a new set follows an old one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Sums up the others: the pipeline does its work.
pub const READY: &str = "Ready";
/// The specification is valid, what it refers to is there, and the objects are as they should be.
pub const RECONCILED: &str = "Reconciled";
/// The tables are as this version of the consumer needs them.
pub const MIGRATED: &str = "Migrated";
/// The lag is known.
pub const LAG_AVAILABLE: &str = "LagAvailable";
/// The load calls for another number of consumers than bounds allow.
pub const SCALING_LIMITED: &str = "ScalingLimited";
/// Somebody else sets the replicas of the Deployment again and again, and is given way to.
pub const SCALING_CONFLICT: &str = "ScalingConflict";
/// The pipeline was stopped by its user.
pub const SUSPENDED: &str = "Suspended";
/// Commits stand still although consumers are alive.
pub const STALLED: &str = "Stalled";
/// One partition is faster than one consumer.
pub const HOT_PARTITION: &str = "HotPartition";
/// More consumers do not store more.
pub const SINK_SATURATED: &str = "SinkSaturated";

/// Every condition that a pipeline has, in the order in which they are shown.
pub const ALL: [&str; 10] = [
    READY,
    RECONCILED,
    MIGRATED,
    LAG_AVAILABLE,
    SCALING_LIMITED,
    SCALING_CONFLICT,
    SUSPENDED,
    STALLED,
    HOT_PARTITION,
    SINK_SATURATED,
];

/// Reasons, CamelCase and never empty; tools may rely on them.
pub mod reasons {
    /// All is as it should be.
    pub const AS_EXPECTED: &str = "AsExpected";
    /// Nothing is known yet.
    pub const NOT_YET_KNOWN: &str = "NotYetKnown";
    /// Consumers run and are ready.
    pub const CONSUMERS_READY: &str = "ConsumersReady";
    /// Consumers should run, and none is ready.
    pub const CONSUMERS_NOT_READY: &str = "ConsumersNotReady";
    /// Consumers end again and again.
    pub const CONSUMERS_FAILING: &str = "ConsumersFailing";
    /// Nothing waits, so no consumer runs.
    pub const IDLE: &str = "Idle";
    /// The user asked for no consumers.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// The user stopped the pipeline.
    pub const SUSPENDED: &str = "Suspended";
    /// The user stopped the pipeline, and consumers still stop.
    pub const STOPPING: &str = "Stopping";
    /// The user has not stopped the pipeline.
    pub const NOT_SUSPENDED: &str = "NotSuspended";
    /// The specification contradicts itself or the cluster.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A referenced Secret does not exist.
    pub const SECRET_NOT_FOUND: &str = "SecretNotFound";
    /// A referenced Secret lacks a key.
    pub const SECRET_KEY_MISSING: &str = "SecretKeyMissing";
    /// A key of a Secret holds something unusable.
    pub const SECRET_INVALID: &str = "SecretInvalid";
    /// Another pipeline reads the same topic with the same group.
    pub const CONFLICT: &str = "ConflictingPipeline";
    /// An object of the same name belongs to someone else.
    pub const FOREIGN_OBJECT: &str = "ForeignObject";
    /// The API server refused or could not be reached.
    pub const API_ERROR: &str = "ApiError";
    /// A mistake in the operator itself.
    pub const INTERNAL_ERROR: &str = "InternalError";
    /// It took too long.
    pub const TIMED_OUT: &str = "TimedOut";
    /// The migration has run to its end.
    pub const MIGRATION_SUCCEEDED: &str = "MigrationSucceeded";
    /// The migration runs.
    pub const MIGRATION_RUNNING: &str = "MigrationRunning";
    /// The migration fails and is tried again.
    pub const MIGRATION_FAILED: &str = "MigrationFailed";
    /// The lag was read.
    pub const LAG_READ: &str = "LagRead";
    /// The lag of some partitions could not be read.
    pub const PARTITIONS_UNKNOWN: &str = "PartitionsUnknown";
    /// Somebody else sets the number of consumers, on the Deployment.
    pub const SCALED_BY_OTHERS: &str = "ScaledByOthers";
    /// More consumers would be needed than bounds allow.
    pub const WITHIN_LIMITS: &str = "WithinLimits";
    /// `maxReplicas` (or the connection budget) is reached.
    pub const AT_MAXIMUM: &str = "AtMaximum";
    /// There are as many consumers as partitions.
    pub const AT_PARTITION_COUNT: &str = "AtPartitionCount";
    /// The operator does not decide.
    pub const NOT_SCALED_BY_LAG: &str = "NotScaledByLag";
    /// The autoscaler has seen it.
    pub const DETECTED: &str = "Detected";
    /// The autoscaler has not seen it.
    pub const NOT_DETECTED: &str = "NotDetected";
}

/// Status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It cannot be told.
    Unknown,
}

impl Truth {
    /// The word that Kubernetes uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What is to be said in one condition, before times are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Name of the condition.
    pub condition: &'static str,
    /// Whether it is so.
    pub truth: Truth,
    /// Why, for machines.
    pub reason: &'static str,
    /// Why, and what to do, for people.
    pub message: String,
}

impl Verdict {
    /// A condition that holds.
    #[must_use]
    pub fn yes(condition: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { condition, truth: Truth::True, reason, message: message.into() }
    }

    /// A condition that does not hold.
    #[must_use]
    pub fn no(condition: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { condition, truth: Truth::False, reason, message: message.into() }
    }

    /// A condition of which nothing is known.
    #[must_use]
    pub fn unknown(condition: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { condition, truth: Truth::Unknown, reason, message: message.into() }
    }
}

/// The conditions that follow `previous` after `verdicts`: the time of a transition moves only when the status flips, a
/// condition about which nothing was said stays as it was, and one never spoken of is Unknown.
#[must_use]
pub fn follow(previous: &[Condition], verdicts: &[Verdict], generation: i64, now: &Time) -> Vec<Condition> {
    ALL.iter()
        .map(|name| {
            let before = previous.iter().find(|condition| condition.type_ == *name);
            let said = verdicts.iter().rfind(|verdict| verdict.condition == *name);
            match (said, before) {
                (Some(verdict), before) => stamped(verdict, before, generation, now),
                (None, Some(before)) => before.clone(),
                (None, None) => {
                    let verdict = Verdict::unknown(name, reasons::NOT_YET_KNOWN, "Nothing is known yet.");
                    stamped(&verdict, None, generation, now)
                }
            }
        })
        .collect()
}

fn stamped(verdict: &Verdict, before: Option<&Condition>, generation: i64, now: &Time) -> Condition {
    let unchanged = before.filter(|before| before.status == verdict.truth.as_str());
    Condition {
        type_: verdict.condition.to_owned(),
        status: verdict.truth.as_str().to_owned(),
        reason: verdict.reason.to_owned(),
        message: verdict.message.clone(),
        observed_generation: Some(generation),
        last_transition_time: unchanged
            .map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn find<'a>(conditions: &'a [Condition], name: &str) -> &'a Condition {
        conditions.iter().find(|condition| condition.type_ == name).unwrap()
    }

    /// Tools that wait for a condition need all of them from the first status on.
    #[test]
    fn every_condition_is_there_from_the_beginning() {
        let conditions = follow(&[], &[Verdict::no(READY, reasons::IDLE, "x")], 1, &at(5));
        assert_eq!(conditions.len(), ALL.len());
        assert_eq!(find(&conditions, READY).status, "False");
        assert_eq!(find(&conditions, MIGRATED).status, "Unknown");
    }

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let first = follow(&[], &[Verdict::no(READY, reasons::IDLE, "a")], 1, &at(1));
        let second = follow(&first, &[Verdict::no(READY, reasons::API_ERROR, "b")], 2, &at(2));
        assert_eq!(find(&second, READY).last_transition_time, at(1));
        assert_eq!(find(&second, READY).reason, reasons::API_ERROR);
        assert_eq!(find(&second, READY).observed_generation, Some(2));
        let third = follow(&second, &[Verdict::yes(READY, reasons::IDLE, "c")], 2, &at(3));
        assert_eq!(find(&third, READY).last_transition_time, at(3));
    }

    #[test]
    fn what_is_not_spoken_of_stays_and_the_last_word_counts() {
        let first = follow(&[], &[Verdict::yes(MIGRATED, reasons::AS_EXPECTED, "done")], 1, &at(1));
        let verdicts = [Verdict::no(READY, reasons::IDLE, "a"), Verdict::yes(READY, reasons::IDLE, "b")];
        let second = follow(&first, &verdicts, 2, &at(2));
        assert_eq!(find(&second, MIGRATED), find(&first, MIGRATED));
        assert_eq!(find(&second, READY).status, "True");
    }
}
