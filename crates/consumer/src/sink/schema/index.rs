//! Indexes of the events table, built beside writers.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection};

use super::{BRIEFLY, SchemaError, patiently, step};
use crate::settings::{TableName, quote};
use crate::sink::connection::LIMITS;

/// How often to look whether somebody else has finished building an index.
const POLL: Duration = Duration::from_secs(1);
/// Bytes of a name in PostgreSQL.
const LONGEST: usize = 63;

/// Indexes on exactly that column, without a condition, and whether they are valid; `$3` asks for unique ones, which must
/// be checked at once: a deferred one cannot tell duplicates.
const SINGLE_COLUMN: &str = "SELECT pg_class.oid::bigint, relname::text, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
     JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
     WHERE indrelid = $1::regclass AND (indisunique AND indimmediate OR NOT $3) AND indnkeyatts = 1 AND indpred IS NULL \
     AND indexprs IS NULL AND attname = $2";

/// A single-column index that is wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) table: &'a TableName,
    pub(super) column: &'a str,
    pub(super) unique: bool,
}

impl Wanted<'_> {
    /// What it is called, or with a `number` from 2 on what it is called where that name is taken.
    fn name(self, number: usize) -> String {
        let (table, column) = (self.table.name(), self.column);
        let name =
            if self.unique { format!("{table}_{column}_key") } else { format!("idx_{table}_{column}") };
        let suffix = if number < 2 { String::new() } else { format!("_{number}") };
        let end = name.floor_char_boundary(LONGEST - suffix.len());
        format!("{}{suffix}", &name[..end])
    }

    fn is_name(self, name: &str) -> bool {
        (1..100).any(|number| self.name(number) == name)
    }

    fn create(self, concurrently: &str, name: &str) -> AssertSqlSafe<String> {
        let kind = if self.unique { "UNIQUE INDEX" } else { "INDEX" };
        let (table, column) = (self.table.quoted(), quote(self.column));
        AssertSqlSafe(format!("CREATE {kind} {concurrently} {} ON {table} ({column})", quote(name)))
    }
}

/// Checks that duplicates can be told.
///
/// # Errors
/// The index is missing; with the way out.
pub(super) async fn check_key(connection: &mut PgConnection, table: &TableName) -> Result<(), SchemaError> {
    let quoted = table.quoted();
    let wanted = Wanted { table, column: "event_key", unique: true };
    let found = find(connection, wanted).await;
    let found = found.map_err(step(format!("look up the indexes of {quoted}")))?;
    if found.iter().any(|(.., is_valid)| *is_valid) {
        return Ok(());
    }
    Err(SchemaError::Shape(format!(
        "table {quoted} has no valid unique index on event_key, without which duplicates cannot be told; run \
         `analytics-consumer migrate`, or: CREATE UNIQUE INDEX CONCURRENTLY ON {quoted} (event_key)"
    )))
}

/// Id, name and validity of each.
async fn find(
    connection: &mut PgConnection,
    wanted: Wanted<'_>,
) -> Result<Vec<(i64, String, bool)>, sqlx::Error> {
    sqlx::query_as(SINGLE_COLUMN)
        .bind(wanted.table.quoted())
        .bind(wanted.column)
        .bind(wanted.unique)
        .fetch_all(connection)
        .await
}

/// Makes a single-column index unless a valid one is there under whatever name. A table that was there before may be
/// large and in use, so its writers are not blocked; an index that an interrupted build left invalid is replaced.
pub(super) async fn ensure(connection: &mut PgConnection, wanted: Wanted<'_>) -> Result<(), SchemaError> {
    let (table, column) = (wanted.table, wanted.column);
    ensure_inner(connection, wanted).await.map_err(step(format!("build the index on {column} of {table}")))
}

