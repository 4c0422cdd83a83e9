//! The controller's look at Kafka: committed offsets, log ends and the state of the group. It consumes nothing and joins no group.

mod age;
mod clients;
mod committed;
mod ends;
mod error;
mod groups;
mod listener;
mod native;
mod reader;
mod settings;
mod silence;
mod topics;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use autoscaler::{GroupState, PartitionObservation};

pub(crate) use age::Ages;
pub(crate) use clients::Clients;
pub(crate) use ends::Arrivals;
pub(crate) use error::LagError;

/// How to reach the topic and group of one pipeline.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Brokers to begin with, `host:port` separated by commas.
    pub(crate) brokers: String,
    /// Name of the topic.
    pub(crate) topic: String,
    /// Name of the consumer group.
    pub(crate) group: String,
    /// Settings of librdkafka, name to value, passwords among them.
    pub(crate) settings: BTreeMap<String, String>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Settings hold passwords and keys.
        formatter
            .debug_struct("Connection")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// A topic of which everything has been consumed, and where its logs ended then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quiet {
    client: blake3::Hash,
    topic: String,
    ends: Vec<(i32, i64)>,
}

impl Quiet {
    /// What to compare with, from the last reading; `None` if a log end was not read.
    pub(crate) fn new(connection: &Connection, reading: &Reading) -> Option<Self> {
        let ends = reading.partitions.iter().map(|seen| Some((seen.partition, seen.log_end?)));
        let client = settings::client_of(connection);
        Some(Self { client, topic: connection.topic.clone(), ends: ends.collect::<Option<_>>()? })
    }

    /// Whether it is of the cluster that is read now, with the same credentials.
    pub(crate) fn is_of(&self, connection: &Connection) -> bool {
        self.topic == connection.topic && self.client == settings::client_of(connection)
    }
}

/// What was read of a topic and a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// Partitions of the topic.
    pub(crate) partition_count: u32,
    /// Offsets of each partition.
    pub(crate) partitions: Arc<[PartitionObservation]>,
    /// State of the group.
    pub(crate) group: GroupState,
    /// Members of the group, if it could be described.
    pub(crate) group_members: Option<u32>,
}
