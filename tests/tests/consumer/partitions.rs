//! The events table in partitions by the time of the event.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Days, Utc};
use sqlx::AssertSqlSafe;
use testbed::{Consumer, ConsumerOptions, process, wait};

use crate::support::{Bed, SOON, event, together};

/// An event with a number and a time of its own.
fn event_at(number: u64, time: DateTime<Utc>) -> Result<Vec<u8>> {
    let text = String::from_utf8(event(number))?;
    Ok(text.replace("2024-11-09T10:30:00Z", &time.format("%Y-%m-%dT%H:%M:%SZ").to_string()).into_bytes())
}

/// So many days from now, at noon.
fn day(from_now: i64) -> Result<DateTime<Utc>> {
    let today = Utc::now().date_naive();
    let days = Days::new(from_now.unsigned_abs());
    let day = if from_now < 0 { today.checked_sub_days(days) } else { today.checked_add_days(days) };
    Ok(day.and_then(|day| day.and_hms_opt(12, 0, 0)).context("no such day")?.and_utc())
}

fn daily(bed: &Bed) -> ConsumerOptions {
    bed.options().with("DATABASE_PARTITIONING", "day")
}

/// Where the event with this number lies: the name of its partition.
async fn place(bed: &Bed, number: i64) -> Result<String> {
    let pool = bed.pool().await?;
    let place =
        sqlx::query_scalar("SELECT tableoid::regclass::text FROM events WHERE (data->>'n')::bigint = $1")
            .bind(number)
            .fetch_one(&pool)
            .await;
    pool.close().await;
    Ok(place?)
}

async fn until_read(bed: &Bed, consumer: &Consumer, records: i64) -> Result<()> {
    wait::until_true("the offsets move", SOON, || async {
        let done = bed
            .number("SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets WHERE group_id <> 'another'")
            .await?;
        ensure!(done == records, "{done} of {records} records");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))
}

#[tokio::test]
async fn late_and_future_events_have_a_place_and_are_told_from_their_duplicates() -> Result<()> {
    let bed = Bed::start("timely", 1).await?;
    let days = [0, -1, -400, 2, 400];
    for _ in 0..2 {
        for (number, from_now) in (0..).zip(days) {
            bed.send(0, &event_at(number, day(from_now)?)?).await?;
        }
    }
    let mut first = Consumer::start("first", &daily(&bed))?;
    until_read(&bed, &first, 10).await?;
    assert_eq!(bed.rows().await?, 5);
    for (number, from_now) in (0..).zip(days) {
        let expected = match from_now {
            400 => "events_default".to_owned(),
            _ => format!("events_p{}", day(from_now)?.format("%Y%m%d")),
        };
        assert_eq!(place(&bed, number).await?, expected);
    }
    bed.rollups_are_right().await?;

    // Without deduplication keys begin with the time as well.
    let options = daily(&bed)
        .with("DEDUPLICATION_MODE", "none")
        .with("DATABASE_TABLE", "everything")
        .with("KAFKA_GROUP_ID", "another");
    let all = Consumer::start("all", &options)?;
    wait::until_true("every record is stored", SOON, || async {
        Ok(bed.number("SELECT count(*) FROM everything").await? == 10)
    })
    .await
    .map_err(|error| error.context(all.log()))?;

    // The far future comes near: its partition is made although the default one holds a row of it.
    first.kill();
    let future = day(20)?;
    let second = Consumer::start("second", &daily(&bed))?;
    bed.send(0, &event_at(7, future)?).await?;
    until_read(&bed, &second, 11).await?;
    assert_eq!(place(&bed, 7).await?, "events_default");
    drop(second);
    let third = Consumer::start("third", &daily(&bed).with("DATABASE_PARTITIONS_AHEAD", 30))?;
    let expected = format!("events_p{}", future.format("%Y%m%d"));
    wait::until_true("the event has moved", SOON, || async { Ok(place(&bed, 7).await? == expected) }).await?;
    bed.send(0, &event_at(7, future)?).await?;
    until_read(&bed, &third, 12).await?;
    assert_eq!(bed.rows().await?, 6, "a duplicate of an event that has moved");
    Ok(())
}

