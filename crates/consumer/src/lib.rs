//! Moves JSON events from a Kafka topic into PostgreSQL, each exactly once.
//!
//! How an event flows: `source` reads a record, `event` parses it, `batch` gathers it in a `slot`, a `writer` stores
//! the batch through `sink` in one transaction with the partition's next offset. Pure rooms: `settings`, `event`,
//! `batch`, `dead_letter`, `partitioning`, `recent_keys`, `rollup`; rooms with I/O: `source`, `sink`, `letter_topic`,
//! `writer`, `engine`.

pub mod batch;
pub mod dead_letter;
pub mod engine;
pub mod event;
pub mod letter_topic;
pub mod letters;
pub mod metrics;
pub mod partitioning;
mod recent_keys;
mod retry;
pub mod rollup;
pub mod settings;
pub mod sink;
pub mod slot;
pub mod source;
pub mod status;
mod trace;
mod writer;
