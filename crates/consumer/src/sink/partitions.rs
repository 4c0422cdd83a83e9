//! Partitions of the events table in PostgreSQL: finding, making and dropping them, while consumers write.
//!
//! No event waits for its partition: what has none goes into the default partition, and moves when its own is made. Locks
//! are waited for briefly and asked for again later, since whoever waits for a table's lock stands in everybody's way.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, Transaction};

use super::classify::describe;
use super::schema::{SchemaError, step};
use crate::partitioning::{Partition, Policy, Range, key_at, parse_bounds};
use crate::settings::{self, TableName, quote};

/// Rows of the default partition that are deleted at once.
const SLICE: i64 = 10_000;
/// Ranges with rows in the default partition that are looked for at once.
const FOUND: i64 = 50;

/// The partitions that are there, the default one included.
///
/// # Errors
/// Whatever PostgreSQL says.
pub async fn list(connection: &mut PgConnection, table: &TableName) -> Result<Vec<Partition>, sqlx::Error> {
    let found: Vec<(String, String)> = sqlx::query_as(
        "SELECT relname::text, pg_get_expr(relpartbound, pg_class.oid) FROM pg_inherits \
         JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = $1::regclass",
    )
    .bind(table.quoted())
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().map(|(name, bounds)| Partition { name, range: parse_bounds(&bounds) }).collect())
}

/// Makes the partitions of the present and of those `times` (milliseconds since 1970) that deserve one; gives back all
/// that are there then.
///
/// # Errors
/// Whatever PostgreSQL says; partitions made before stay.
pub async fn provide(
    connection: &mut PgConnection,
    table: &TableName,
    policy: &Policy,
    now: DateTime<Utc>,
    times: &[u64],
) -> Result<Vec<Partition>, sqlx::Error> {
    let there = list(connection, table).await?;
    for range in policy.missing(now, times.iter().copied(), &there) {
        let name = format!("{}_{}", table.name(), policy.interval.suffix(range));
        make(connection, table, &name, range).await?;
    }
    list(connection, table).await
}

/// Makes one partition. Rows of its range that are in the default partition move into it, in the same transaction:
/// nobody sees them missing or twice, and none stands in the way.
async fn make(
    connection: &mut PgConnection,
    table: &TableName,
    name: &str,
    range: Range,
) -> Result<(), sqlx::Error> {
    let mut transaction = begin(connection, table).await?;
    let there = list(&mut transaction, table).await?;
    let overlaps = |partition: &Partition| {
        partition.range.is_some_and(|other| other.begin < range.end && range.begin < other.end)
    };
    if there.iter().any(overlaps) {
        return transaction.commit().await;
    }
    let (parent, partition, (begin, end)) =
        (table.quoted(), table.sibling(name), (key_at(range.begin), key_at(range.end)));
    let mut statements = vec![format!(
        "CREATE TABLE {partition} (LIKE {parent} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)"
    )];
    if let Some(default) = there.iter().find(|partition| partition.range.is_none()) {
        let default = table.sibling(&default.name);
        statements.push(format!("LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE"));
        statements.push(format!(
            "WITH moved AS (DELETE FROM {default} WHERE event_key >= '{begin}' AND event_key < '{end}' RETURNING *) \
             INSERT INTO {partition} SELECT * FROM moved"
        ));
    }
    // Attaching, unlike making a partition in place, leaves writers of other partitions alone.
    statements.push(format!(
        "ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES FROM ('{begin}') TO ('{end}')"
    ));
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    tracing::info!(table = %table, partition = name, "Made a partition");
    Ok(())
}

/// A transaction that waits a second for a lock, and for whoever else changes partitions of this table.
async fn begin<'c>(
    connection: &'c mut PgConnection,
    table: &TableName,
) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SET LOCAL lock_timeout = '1s'").execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('partitions of ' || $1, 0))")
        .bind(table.quoted())
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// Brings the partitions to where the policy wants them: makes those of the present, those ahead of need and those of
/// rows that are in the default partition, then drops what is over.
///
/// # Errors
/// Whatever PostgreSQL says about the partitions of the present; what else fails is told in the log and tried again.
pub async fn maintain(
    connection: &mut PgConnection,
    table: &TableName,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let there = provide(connection, table, policy, now, &[]).await?;
    if let Err(error) = retire(connection, table, policy, now, &there).await {
        tracing::warn!(table = %table, error = describe(&error), "Old events could not be dropped; trying again later");
    }
    let stray = strays(connection, table, policy, &there).await?;
    if !stray.is_empty()
        && let Err(error) = provide(connection, table, policy, now, &stray).await
    {
        tracing::warn!(table = %table, error = describe(&error), "Events stay in the default partition; trying again later");
    }
    Ok(())
}

