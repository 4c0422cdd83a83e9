//! What the controller reports about a pipeline.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Every value of `status.scaling.limitedBy`. Texts and not a type, so that a status written by another version stays readable.
pub const SCALING_LIMITS: [&str; 11] = [
    "MinReplicas",
    "Schedule",
    "MaxReplicas",
    "Partitions",
    "Connections",
    "HotPartition",
    "Sink",
    "Stabilization",
    "Budget",
    "Converging",
    "Unknown",
];

/// Every value of `status.scaling.reasonCode`: those of the autoscaler, and three for numbers that it does not decide.
pub const SCALING_REASONS: [&str; 17] = [
    "Steady",
    "LagAboveTarget",
    "Surplus",
    "Drained",
    "Idle",
    "Wake",
    "Bounds",
    "Waiting",
    "Converging",
    "LagUnknown",
    "Learning",
    "Stalled",
    "SinkSaturated",
    "AtLimit",
    "Suspended",
    "SetByUser",
    "SetByOthers",
];

/// What the controller reports about a pipeline.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnalyticsPipelineStatus {
    /// Generation of the specification that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Consumer pods that exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Consumer pods that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the consumer pods, as a string; the scale subresource needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// What is the case and why: Ready sums up the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// What waits in the topic. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<LagStatus>,
    /// How fast events arrive and are stored. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<RatesStatus>,
    /// What was decided about the number of consumers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
}

/// What waits in the topic.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LagStatus {
    /// Events between the committed offsets and the ends of the partitions.
    pub events: i64,
    /// How long the oldest of these events has waited, in seconds. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
    /// Number of partitions of the topic.
    pub partitions: i32,
}

/// How fast events arrive and are stored.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RatesStatus {
    /// Events that arrive in the topic, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<i64>,
    /// Events that consumers store, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processed: Option<i64>,
    /// Events that one consumer can store when it never waits, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_per_replica: Option<i64>,
}

/// What was decided about the number of consumers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScalingStatus {
    /// Number of consumers that is wanted.
    pub desired: i32,
    /// Number of consumers that the load calls for, whatever the limits. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed: Option<i32>,
    /// Name of the schedule whose window is open; of several, the one that asks for most. Absent outside of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// What keeps the number from being another one. Absent when nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = SCALING_LIMITS))]
    pub limited_by: Option<String>,
    /// Why this number, for people, with figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why this number, for machines: one of a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = SCALING_REASONS))]
    pub reason_code: Option<String>,
    /// Consumers that ran when the operator stopped all of them, for `spec.suspend` or because of a conflict: a dry run goes on with as many. Absent while they run, and when lag decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_replicas: Option<i32>,
    /// When the number was last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Time>,
    /// When the next change is possible. Absent when it is possible now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_eligible: Option<Time>,
    /// What the autoscaler remembers across restarts of the controller; not meant for reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}
