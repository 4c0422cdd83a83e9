//! The stored offset of a partition: reading it on assignment, making it, moving it where a person's policy says.

use std::sync::Arc;

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres};

use super::Statements;
use super::classify::{Fault, fault, is_lock_timeout};

/// Whose offsets: the part of the key that is the same for all partitions, and this process's name.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Consumer group.
    pub group_id: Arc<str>,
    /// Topic.
    pub topic: Arc<str>,
    /// This process.
    pub instance: Arc<str>,
}

/// What is stored about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Offset of the next record to store.
    pub next_offset: i64,
    /// Id of the topic that the offset belongs to, where it is known.
    pub topic_id: Option<String>,
}

/// Takes a partition over: records this process as its owner and returns what is stored, if anything is. A row without
/// a topic id gets `topic_id`.
///
/// The update waits for a transaction of the previous owner that is just moving the offset, so that what is read is
/// the last word; a transaction whose client is frozen is ended. If that takes too long the offset is read as it is: the
/// compare-and-set of the first batch decides.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn claim(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    partition: i32,
    topic_id: Option<&str>,
) -> Result<Option<Stored>, sqlx::Error> {
    let mut attempts = 0;
    let stored = loop {
        let claimed = sqlx::query_as(AssertSqlSafe(statements.claim.clone()))
            .bind(&*owner.group_id)
            .bind(&*owner.topic)
            .bind(partition)
            .bind(&*owner.instance)
            .bind(topic_id)
            .fetch_optional(&mut *connection)
            .await;
        attempts += 1;
        match claimed {
            Err(error) if is_lock_timeout(&error) && attempts < CLAIM_ATTEMPTS => {
                end_frozen(connection, statements, owner, &[partition]).await?;
            }
            Err(error) if fault(&error) == Fault::Transient && error.as_database_error().is_some() => {
                break sqlx::query_as(AssertSqlSafe(statements.read.clone()))
                    .bind(&*owner.group_id)
                    .bind(&*owner.topic)
                    .bind(partition)
                    .fetch_optional(connection)
                    .await;
            }
            other => break other,
        }
    };
    Ok(stored?.map(|(next_offset, topic_id)| Stored { next_offset, topic_id }))
}

/// How often a claim waits for whoever holds the row, a second each time (see `connection::claiming`).
const CLAIM_ATTEMPTS: u32 = 3;

/// Ends sessions that hold the stored offsets of these partitions while their client says nothing: a consumer that was
/// frozen in the middle of a transaction. What they have not committed is undone, which is what would become of it anyway.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn end_frozen(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    partitions: &[i32],
) -> Result<(), sqlx::Error> {
    let sessions: Vec<i32> = sqlx::query_scalar(AssertSqlSafe(statements.end_frozen.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(partitions)
        .fetch_all(connection)
        .await?;
    if !sessions.is_empty() {
        tracing::warn!(
            ?partitions,
            ?sessions,
            "Ended database sessions of a consumer that says nothing; they held the stored offset"
        );
    }
    Ok(())
}

/// Makes the partition's row with `offset`, unless one came in between; returns what is stored now.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn create(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    partition: i32,
    offset: i64,
    topic_id: Option<&str>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(statements.create.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(partition)
        .bind(&*owner.instance)
        .bind(offset)
        .bind(topic_id)
        .fetch_one(connection)
        .await
}

/// Moves the stored offset from `from` to `to` after a gap, and to the topic that is there now; `false` when it was not
/// at `from` any more.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn reset(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    partition: i32,
    (from, to): (i64, i64),
    topic_id: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(AssertSqlSafe(statements.reset.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(partition)
        .bind(&*owner.instance)
        .bind(from)
        .bind(to)
        .bind(topic_id)
        .execute(connection)
        .await?;
    Ok(moved.rows_affected() == 1)
}

/// Stores `ends` for all partitions if nothing at all is stored for the group and topic yet; one process does it.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn create_all_once(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    ends: &[(i32, i64)],
    topic_id: Option<&str>,
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    lock(owner).execute(&mut *transaction).await?;
    sqlx::query(AssertSqlSafe(statements.create_all_once.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(&*owner.instance)
        .bind(ends.iter().map(|(partition, _)| *partition).collect::<Vec<_>>())
        .bind(ends.iter().map(|(_, offset)| *offset).collect::<Vec<_>>())
        .bind(topic_id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

fn lock(owner: &Owner) -> Query<'_, Postgres, PgArguments> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))")
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
}