/// Moments of which the default partition holds rows, one for each interval.
async fn strays(
    connection: &mut PgConnection,
    table: &TableName,
    policy: &Policy,
    there: &[Partition],
) -> Result<Vec<u64>, sqlx::Error> {
    let Some(default) = there.iter().find(|partition| partition.range.is_none()) else {
        return Ok(Vec::new());
    };
    let query = format!(
        "SELECT DISTINCT (extract(epoch FROM greatest(date_trunc('{}', \"timestamp\", 'UTC'), 'epoch'::timestamptz)) * 1000)::bigint \
         FROM {} WHERE \"timestamp\" < now() LIMIT {FOUND}",
        policy.interval.unit(),
        table.sibling(&default.name)
    );
    let times: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(connection).await?;
    Ok(times.into_iter().filter_map(|time| u64::try_from(time).ok()).collect())
}

/// Drops partitions that are over, and deletes rows of the default partition that are.
async fn retire(
    connection: &mut PgConnection,
    table: &TableName,
    policy: &Policy,
    now: DateTime<Utc>,
    there: &[Partition],
) -> Result<(), sqlx::Error> {
    for name in policy.expired(now, there) {
        let mut transaction = begin(connection, table).await?;
        // Another consumer may have been quicker.
        let drop = format!("DROP TABLE IF EXISTS {}", table.sibling(name));
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut *transaction).await?;
        transaction.commit().await?;
        tracing::info!(table = %table, partition = name, "Dropped a partition: all its events are over");
    }
    let (Some(kept), Some(default)) =
        (policy.keeps_from(now), there.iter().find(|partition| partition.range.is_none()))
    else {
        return Ok(());
    };
    let default = table.sibling(&default.name);
    let delete = format!(
        "DELETE FROM {default} WHERE event_key IN (SELECT event_key FROM {default} WHERE event_key < $1 LIMIT {SLICE})"
    );
    loop {
        let deleted =
            sqlx::query(AssertSqlSafe(delete.clone())).bind(key_at(kept)).execute(&mut *connection).await?;
        if deleted.rows_affected() < SLICE.cast_unsigned() {
            return Ok(());
        }
    }
}

/// A table that is to be partitioned must have been made so: PostgreSQL cannot partition one that is there.
///
/// # Errors
/// What stands in the way, with the way out.
pub(super) async fn check(
    connection: &mut PgConnection,
    settings: &settings::Database,
) -> Result<(), SchemaError> {
    if settings.partitioning.is_none() {
        return Ok(());
    }
    let table = &settings.table;
    let key: Option<String> = sqlx::query_scalar("SELECT pg_get_partkeydef(to_regclass($1))")
        .bind(table.quoted())
        .fetch_one(connection)
        .await
        .map_err(step(format!("look up the partitioning of {table}")))?;
    match key.as_deref() {
        Some("RANGE (event_key)") => Ok(()),
        Some(other) => Err(SchemaError::Shape(format!(
            "table {table} is partitioned by {other}, needed is RANGE (event_key); leave DATABASE_PARTITIONING (sink.partitioning) \
             unset to go on with partitions of your own, or name another table"
        ))),
        None => Err(SchemaError::Shape(switch_over(table))),
    }
}

/// How a person makes a partitioned table out of a plain one.
fn switch_over(table: &TableName) -> String {
    let (new, name) = (table.quoted(), format!("{}_plain", table.name()));
    let (old, renamed) = (table.sibling(&name), quote(&name));
    format!(
        "table {table} is one plain table, and PostgreSQL cannot partition it in place; leave DATABASE_PARTITIONING (sink.partitioning) \
         unset, or stop the consumers (spec.suspend: true) and run: ALTER TABLE {new} RENAME TO {renamed}; then \
         `analytics-consumer migrate` with the same settings (the operator does that by itself within five minutes); then: \
         INSERT INTO {new} (id, event_type, user_id, service, \"timestamp\", data, created_at, event_key) \
         SELECT id, event_type, user_id, service, \"timestamp\", data, created_at, coalesce(event_key, \
         (lpad(to_hex(greatest(0, extract(epoch FROM \"timestamp\") * 1000)::bigint), 12, '0') || '8' || substr(md5(id::text), 1, 3) \
         || '8' || substr(md5(id::text), 4, 15))::uuid) FROM {old} ON CONFLICT (event_key) DO NOTHING; \
         SELECT setval(pg_get_serial_sequence('{new}', 'id'), (SELECT max(id) FROM {new})); DROP TABLE {old};"
    )
}
