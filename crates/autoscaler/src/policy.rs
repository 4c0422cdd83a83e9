//! What the user wants.

use serde::{Deserialize, Serialize};

/// What the user wants of a pipeline's scaling. [`Policy::default`] holds the documented defaults.
///
/// The number of partitions is not here: it is observed. Dry run is not here either: the caller simply does
/// not carry out the decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policy {
    /// The objective: no event waits longer than this many seconds in Kafka. Values below 1 count as 1.
    pub target_lag_seconds: f64,
    /// Never fewer replicas than this; 0 allows the pipeline to sleep while nothing arrives.
    pub min_replicas: u32,
    /// Never more replicas than this; `None` means as many as there are partitions (more are never useful).
    pub max_replicas: Option<u32>,
    /// Where a consumer starts on a partition for which the group has never committed an offset.
    pub start_from: StartFrom,
    /// A smaller number of replicas must have sufficed for this many seconds before it is taken.
    pub stabilization_seconds: f64,
    /// Fewest seconds from any change to a scale-down.
    pub cooldown_seconds: f64,
    /// Seconds without one event, all lag gone, before the last replica is taken away (`min_replicas: 0`).
    pub idle_seconds: f64,
    /// Most changes of the replica count in one hour; beyond it only growth that the objective needs at once
    /// is allowed.
    pub changes_per_hour: u32,
    /// What to do while the lag cannot be read.
    pub on_unknown: OnUnknown,
    /// Seconds for which the lag must have been unreadable before [`OnUnknown::Floor`] applies.
    pub unknown_seconds: f64,
    /// Database connections that all replicas together may hold; `None` is no budget.
    pub max_connections: Option<u32>,
    /// Database connections of one replica (at least 1).
    pub connections_per_replica: u32,
    /// A floor that holds at this moment because of a schedule; computed by the caller, `None` outside any window.
    pub schedule_floor: Option<u32>,
    /// What the user calls that schedule, for explanations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_name: Option<String>,
    /// Events per second that one replica is believed to handle, used only until its capacity is measured.
    pub capacity_hint: Option<f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            target_lag_seconds: 30.0,
            min_replicas: 1,
            max_replicas: None,
            start_from: StartFrom::Earliest,
            stabilization_seconds: 300.0,
            cooldown_seconds: 60.0,
            idle_seconds: 300.0,
            changes_per_hour: 30,
            on_unknown: OnUnknown::Hold,
            unknown_seconds: 60.0,
            max_connections: None,
            connections_per_replica: 2,
            schedule_floor: None,
            schedule_name: None,
            capacity_hint: None,
        }
    }
}

/// Where consumption starts on a partition without a committed offset; the meaning of Kafka's `auto.offset.reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFrom {
    /// At the oldest record that is still kept: all of them are lag.
    #[default]
    Earliest,
    /// At the end of the log: only what arrives from now on is lag.
    Latest,
}

/// What to do while the lag cannot be read. Unknown is never taken for zero: both choices never shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnknown {
    /// Keep the replicas there are.
    #[default]
    Hold,
    /// Keep the replicas there are, and raise them to this number once [`Policy::unknown_seconds`] have passed.
    Floor(u32),
}
