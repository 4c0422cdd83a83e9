//! Exactly once, when nothing goes wrong and in daily life.

use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use testbed::{Consumer, wait};

use crate::support::{Bed, SOON, event, until_logged};

#[tokio::test]
async fn every_event_is_stored_once_and_every_malformed_record_is_a_dead_letter() -> Result<()> {
    let bed = Bed::start("daily", 8).await?;
    let counts = bed.produce(7, 8, 20_000, None).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.settled(&counts).await?;

    assert_eq!(
        consumer.get("/health").await?,
        (200, r#"{"status":"healthy","service":"analytics-service"}"#.to_owned())
    );
    assert_eq!(consumer.get("/livez").await?.0, 200);
    let stored = consumer.metric("events_stored_total").await?;
    assert!((stored - counts.distinct as f64).abs() < 0.5, "{stored}");
    let duplicates = consumer.metric("events_duplicate_total").await?;
    assert!((duplicates - counts.duplicates as f64).abs() < 0.5, "{duplicates}");
    let letters = consumer.metric("dead_letters_total").await?;
    assert!((letters - counts.malformed_total() as f64).abs() < 0.5, "{letters}");

    let group = format!("{}-group", bed.topic);
    wait::until_true("Kafka knows the offsets", SOON, || async {
        Ok(bed.kafka.lag(&group, &bed.topic).await? == 0)
    })
    .await?;
    wait::until_true("the lag metric follows", SOON, || async {
        Ok(consumer.metric("kafka_consumer_lag").await? < 0.5)
    })
    .await?;

    consumer.signal(Signal::TERM);
    assert!(consumer.ended(Duration::from_secs(15)).await?.success(), "{}", consumer.log());
    Ok(())
}

#[tokio::test]
async fn dead_letters_keep_the_record_as_it_was_with_its_reason() -> Result<()> {
    let bed = Bed::start("letters", 1).await?;
    let refused = br#"{"event_type":"a","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"s","timestamp":"2024-11-09T10:30:00Z","data":{"n":99999e131070}}"#;
    for payload in [&b"not json"[..], &event(1), refused, &event(2)] {
        bed.send(0, payload).await?;
    }
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.until_rows(2).await?;
    let pool = bed.pool().await?;
    let letters: Vec<(i64, String, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT \"offset\", reason, payload, key FROM dead_letters ORDER BY \"offset\"")
            .fetch_all(&pool)
            .await?;
    let expected = [
        (0, "invalid_json".to_owned(), b"not json".to_vec(), b"k".to_vec()),
        (2, "refused_by_database".to_owned(), refused.to_vec(), b"k".to_vec()),
    ];
    assert_eq!(letters, expected);
    Ok(())
}

#[tokio::test]
async fn two_consumers_share_the_partitions_and_a_clean_stop_hands_them_over() -> Result<()> {
    let bed = Bed::start("shared", 4).await?;
    let (mut first, mut second) = (bed.consumer("first")?, bed.consumer("second")?);
    first.ready().await?;
    second.ready().await?;
    for consumer in [&first, &second] {
        wait::until_true("two partitions each", SOON, || async {
            Ok((consumer.metric("partitions_assigned").await? - 2.0).abs() < 0.5)
        })
        .await?;
    }
    let counts = bed.produce(9, 4, 8_000, None).await?;
    bed.settled(&counts).await?;
    first.signal(Signal::TERM);
    assert!(first.ended(Duration::from_secs(15)).await?.success(), "{}", first.log());
    wait::until_true("all partitions", Duration::from_secs(30), || async {
        Ok((second.metric("partitions_assigned").await? - 4.0).abs() < 0.5)
    })
    .await
}

#[tokio::test]
async fn deduplication_follows_the_mode() -> Result<()> {
    let bed = Bed::start("modes", 1).await?;
    let named = |id: u64, n: u64| {
        String::from_utf8(event(n)).map(|text| text.replacen('{', &format!("{{\"event_id\":\"{id}\","), 1))
    };
    for (id, n) in [(1, 1), (1, 2), (2, 1), (2, 1)] {
        bed.send(0, named(id, n)?.as_bytes()).await?;
    }
    for (mode, name, rows) in
        [("none", "", 4), ("content", "", 3), ("field", "event_id", 2), ("header", "absent", 3)]
    {
        let options = bed
            .options()
            .with("DEDUPLICATION_MODE", mode)
            .with("DEDUPLICATION_NAME", name)
            .with("KAFKA_GROUP_ID", format!("group-{mode}"))
            .with("DATABASE_TABLE", format!("by_mode.{mode}"));
        let pool = bed.pool().await?;
        sqlx::query("CREATE SCHEMA IF NOT EXISTS by_mode").execute(&pool).await?;
        let consumer = Consumer::start(mode, &options)?;
        wait::until_true("all four records", SOON, || async {
            let read: i64 = sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::bigint FROM by_mode.pipeline_offsets WHERE group_id = $1")
                .bind(format!("group-{mode}"))
                .fetch_one(&pool)
                .await?;
            Ok(read == 4)
        })
        .await
        .map_err(|error| error.context(consumer.log()))?;
        let stored: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM by_mode.\"{mode}\"")))
                .fetch_one(&pool)
                .await?;
        assert_eq!(stored, rows, "{mode}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_of_the_older_service_is_taken_over_with_its_rows() -> Result<()> {
    let bed = Bed::start("older", 1).await?;
    let pool = bed.pool().await?;
    sqlx::raw_sql(
        "CREATE TABLE events (id serial PRIMARY KEY, event_type varchar(100) NOT NULL, user_id uuid NOT NULL, service varchar(100) NOT NULL, \
         timestamp timestamptz NOT NULL, data jsonb NOT NULL, created_at timestamptz DEFAULT now()); \
         CREATE INDEX idx_events_user_id ON events(user_id); \
         INSERT INTO events (event_type, user_id, service, timestamp, data) SELECT 'user_login', gen_random_uuid(), 'old', now(), '{}' FROM generate_series(1, 100)",
    )
    .execute(&pool)
    .await?;
    bed.send(0, &event(1)).await?;
    bed.send(0, &event(1)).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.until_rows(101).await?;
    until_logged(&consumer, "Applied a schema migration").await?;
    // Ids of four bytes go on, and it is said what to do before they run out.
    until_logged(&consumer, "ALTER TABLE \"events\" ALTER COLUMN id TYPE bigint").await?;
    let twin: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'events' AND indexdef LIKE '%(user_id)'",
    )
    .fetch_one(&pool)
    .await?;
    assert_eq!(twin, 1, "an index that is there already is not made twice");
    Ok(())
}

