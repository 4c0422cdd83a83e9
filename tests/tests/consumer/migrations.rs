//! Taking over a table that is in use: nobody who uses it may notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, PgPool};
use testbed::process;

use crate::support::Bed;

/// The table of the older service, with rows, and an index of somebody's own under a name that is wanted here.
const OLDER: &str = "CREATE TABLE events (id serial PRIMARY KEY, event_type varchar(100) NOT NULL, user_id uuid NOT NULL, \
     service varchar(100) NOT NULL, timestamp timestamptz NOT NULL, data jsonb NOT NULL, created_at timestamptz DEFAULT now()); \
     CREATE INDEX idx_events_service ON events (service, timestamp); \
     INSERT INTO events (event_type, user_id, service, timestamp, data) SELECT 'user_login', gen_random_uuid(), 'old', now(), '{}' \
     FROM generate_series(1, 1000)";

/// Writes to the table until told to stop; returns the longest time that one row took.
async fn write(pool: PgPool, stop: &AtomicBool) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        sqlx::query("INSERT INTO events (event_type, user_id, service, timestamp, data) VALUES ('a', gen_random_uuid(), 'live', now(), '{}')")
            .execute(&pool)
            .await?;
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(longest)
}

/// Holds a transaction open that sees what `statement` saw.
async fn hold(pool: &PgPool, statement: &'static str, time: Duration) -> Result<()> {
    let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    sqlx::query(statement).execute(&mut *transaction).await?;
    tokio::time::sleep(time).await;
    Ok(transaction.commit().await?)
}

#[tokio::test]
async fn a_table_in_use_is_taken_over_beside_its_writers_and_a_long_transaction() -> Result<()> {
    let bed = Bed::start("adopted", 1).await?;
    let pool = bed.pool().await?;
    sqlx::raw_sql(AssertSqlSafe(OLDER.to_owned())).execute(&pool).await?;
    let stop = AtomicBool::new(false);
    let migrating = async {
        // Both transactions are open before the migration begins.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let migrated = process::output(bed.options().command(&["migrate"])?).await;
        stop.store(true, Ordering::Relaxed);
        migrated
    };
    // One holds the table for a while, the other only an old view of it, which a build beside writers waits for.
    let (longest, log, ..) = tokio::try_join!(
        write(pool.clone(), &stop),
        migrating,
        hold(&pool, "SELECT count(*) FROM events", Duration::from_secs(4)),
        hold(&pool, "SELECT 1", Duration::from_secs(9)),
    )?;
    println!("the longest write took {longest:?}; {log}");
    ensure!(longest < Duration::from_secs(3), "a writer waited for {longest:?}");

    let own = "SELECT count(*) FROM pg_indexes WHERE indexname = 'idx_events_service' AND indexdef LIKE '%(service, %'";
    assert_eq!(bed.number(own).await?, 1, "somebody's own index was dropped");
    let made =
        "SELECT count(*) FROM pg_index WHERE indrelid = 'events'::regclass AND indisvalid AND indnatts = 1";
    assert_eq!(bed.number(made).await?, 6, "the primary key and five indexes");
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
    assert_eq!(bed.number(invalid).await?, 0);
    Ok(())
}

/// What an interrupted build left behind is replaced.
#[tokio::test]
async fn an_index_that_an_interrupted_build_left_is_made_anew() -> Result<()> {
    let bed = Bed::start("leftover", 1).await?;
    let pool = bed.pool().await?;
    sqlx::raw_sql(AssertSqlSafe(OLDER.to_owned())).execute(&pool).await?;
    let leave = "CREATE INDEX idx_events_user_id ON events (user_id); \
                 UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_events_user_id'::regclass";
    sqlx::raw_sql(leave).execute(&pool).await?;
    process::output(bed.options().command(&["migrate"])?).await?;
    let made = "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid \
                WHERE indrelid = 'events'::regclass AND relname LIKE 'idx_events_user_id%' AND indisvalid";
    assert_eq!(bed.number(made).await?, 1);
    assert_eq!(bed.number("SELECT count(*) FROM pg_index WHERE NOT indisvalid").await?, 0);
    Ok(())
}
