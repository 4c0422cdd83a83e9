//! PostgreSQL: connections, the schema, offsets, and the one transaction that a batch is.

pub mod classify;
pub mod connection;
mod copy_format;
mod nodelay;
pub mod offsets;
pub mod partitions;
pub mod rollups;
pub mod schema;
mod statements;
mod transaction;

pub use connection::Database;
pub use statements::{OFFSETS_TABLE, Statements};
pub use transaction::{Outcome, WriteError, Written, write};
