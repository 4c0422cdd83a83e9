//! How events are delivered.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How events are delivered: deduplication, dead letters and batches.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.batch.maxBytes >= self.maxEventBytes").message(
    "`batch.maxBytes` must be greater than or equal to `maxEventBytes`, or the largest allowed event would fit into no batch"
))]
pub struct Delivery {
    /// How events that a producer sent twice are recognised. Unset: by content.
    #[serde(default)]
    pub deduplication: Deduplication,
    /// Where records go that cannot be stored. Unset: the table `dead_letters`.
    #[serde(default)]
    pub dead_letters: DeadLetters,
    /// What happens to records without a value: `DeadLetter` keeps them with the dead letters, `Skip` passes over them. Default: `DeadLetter`.
    #[serde(default)]
    pub tombstones: Tombstones,
    /// Limits of one transaction. Unset: 10,000 events, 4 MiB.
    #[serde(default)]
    pub batch: Batch,
    /// Largest event that is stored, in bytes; a larger one becomes a dead letter. Default: 1048576.
    #[serde(default = "default_max_event_bytes")]
    #[schemars(range(min = 1024, max = 67_108_864))]
    pub max_event_bytes: i32,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            deduplication: Deduplication::default(),
            dead_letters: DeadLetters::default(),
            tombstones: Tombstones::default(),
            batch: Batch::default(),
            max_event_bytes: default_max_event_bytes(),
        }
    }
}

const fn default_max_event_bytes() -> i32 {
    1_048_576
}

/// How events that a producer sent twice are recognised.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.mode in ['Header', 'Field']) || has(self.name)").message(
        "`name` must be set when `mode` is Header or Field: the name of the record header or JSON field that identifies an event"
    ),
    validation = Rule::new("self.mode in ['Header', 'Field'] || !has(self.name)").message(
        "`name` may not be set when `mode` is None or Content: choose Header or Field, or remove `name`"
    )
)]
pub struct Deduplication {
    /// What identifies an event: `None` (nothing, duplicates are stored), `Content` (all of it), `Header` (a record header) or `Field` (a JSON field). Default: `Content`.
    #[serde(default)]
    pub mode: DeduplicationMode,
    /// Name of the record header or JSON field, with the modes `Header` and `Field`. Example: `event_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
}

/// What identifies an event.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeduplicationMode {
    /// Nothing: duplicates are stored.
    None,
    /// A hash of the payload.
    #[default]
    Content,
    /// A record header.
    Header,
    /// A field of the JSON object.
    Field,
}

/// Where records go that cannot be stored: a table or a topic.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.table) && has(self.topic))").message(
    "`deadLetters` must have either `table` or `topic`, not both: a record that cannot be stored goes to one place"
))]
pub struct DeadLetters {
    /// Name of the table for dead letters; it is made when it does not exist. Unset, and without `topic`: `dead_letters`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 48))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z_][a-z0-9_]*$') && self != 'pipeline_offsets'").message(
        "`table` must begin with a lower-case letter or `_`, hold only lower-case letters, digits and `_`, and not be pipeline_offsets"
    ))]
    pub table: Option<String>,

    /// Name of the topic for dead letters, in the same Kafka; it must exist. Each letter has headers with the reason and with where it came from. Unset: they go to the table. Example: `user-events.dlq`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$') && self != '.' && self != '..'").message(
        "`topic` must hold only letters, digits, `.`, `_` and `-`, as Kafka demands"
    ))]
    pub topic: Option<String>,
}

/// The table for dead letters where nothing else is said.
const DEAD_LETTER_TABLE: &str = "dead_letters";

impl DeadLetters {
    /// The table that they go to, unless they go to a topic.
    #[must_use]
    pub fn table_name(&self) -> Option<&str> {
        match &self.topic {
            Some(_) => None,
            None => Some(self.table.as_deref().unwrap_or(DEAD_LETTER_TABLE)),
        }
    }
}

/// What happens to records without a value.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tombstones {
    /// Keep them with the dead letters.
    #[default]
    DeadLetter,
    /// Pass over them.
    Skip,
}

/// Limits of one transaction.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// Most events in one transaction. Default: 10000.
    #[serde(default = "default_max_events")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_events: i32,
    /// Most payload in one transaction, in bytes. Default: 4194304.
    #[serde(default = "default_max_bytes")]
    #[schemars(range(min = 1024, max = 268_435_456))]
    pub max_bytes: i32,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_events: default_max_events(), max_bytes: default_max_bytes() }
    }
}

const fn default_max_events() -> i32 {
    10_000
}

const fn default_max_bytes() -> i32 {
    4_194_304
}
