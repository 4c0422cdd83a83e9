//! A table that holds many rows already, with keys as the consumer makes them.

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use futures::future::try_join_all;
use sqlx::{AssertSqlSafe, Executor};

use crate::bed::{self, Bed, Database};

/// Rows of one statement.
const CHUNK: i64 = 500_000;
/// As many sessions as there are cores on a small machine.
const SESSIONS: i64 = 2;

/// Seven types and some services, users as many as the generator has, `data` as long as its events' have, and a key
/// whose first 48 bits are the event's milliseconds and whose rest is random, as in the consumer.
const INSERT: &str = r#"
INSERT INTO events (event_type, user_id, service, "timestamp", data, event_key)
SELECT (ARRAY['profile_viewed', 'user_search', 'user_login', 'profile_updated', 'user_registered', 'user_activated',
              'user_deactivated'])[1 + n % 7],
       md5((n % 10007)::text)::uuid,
       (ARRAY['profile-service', 'web-gateway', 'mobile-gateway', 'auth-service'])[1 + n % 4],
       at,
       jsonb_build_object('request', n, 'profile_id', md5((n % 9973)::text)::uuid, 'source', 'search', 'agent', 'Firefox'),
       (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '8' || substr(md5(n::text), 1, 3) || '8'
        || substr(md5(n::text), 4, 15))::uuid
FROM (SELECT n, $1::timestamptz + n * interval '100 microseconds' AS at
      FROM generate_series($2::bigint, $3::bigint) AS series(n)) AS numbered"#;

/// A database whose table holds `rows` rows, all older than those that come next.
pub(crate) async fn prepare(bed: &mut Bed, rows: u64) -> Result<Database> {
    let database = bed.migrated().await?;
    let mut session = bed::connect(&database.url).await?;
    // Filling first and indexing afterwards takes a fraction of the time and gives the same table.
    let indexes: Vec<(String, String)> = sqlx::query_as(
        "SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = 'events' AND indexname NOT IN \
         (SELECT conname FROM pg_constraint WHERE conrelid = 'events'::regclass) ORDER BY 1",
    )
    .fetch_all(&mut session)
    .await?;
    for (name, _) in &indexes {
        session.execute(AssertSqlSafe(format!("DROP INDEX \"{name}\""))).await?;
    }
    let rows = i64::try_from(rows)?;
    let first = Utc::now() - TimeDelta::days(1) - TimeDelta::microseconds(rows * 100);
    try_join_all((0..SESSIONS).map(|index| fill(&database, first, rows, index))).await?;
    for (_, definition) in indexes {
        session.execute(AssertSqlSafe(definition)).await?;
    }
    // Or autovacuum would do it in the middle of the measurement.
    session.execute("VACUUM (ANALYZE) events").await?;
    Ok(database)
}

/// Inserts every other chunk.
async fn fill(database: &Database, first: DateTime<Utc>, rows: i64, index: i64) -> Result<()> {
    let mut session = bed::connect(&database.url).await?;
    let mut begin = index * CHUNK;
    while begin < rows {
        let end = rows.min(begin + CHUNK) - 1;
        sqlx::query(INSERT).bind(first).bind(begin).bind(end).execute(&mut session).await?;
        begin += SESSIONS * CHUNK;
    }
    Ok(())
}
