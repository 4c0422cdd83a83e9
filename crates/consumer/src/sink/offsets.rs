//! The stored offset of a partition: reading it on assignment, making it, moving it where a person's policy says.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::Statements;
use super::classify::{Fault, fault};

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

/// Takes a partition over: records this process as its owner and returns the stored offset, if there is one.
///
/// The update waits for a transaction of the previous owner that is just moving the offset, so that what is read is
/// the last word. If that takes too long the offset is read as it is: the compare-and-set of the first batch decides.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn claim(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    partition: i32,
) -> Result<Option<i64>, sqlx::Error> {
    let claimed = sqlx::query_scalar(AssertSqlSafe(statements.claim.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(partition)
        .bind(&*owner.instance)
        .fetch_optional(&mut *connection)
        .await;
    match claimed {
        Err(error) if fault(&error) == Fault::Transient && error.as_database_error().is_some() => {
            sqlx::query_scalar(AssertSqlSafe(statements.read.clone()))
                .bind(&*owner.group_id)
                .bind(&*owner.topic)
                .bind(partition)
                .fetch_optional(connection)
                .await
        }
        other => other,
    }
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
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(statements.create.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(partition)
        .bind(&*owner.instance)
        .bind(offset)
        .fetch_one(connection)
        .await
}

/// Moves the stored offset from `from` to `to` after a gap; `false` when it was not at `from` any more.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn reset(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    partition: i32,
    from: i64,
    to: i64,
) -> Result<bool, sqlx::Error> {
    let moved: Option<i64> = sqlx::query_scalar(AssertSqlSafe(statements.reset.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(partition)
        .bind(&*owner.instance)
        .bind(from)
        .bind(to)
        .fetch_optional(connection)
        .await?;
    Ok(moved.is_some())
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
) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))")
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(AssertSqlSafe(statements.create_all_once.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(&*owner.instance)
        .bind(ends.iter().map(|(partition, _)| *partition).collect::<Vec<_>>())
        .bind(ends.iter().map(|(_, offset)| *offset).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
