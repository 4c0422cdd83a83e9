//! What to do, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What to do, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Replicas to set. Equal to the observed `spec` when nothing is to be changed.
    pub desired: u32,
    /// Replicas the load calls for at this moment, before windows, gates and the user's bounds (never more
    /// than there are partitions); equal to `desired` when it cannot be told.
    pub needed: u32,
    /// What keeps `desired` from being `needed`.
    pub limited_by: Limit,
    /// Why `desired` is what it is.
    pub reason: Reason,
    /// The same for a person, in one or two sentences with the figures.
    pub explanation: String,
    /// Earliest moment at which a smaller number can be taken, in seconds since the Unix epoch, when only
    /// time stands in the way.
    pub next_eligible: Option<f64>,
    /// Seconds after which to look again, if that is sooner than usual: the next reading settles what this one leaves open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_again_seconds: Option<f64>,
    /// What is believed about the load and the consumers.
    pub estimates: Estimates,
    /// What a person should know, each at most once, in a fixed order. A condition that is absent is false.
    pub conditions: Vec<Condition>,
    /// Given once, when the backlog that caused the last growth has been worked off.
    pub drain_outcome: Option<DrainOutcome>,
}

/// What keeps the replicas from being what the load calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Limit {
    /// Nothing.
    None,
    /// The user's `min_replicas` asks for more than the load does.
    MinReplicas,
    /// A schedule's floor asks for more than the load does.
    Schedule,
    /// The user's `max_replicas`.
    MaxReplicas,
    /// There are no more partitions to share.
    Partitions,
    /// The database's connection budget.
    Connections,
    /// One partition is faster than one consumer; more consumers cannot share it.
    HotPartition,
    /// The database does not store more when more consumers write.
    Sink,
    /// A smaller number has not sufficed for long enough yet, or the last change is too recent.
    Stabilization,
    /// There were too many changes of late.
    Budget,
    /// Pods, a rollout or the consumer group have not settled.
    Converging,
    /// The lag, or what a replica can do, is not known.
    Unknown,
}

/// Why the decision is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The replicas suffice and fewer would not.
    Steady,
    /// Events would wait longer than the objective: more replicas at once.
    LagAboveTarget,
    /// A smaller number has sufficed for long enough.
    Surplus,
    /// The backlog is worked off; the replicas taken for it are given back.
    Drained,
    /// Nothing has arrived for long enough: to zero.
    Idle,
    /// Events arrived for a sleeping pipeline.
    Wake,
    /// The replica count lay outside the bounds of the policy.
    Bounds,
    /// Fewer would do, but not for long enough yet (or the change budget is used up).
    Waiting,
    /// Pods, a rollout or the consumer group are settling: no decision.
    Converging,
    /// The lag cannot be read: nothing shrinks.
    LagUnknown,
    /// What one replica can do has not been measured yet.
    Learning,
    /// Commits stand still although consumers are alive: more of them would not help.
    Stalled,
    /// More consumers did not store more: back to the number that stores as much.
    SinkSaturated,
    /// More is needed than the bounds allow.
    AtLimit,
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// What is believed about the load and the consumers. `None` is "not known", never zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimates {
    /// Events not yet consumed, over all partitions that could be read.
    pub lag_events: Option<u64>,
    /// Longest wait over all partitions, in seconds.
    pub lag_seconds: Option<f64>,
    /// Events arriving per second.
    pub arrival_rate: Option<f64>,
    /// Events consumed per second, by the committed offsets.
    pub processed_rate: Option<f64>,
    /// Events per second that one replica can handle.
    pub capacity_per_replica: Option<f64>,
    /// Share of its capacity that the most loaded replica needs for the arrivals, with the replicas there are.
    pub utilization: Option<f64>,
    /// Seconds until the backlog is worked off if the decision is carried out; `None` if it never will be.
    pub predicted_drain_seconds: Option<f64>,
}

/// Something a person should know about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
pub enum Condition {
    /// The lag of some or all partitions cannot be told.
    LagUnknown {
        /// The partitions, ascending; empty if not even the topic could be read.
        partitions: Vec<i32>,
    },
    /// Commits stand still on these partitions although there is lag and consumers are alive.
    Stalled {
        /// The partitions, ascending.
        partitions: Vec<i32>,
        /// Seconds for which the longest has stood still.
        seconds: f64,
    },
    /// One partition receives more than one consumer can handle; scaling cannot help.
    HotPartition {
        /// The fastest such partition.
        partition: i32,
        /// Events per second that arrive on it.
        rate: f64,
        /// Events per second that one replica can handle.
        capacity: f64,
    },
    /// More consumers did not store more.
    SinkSaturated {
        /// Events per second that are stored, with however many consumers.
        throughput: f64,
        /// The least replicas known to reach it.
        replicas: u32,
    },
    /// The load calls for more than `max_replicas` (or the connection budget) allows.
    AtMaximum {
        /// The bound.
        maximum: u32,
    },
    /// The load calls for more replicas than there are partitions.
    AtPartitionCount {
        /// Number of partitions.
        partitions: u32,
    },
}

impl Condition {
    /// The name of the condition, as it stands in the resource's status.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::LagUnknown { .. } => "LagUnknown",
            Self::Stalled { .. } => "Stalled",
            Self::HotPartition { .. } => "HotPartition",
            Self::SinkSaturated { .. } => "SinkSaturated",
            Self::AtMaximum { .. } => "AtMaximum",
            Self::AtPartitionCount { .. } => "AtPartitionCount",
        }
    }
}

/// How well the last growth was predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainOutcome {
    /// Seconds that were predicted from the decision to the end of the backlog.
    pub predicted_seconds: f64,
    /// Seconds that it took.
    pub actual_seconds: f64,
}
