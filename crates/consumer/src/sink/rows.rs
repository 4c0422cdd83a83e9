//! Rows on their way into the events table: by COPY, or by an insert that passes over known keys.

use std::collections::HashSet;
use std::ops::Range;

use chrono::DateTime;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{Statements, copy_format};
use crate::batch::Batch;

/// COPY data is sent in pieces of about this many bytes, so that encoding never holds the whole batch twice.
const COPY_CHUNK: usize = 128 * 1024;

/// Rows of one insert. Its columns are held as arrays and once more as the message to the server.
pub(super) const INSERT_ROWS: usize = 2_500;

/// Streams rows in. Fails on a known key.
pub(super) async fn copy(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
    range: Range<usize>,
) -> Result<(), sqlx::Error> {
    let mut copy = connection.copy_in_raw(&statements.copy).await?;
    let mut buffer = Vec::with_capacity(COPY_CHUNK + 4096);
    copy_format::header(&mut buffer);
    for row in &batch.rows()[range] {
        copy_format::row(batch, row, &mut buffer);
        if buffer.len() >= COPY_CHUNK {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    copy_format::trailer(&mut buffer);
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    Ok(())
}

/// Inserts rows that are not there yet and returns their keys.
pub(super) async fn insert(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
    range: Range<usize>,
) -> Result<HashSet<[u8; 16]>, sqlx::Error> {
    let rows = &batch.rows()[range];
    let event_types: Vec<&str> = rows.iter().map(|row| batch.event_type(row)).collect();
    let user_ids: Vec<Uuid> = rows.iter().map(|row| Uuid::from_bytes(row.user_id)).collect();
    let services: Vec<&str> = rows.iter().map(|row| batch.service(row)).collect();
    let timestamps: Vec<_> = rows
        .iter()
        .map(|row| DateTime::from_timestamp_micros(row.timestamp_micros).unwrap_or_default())
        .collect();
    let data: Vec<&str> = rows.iter().map(|row| batch.data(row)).collect();
    let keys: Vec<Uuid> = rows.iter().map(|row| Uuid::from_bytes(row.key)).collect();
    let stored: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(statements.insert.clone()))
        .bind(event_types)
        .bind(user_ids)
        .bind(services)
        .bind(timestamps)
        .bind(data)
        .bind(keys)
        .fetch_all(connection)
        .await?;
    Ok(stored.into_iter().map(Uuid::into_bytes).collect())
}
