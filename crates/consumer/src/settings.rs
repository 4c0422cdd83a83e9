//! The consumer's settings: one table of names, defaults and meanings that parsing, `--help` and the reference share.
//!
//! Settings come from the environment alone, so that a pod template, a shell and a unit file say the same thing.

mod parse;
mod reference;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use parse::SettingsError;
pub use reference::{help_text, markdown};
pub use table::{SETTINGS, Setting};

use analytics_runtime::telemetry::LogFormat;

use crate::partitioning::Policy;

/// Everything the consumer can be told, parsed and checked.
#[derive(Clone)]
pub struct Settings {
    /// TCP port of `/health`, `/livez`, `/readyz` and `/metrics`.
    pub metrics_port: u16,
    /// Where records come from.
    pub kafka: Kafka,
    /// Where rows go.
    pub database: Database,
    /// How an event is recognised as seen before.
    pub deduplication: Deduplication,
    /// What happens to a record without a value.
    pub tombstones: Tombstones,
    /// Bounds of one transaction.
    pub batch: BatchLimits,
    /// The largest record value, in bytes, that is still parsed.
    pub event_max_bytes: usize,
    /// Seconds that a clean stop may take.
    pub shutdown_timeout_seconds: u64,
    /// Log filter, as `tracing` understands it.
    pub log_level: String,
    /// Log lines for people or for machines.
    pub log_format: LogFormat,
    /// Name under which this process appears in the offsets table.
    pub instance: String,
}

/// Where records come from.
#[derive(Clone)]
pub struct Kafka {
    /// `host:port` list, comma separated.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// The consumer group.
    pub group_id: String,
    /// Where to begin when no offset is stored anywhere.
    pub start_from: StartFrom,
    /// What to do when the stored offset is outside the log.
    pub on_offset_gap: OnOffsetGap,
    /// How partitions are shared out among the consumers of the group.
    pub group_protocol: GroupProtocol,
    /// Everything that goes to librdkafka for reaching and authenticating against the brokers, and the user's properties.
    pub client_properties: BTreeMap<String, String>,
}

/// Where rows go.
#[derive(Clone)]
pub struct Database {
    /// `postgres://user:password@host:port/database?sslmode=…`; never logged.
    pub url: String,
    /// Table of the events, `name` or `schema.name`.
    pub table: TableName,
    /// Where the records go that cannot be stored.
    pub dead_letters: DeadLetters,
    /// How the events table is partitioned; `None` means one plain table, or whatever a person has made of it.
    pub partitioning: Option<Policy>,
    /// Writer connections of this process.
    pub connections: usize,
    /// Whether this process changes the schema or only checks it.
    pub migrations: Migrations,
    /// PEM file of the authority that signed the server's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client certificate and its key, for servers that ask for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether each transaction counts what it stored, by hour, type and service.
    pub rollups: bool,
    /// Whether it counts distinct users by hour, too.
    pub rollup_users: bool,
}

/// Where the records go that cannot be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetters {
    /// A table, `name` or `schema.name`.
    Table(TableName),
    /// A Kafka topic of the source's cluster.
    Topic(String),
}

impl DeadLetters {
    /// The table, if they go to one.
    #[must_use]
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Self::Table(table) => Some(table),
            Self::Topic(_) => None,
        }
    }

    /// The topic, if they go to one.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::Table(_) => None,
            Self::Topic(topic) => Some(topic),
        }
    }
}

/// Bounds of one transaction.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Events in one transaction.
    pub max_events: usize,
    /// Bytes of record data in one transaction.
    pub max_bytes: usize,
}

/// Where to begin when no offset is stored anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// The oldest record that the log still has.
    Earliest,
    /// Records produced from now on.
    Latest,
}

/// What to do when the stored offset is outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnOffsetGap {
    /// Stop reading the partition and say so until a person decides.
    Fail,
    /// Continue with the oldest record that the log still has.
    Earliest,
    /// Continue with records produced from now on.
    Latest,
}

/// How partitions are shared out among the consumers of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// One member shares them out, cooperatively (KIP-429); every broker knows it.
    Classic,
    /// The broker shares them out, member by member (KIP-848); from Kafka 4.0 on.
    Consumer,
}

/// How an event is recognised as seen before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deduplication {
    /// Every record is stored; only redelivery of the same record is removed.
    None,
    /// Equal payloads are one event.
    Content,
    /// Records with an equal value of this header are one event.
    Header(String),
    /// Events with an equal value of this top-level JSON field are one event.
    Field(String),
}

/// What happens to a record without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstones {
    /// It is kept as a dead letter.
    DeadLetter,
    /// It is passed over.
    Skip,
}

/// Whether this process changes the schema or only checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migrations {
    /// Apply what is missing, under a lock.
    Apply,
    /// Wait until somebody else has applied it.
    Check,
}

/// A table name, `name` or `schema.name`, safe to quote into SQL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    schema: Option<String>,
    name: String,
}

impl TableName {
    /// Parses `name` or `schema.name`; each part 1 to 63 bytes without control characters, as PostgreSQL would keep it.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts: Vec<&str> = text.split('.').collect();
        let name = parts.pop().unwrap_or_default();
        let schema = parts.pop();
        if !parts.is_empty() {
            return Err(format!("`{text}` has more than one dot; write `table` or `schema.table`"));
        }
        for part in schema.iter().chain([&name]) {
            if part.is_empty() || part.len() > 63 || part.chars().any(char::is_control) {
                return Err(format!(
                    "`{text}` is not a table name; write `table` or `schema.table`, each of 1 to 63 bytes"
                ));
            }
        }
        Ok(Self { schema: schema.map(str::to_owned), name: name.to_owned() })
    }

    /// The name as a quoted SQL identifier.
    #[must_use]
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.name)),
            None => quote(&self.name),
        }
    }

    /// A table beside this one (in the same schema) as a quoted SQL identifier.
    #[must_use]
    pub fn sibling(&self, name: &str) -> String {
        Self { schema: self.schema.clone(), name: name.to_owned() }.quoted()
    }

    /// The table's own name without its schema.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Quotes one SQL identifier.
#[must_use]
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

impl std::fmt::Display for TableName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(formatter, "{schema}.{}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

impl Settings {
    /// Reads the settings from the process environment.
    ///
    /// # Errors
    /// The first missing, malformed or unknown setting, named, with what to write instead.
    pub fn from_environment() -> Result<Self, SettingsError> {
        Self::from_variables(&std::env::vars().collect())
    }

    /// Reads the settings from the given variables.
    ///
    /// # Errors
    /// The first missing, malformed or unknown setting, named, with what to write instead.
    pub fn from_variables(variables: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        parse::settings(variables)
    }
}