#[tokio::test]
async fn what_is_over_is_dropped_and_nothing_else() -> Result<()> {
    let bed = Bed::start("fleeting", 1).await?;
    for (number, from_now) in (0..).zip([0, -3, -10, -11]) {
        bed.send(0, &event_at(number, day(from_now)?)?).await?;
    }
    let mut keeping = Consumer::start("keeping", &daily(&bed))?;
    until_read(&bed, &keeping, 4).await?;
    assert_eq!(bed.rows().await?, 4);
    keeping.kill();

    // Partitions of the days that are over go, and an event of such a day that comes late.
    bed.send(0, &event_at(4, day(-12)?)?).await?;
    let mut dropping = Consumer::start("dropping", &daily(&bed).with("DATABASE_RETAIN_DAYS", 5))?;
    until_read(&bed, &dropping, 5).await?;
    dropping.kill();
    let dropping = Consumer::start("dropping", &daily(&bed).with("DATABASE_RETAIN_DAYS", 5))?;
    wait::until_true("old events are gone", SOON, || async { Ok(bed.rows().await? == 2) })
        .await
        .map_err(|error| error.context(dropping.log()))?;
    for (number, from_now) in [(0, 0), (1, -3)] {
        assert_eq!(place(&bed, number).await?, format!("events_p{}", day(from_now)?.format("%Y%m%d")));
    }
    let old = format!("events_p{}", day(-10)?.format("%Y%m%d"));
    let left: Option<String> =
        sqlx::query_scalar("SELECT to_regclass($1)::text").bind(old).fetch_one(&bed.pool().await?).await?;
    assert_eq!(left, None);
    Ok(())
}

#[tokio::test]
async fn consumers_that_make_partitions_at_once_store_each_event_once() -> Result<()> {
    let bed = Bed::start("crowds", 8).await?;
    let options = bed.options().with("DATABASE_PARTITIONING", "month").with("BATCH_MAX_EVENTS", 400);
    let mut doomed = Consumer::start("doomed", &options)?;
    let heir = Consumer::start("heir", &options)?;
    let counts = bed.produce(89, 8, 20_000, None).await?;
    bed.until_rows(i64::try_from(counts.distinct / 5)?).await.map_err(|error| error.context(heir.log()))?;
    doomed.kill();
    let counts = together(counts, &bed.produce(97, 8, 5_000, None).await?);
    bed.settled(&counts).await.map_err(|error| error.context(heir.log()))
}

#[tokio::test]
async fn a_plain_table_stays_as_it_is_and_the_refusal_says_how_to_replace_it() -> Result<()> {
    let bed = Bed::start("replaced", 1).await?;
    let mut plain = bed.consumer("plain")?;
    for number in 0..3 {
        bed.send(0, &event(number)).await?;
    }
    bed.until_rows(3).await.map_err(|error| error.context(plain.log()))?;
    plain.kill();
    let pool = bed.pool().await?;
    // A row from before there were keys.
    sqlx::query("UPDATE events SET event_key = NULL WHERE (data->>'n')::bigint = 2").execute(&pool).await?;

    let options = bed.options().with("DATABASE_PARTITIONING", "month");
    let refused = process::output(options.command(&["migrate"])?).await.map_err(|error| format!("{error:#}"));
    let refusal = refused.err().context("a plain table was taken for a partitioned one")?;
    let (_, steps) = refusal.split_once("and run: ").with_context(|| refusal.clone())?;
    let (rename, steps) = steps.split_once("; then ").with_context(|| refusal.clone())?;
    let (_, copy) = steps.split_once("; then: ").with_context(|| refusal.clone())?;
    let copy = copy.lines().next().unwrap_or_default();

    sqlx::raw_sql(AssertSqlSafe(rename.to_owned())).execute(&pool).await?;
    process::output(options.command(&["migrate"])?).await?;
    sqlx::raw_sql(AssertSqlSafe(copy.to_owned())).execute(&pool).await.with_context(|| copy.to_owned())?;
    assert_eq!(bed.rows().await?, 3);

    // What was copied is known; new events have ids behind the old ones.
    bed.send(0, &event(0)).await?;
    bed.send(0, &event(3)).await?;
    let partitioned = Consumer::start("partitioned", &options)?;
    until_read(&bed, &partitioned, 5).await?;
    assert_eq!(bed.rows().await?, 4);
    assert_eq!(bed.number("SELECT count(DISTINCT id) FROM events").await?, 4);
    wait::until_true("the copied events have moved to their month", SOON, || async {
        Ok(place(&bed, 2).await? == "events_p202411")
    })
    .await
}
