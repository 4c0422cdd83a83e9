//! PostgreSQL: connections, the schema, offsets, and the one transaction that a batch is.

mod advice;
pub mod classify;
mod connection;
mod copy_format;
mod isolate;
pub mod offsets;
pub mod partitions;
mod piece;
pub mod rollups;
mod rows;
pub mod schema;
mod sockets;
mod statements;
mod transaction;

pub use connection::Database;
pub use piece::Piece;
pub use statements::{OFFSETS_TABLE, Statements};
pub use transaction::{Course, Outcome, SILENCE, Target, WriteError, Written, heard};
