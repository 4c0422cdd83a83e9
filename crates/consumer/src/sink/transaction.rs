//! One batch, one transaction: offsets by compare-and-set, rows, dead letters.
//!
//! The offsets come first. Their row locks make the next owner's claim wait until this transaction has ended, and a
//! compare-and-set that does not hit ends it before a row is sent. Rows go in by COPY, which is the cheapest way in
//! but fails on a known key; then the transaction is run again with an insert that passes over known keys.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chrono::DateTime;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::classify::{Fault, describe, fault};
use super::offsets::Owner;
use super::{Statements, copy_format};
use crate::batch::{Batch, Progress, Row, headers_to_json};
use crate::letter_topic::{LetterTopic, UndeliveredError};
use crate::rollup;

/// COPY data is sent in pieces of about this many bytes, so that encoding never holds the whole batch twice.
const COPY_CHUNK: usize = 128 * 1024;

/// Rows of one insert. Its columns are held as arrays and once more as the message to the server.
const INSERT_ROWS: usize = 2_500;

/// A batch that could not be written as it is.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stored offsets of these partitions are not where this process left them: somebody else owns them.
    #[error("partitions {0:?} were moved by another consumer")]
    Fenced(Vec<i32>),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The topic of the dead letters.
    #[error(transparent)]
    Undelivered(#[from] UndeliveredError),
}

/// What became of a batch.
#[derive(Debug)]
pub struct Outcome {
    /// Rows that are new in the table, by event type.
    pub stored: BTreeMap<String, u64>,
    /// Rows that were in the table before.
    pub duplicates: u64,
}

/// How rows went in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// By COPY: every row was new.
    Copied,
    /// By insert: known keys were passed over.
    Inserted,
}

/// Writes the batch in one transaction and commits it. Rows that PostgreSQL refuses become dead letters of the same
/// batch. `written` says how to begin, and afterwards how it went.
///
/// Dead letters that go to a topic are there before the transaction commits, those that are known beforehand before it
/// begins: what waits for Kafka should hold no locks in PostgreSQL.
///
/// # Errors
/// [`WriteError::Fenced`] when a partition belongs to somebody else by now, else the surroundings' error; the batch
/// can be tried again.
pub async fn write(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    letters: Option<&LetterTopic>,
    batch: &mut Batch,
    written: &mut Written,
) -> Result<Outcome, WriteError> {
    if let Some(topic) = letters {
        topic.deliver(batch).await?;
    }
    loop {
        let error = match attempt(connection, statements, owner, letters, batch, *written).await {
            Ok(outcome) => return Ok(outcome),
            Err(WriteError::Database(error)) => error,
            Err(other) => return Err(other),
        };
        match (fault(&error), *written) {
            (Fault::Duplicate, Written::Copied) => *written = Written::Inserted,
            // The line is of the rows as they were sent; anything else falls back to the insert, which halves.
            (Fault::Record { line: Some(line) }, Written::Copied)
                if (1..=batch.rows().len()).contains(&line) =>
            {
                batch.refuse_row(line - 1, describe(&error));
            }
            (Fault::Record { .. }, Written::Copied) => *written = Written::Inserted,
            (Fault::Record { .. } | Fault::Duplicate, Written::Inserted) => {
                isolate(connection, statements, batch).await?;
            }
            (Fault::Transient | Fault::Configuration, _) => return Err(error.into()),
        }
    }
}

async fn attempt(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    letters: Option<&LetterTopic>,
    batch: &mut Batch,
    written: Written,
) -> Result<Outcome, WriteError> {
    let mut transaction = connection.begin().await?;
    advance(&mut transaction, statements, owner, batch).await?;
    let stored: Vec<&Row> = if batch.rows().is_empty() {
        Vec::new()
    } else if written == Written::Copied {
        copy(&mut transaction, statements, batch).await?;
        batch.rows().iter().collect()
    } else {
        let keys = insert_all(&mut transaction, statements, batch).await?;
        batch.rows().iter().filter(|row| keys.contains(&row.key)).collect()
    };
    let counts = rollup::count(batch, &stored);
    roll_up(&mut transaction, statements, owner, batch, &stored, &counts).await?;
    let duplicates = (batch.rows().len() - stored.len()) as u64;
    match (&statements.insert_dead_letters, letters) {
        (_, Some(topic)) => topic.deliver(batch).await?,
        (Some(insert), None) if !batch.dead_letters().is_empty() => {
            insert_dead_letters(&mut transaction, insert, owner, batch).await?;
        }
        _ => {}
    }
    transaction.commit().await?;
    Ok(Outcome { stored: rollup::by_event_type(&counts), duplicates })
}

