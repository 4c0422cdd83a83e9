//! What was seen at one moment.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What was seen at one moment, by one reading of the cluster, of Kafka and of the consumers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Observation {
    /// When, in seconds since the Unix epoch. An observation older than the last one is answered with "hold".
    pub time: f64,
    /// The consumers' Deployment and their consumer group.
    pub replicas: ReplicaObservation,
    /// Partitions of the topic according to its metadata; `None` if that could not be read. A partition that
    /// is missing from [`Observation::partitions`] is unknown, not empty.
    pub partition_count: Option<u32>,
    /// Offsets, one entry per partition that could be read, in any order. Whoever keeps an observation shares them.
    pub partitions: Arc<[PartitionObservation]>,
    /// What the consumers said of themselves, one entry per replica that could be read; may be empty.
    pub consumers: Vec<ConsumerObservation>,
}

/// The consumers' Deployment and their consumer group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ReplicaObservation {
    /// Replicas that the Deployment asks for.
    pub spec: u32,
    /// Replicas that are ready.
    pub ready: u32,
    /// Members of the consumer group; `None` if the group could not be described.
    pub group_members: Option<u32>,
    /// What the group is doing.
    pub group: GroupState,
    /// True while pods are being replaced because their template changed.
    pub rollout_in_progress: bool,
}

/// State of a consumer group, as its coordinator reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupState {
    /// Every member has its partitions.
    Stable,
    /// Partitions are being handed out anew (`PreparingRebalance`, `CompletingRebalance`, `Assigning`, `Reconciling`).
    Rebalancing,
    /// The group exists and has no members.
    Empty,
    /// There is no such group (yet, or any more).
    Dead,
    /// The group could not be described.
    #[default]
    Unknown,
}

/// Offsets of one partition. Read the committed offset before the log end, so that the lag is never negative.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionObservation {
    /// Number of the partition, from 0.
    pub partition: i32,
    /// Oldest offset still in the log; `None` if it was not read (it is needed only where nothing is committed).
    #[serde(default)]
    pub log_start: Option<i64>,
    /// Offset that the next record will get; `None` if it could not be read.
    pub log_end: Option<i64>,
    /// Where the group stands.
    pub committed: CommittedOffset,
    /// Age in seconds of the oldest event not yet consumed, if the caller can tell (by interpolating between
    /// points of offset and time, or from the record itself).
    #[serde(default)]
    pub lag_seconds: Option<f64>,
}

/// The group's committed offset of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommittedOffset {
    /// It could not be read.
    Unknown,
    /// It was read, and there is none: the group has never committed here.
    Never,
    /// The offset of the next record to be consumed.
    At(i64),
}

/// What one consumer said of itself, as an average since the last reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerObservation {
    /// Name of the replica (the pod); it only has to stay the same from one reading to the next.
    pub name: String,
    /// Share of the wall clock in which the consumer was not merely waiting for Kafka, 0 to 1: the rate of
    /// `consumer_busy_seconds_total`.
    #[serde(default)]
    pub busy: Option<f64>,
    /// Events processed per second: the rate of `events_processed_total`.
    #[serde(default)]
    pub processed_rate: Option<f64>,
    /// Partitions it owns, if known (the partitions for which it exports `kafka_consumer_lag`).
    #[serde(default)]
    pub partitions: Option<Vec<i32>>,
}