/// Ends of a stop of database sessions, however the test ends.
struct Hanging(Vec<Pid>);

impl Drop for Hanging {
    fn drop(&mut self) {
        for session in &self.0 {
            let _ = kill_process(*session, Signal::CONT);
        }
    }
}

/// A server that keeps its connections and says nothing (a frozen machine, packets that vanish): the idle writers notice,
/// and go on over other connections.
#[tokio::test]
async fn a_database_session_that_hangs_is_given_up_and_events_are_stored_over_another() -> Result<()> {
    let bed = Bed::start("hanging", 2).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    for partition in 0..2 {
        bed.send(partition, &event(partition.unsigned_abs().into())).await?;
    }
    bed.until_rows(2).await.map_err(|error| error.context(consumer.log()))?;
    let sessions: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'analytics-consumer%' AND state = 'idle'",
    )
    .fetch_all(&bed.pool().await?)
    .await?;
    assert!(!sessions.is_empty());
    let hanging = Hanging(sessions.into_iter().filter_map(Pid::from_raw).collect());
    for session in &hanging.0 {
        kill_process(*session, Signal::STOP)?;
    }
    // Each has been asked something by now, 5 s after its last transaction.
    wait::until_true("it says what is wrong", SOON, || async {
        let (status, reason) = consumer.get("/readyz").await?;
        anyhow::ensure!(status == 503 && reason.contains("no answer within 10 s"), "{status} {reason}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))?;
    for partition in 0..2 {
        bed.send(partition, &event(10 + u64::from(partition.unsigned_abs()))).await?;
    }
    bed.until_rows(4).await.map_err(|error| error.context(consumer.log()))?;
    consumer.ready().await
}