async fn advance(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    batch: &Batch,
) -> Result<(), WriteError> {
    let column = |value: fn(&Progress) -> i64| batch.progress().iter().map(value).collect::<Vec<i64>>();
    let partitions: Vec<i32> = batch.progress().iter().map(|progress| progress.partition).collect();
    let moved: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(statements.advance.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(&*owner.instance)
        .bind(&partitions)
        .bind(column(|progress| progress.from))
        .bind(column(|progress| progress.to))
        .bind(column(|progress| progress.log_end))
        .fetch_all(connection)
        .await?;
    let moved: HashSet<i32> = moved.into_iter().collect();
    let fenced: Vec<i32> = partitions.into_iter().filter(|partition| !moved.contains(partition)).collect();
    if fenced.is_empty() { Ok(()) } else { Err(WriteError::Fenced(fenced)) }
}

/// Adds what was stored to the rollups, under the lock of the lowest partition that this transaction has moved.
async fn roll_up(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    batch: &Batch,
    stored: &[&Row],
    counts: &[rollup::Count],
) -> Result<(), sqlx::Error> {
    let guard = batch.progress().iter().map(|progress| progress.partition).min();
    let (Some(rollups), Some(guard), false) = (&statements.rollups, guard, stored.is_empty()) else {
        return Ok(());
    };
    rollups.add(&mut *connection, owner, guard, counts).await?;
    if rollups.has_users() {
        rollups.add_users(connection, owner, guard, &rollup::user_hours(stored)).await?;
    }
    Ok(())
}

async fn copy(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    let mut copy = connection.copy_in_raw(&statements.copy).await?;
    let mut buffer = Vec::with_capacity(COPY_CHUNK + 4096);
    copy_format::header(&mut buffer);
    for row in batch.rows() {
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

/// Inserts all rows that are not there yet, a piece after the other, and returns their keys.
async fn insert_all(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
) -> Result<HashSet<[u8; 16]>, sqlx::Error> {
    let mut keys = HashSet::new();
    for start in (0..batch.rows().len()).step_by(INSERT_ROWS) {
        let end = batch.rows().len().min(start + INSERT_ROWS);
        keys.extend(insert(connection, statements, batch, start..end).await?);
    }
    Ok(keys)
}

/// Inserts rows that are not there yet and returns their keys.
async fn insert(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
    range: std::ops::Range<usize>,
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

/// Finds the rows that PostgreSQL refuses, by halving, in a transaction that is rolled back; turns each into a dead
/// letter. The number of statements grows with the logarithm of the batch for each bad row.
async fn isolate(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &mut Batch,
) -> Result<(), sqlx::Error> {
    let mut refused: Vec<(usize, String)> = Vec::new();
    let all = 0..batch.rows().len();
    let mut ranges = vec![all];
    while let Some(range) = ranges.pop() {
        let mut transaction = connection.begin().await?;
        let result = insert(&mut transaction, statements, batch, range.clone()).await;
        transaction.rollback().await?;
        let Err(error) = result else { continue };
        if !matches!(fault(&error), Fault::Record { .. } | Fault::Duplicate) {
            return Err(error);
        }
        if range.len() == 1 {
            refused.push((range.start, describe(&error)));
        } else {
            let middle = range.start + range.len() / 2;
            ranges.push(range.start..middle);
            ranges.push(middle..range.end);
        }
    }
    refused.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
    for (index, detail) in refused {
        batch.refuse_row(index, detail);
    }
    Ok(())
}

async fn insert_dead_letters(
    connection: &mut PgConnection,
    insert: &Arc<str>,
    owner: &Owner,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    let letters = batch.dead_letters();
    sqlx::query(AssertSqlSafe(Arc::clone(insert)))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(letters.iter().map(|letter| letter.partition).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.offset).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>())
        // A detail may quote the record, and the record may hold what PostgreSQL's text cannot.
        .bind(letters.iter().map(|letter| letter.detail.replace('\0', "\u{FFFD}")).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.key.as_deref()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.payload.as_deref()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| headers_to_json(&letter.headers)).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.timestamp_millis).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