async fn ensure_inner(connection: &mut PgConnection, wanted: Wanted<'_>) -> Result<(), sqlx::Error> {
    let leftover = loop {
        let found = find(connection, wanted).await?;
        if found.iter().any(|(.., is_valid)| *is_valid) {
            return Ok(());
        }
        let ids: Vec<i64> = found.iter().map(|(id, ..)| *id).collect();
        if !is_being_built(connection, &ids).await? {
            break found.into_iter().map(|(_, name, _)| name).find(|name| wanted.is_name(name));
        }
        tracing::info!(
            table = %wanted.table, column = wanted.column, "Somebody else is building an index; waiting for it"
        );
        tokio::time::sleep(POLL).await;
    };
    let has_rows = AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {})", wanted.table.quoted()));
    let has_rows: bool = sqlx::query_scalar(has_rows).fetch_one(&mut *connection).await?;
    if has_rows {
        build_beside_writers(connection, wanted, leftover).await
    } else {
        patiently(async || build_at_once(connection, wanted).await).await
    }
}

async fn is_being_built(connection: &mut PgConnection, ids: &[i64]) -> Result<bool, sqlx::Error> {
    let question =
        "SELECT EXISTS (SELECT 1 FROM pg_stat_progress_create_index WHERE index_relid::bigint = ANY($1))";
    sqlx::query_scalar(question).bind(ids).fetch_one(connection).await
}

/// For a table without rows: done in a moment, once nobody holds a lock on it.
async fn build_at_once(connection: &mut PgConnection, wanted: Wanted<'_>) -> Result<(), sqlx::Error> {
    let name = free_name(connection, wanted).await?;
    let mut transaction = connection.begin().await?;
    transaction.execute(BRIEFLY).await?;
    transaction.execute(wanted.create("", &name)).await?;
    transaction.commit().await
}

/// Takes as long as the table is large, and waits for every transaction that is older, without standing in anybody's way:
/// the limits of a running consumer are not for it.
async fn build_beside_writers(
    connection: &mut PgConnection,
    wanted: Wanted<'_>,
    leftover: Option<String>,
) -> Result<(), sqlx::Error> {
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    if let Some(name) = leftover {
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", wanted.table.sibling(&name));
        connection.execute(AssertSqlSafe(drop)).await?;
    }
    let name = free_name(connection, wanted).await?;
    tracing::info!(table = %wanted.table, index = name, "Building an index beside the writers of the table");
    connection.execute(wanted.create("CONCURRENTLY", &name)).await?;
    connection.execute(LIMITS).await?;
    Ok(())
}

/// The wanted name, or a substitute where something else has it: that is somebody's own.
async fn free_name(connection: &mut PgConnection, wanted: Wanted<'_>) -> Result<String, sqlx::Error> {
    let names: Vec<String> = (1..100).map(|number| wanted.name(number)).collect();
    let free: Option<String> = sqlx::query_scalar(
        "SELECT name FROM unnest($1::text[]) WITH ORDINALITY AS wanted(name, place) WHERE NOT EXISTS \
         (SELECT 1 FROM pg_class WHERE relname = name AND relnamespace = \
         (SELECT relnamespace FROM pg_class WHERE oid = $2::regclass)) ORDER BY place LIMIT 1",
    )
    .bind(&names)
    .bind(wanted.table.quoted())
    .fetch_optional(connection)
    .await?;
    // Where none is free PostgreSQL says so.
    Ok(free.unwrap_or_else(|| wanted.name(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_index_of_a_name_that_is_given_here_may_be_replaced() {
        let table = TableName::parse("events").expect("a name");
        let wanted = Wanted { table: &table, column: "service", unique: false };
        for (name, is_own) in [
            ("idx_events_service", true),
            ("idx_events_service_2", true),
            ("idx_events_service_ccnew", false),
            ("idx_events_service_2_x", false),
            ("my_idx_events_service", false),
        ] {
            assert_eq!(wanted.is_name(name), is_own, "{name}");
        }
    }

    #[test]
    fn names_are_as_long_as_postgresql_allows_and_still_different() {
        let table = TableName::parse(&"t".repeat(63)).expect("a name");
        let wanted = Wanted { table: &table, column: "event_key", unique: true };
        assert_eq!((wanted.name(1).len(), wanted.name(2).len()), (LONGEST, LONGEST));
        assert!(wanted.name(2).ends_with("t_2"));
    }
}
