//! Rollups say what the table says. The other tests of this suite compare them too, whenever everything is settled.

use anyhow::Result;
use testbed::{Consumer, process, wait};

use crate::support::{Bed, SOON, event};

#[tokio::test]
async fn a_second_copy_of_everything_changes_no_rollup() -> Result<()> {
    let bed = Bed::start("again", 4).await?;
    let options = bed.options().with("BATCH_MAX_EVENTS", 700).with("ROLLUP_USERS", "enabled");
    let first = Consumer::start("first", &options)?;
    let counts = bed.produce(31, 4, 12_000, None).await?;
    bed.settled(&counts).await.map_err(|error| error.context(first.log()))?;
    bed.users_are_right().await?;
    // Another group reads the same topic into the same table, together with the first one's new events.
    let second = Consumer::start("second", &options.with("KAFKA_GROUP_ID", "another"))?;
    wait::until_true("the second group has read everything", SOON, || async {
        let read =
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets WHERE group_id = 'another'";
        Ok(bed.number(read).await? == i64::try_from(counts.produced())?)
    })
    .await
    .map_err(|error| error.context(second.log()))?;
    bed.rollups_are_right().await?;
    bed.users_are_right().await
}

#[tokio::test]
async fn rows_from_before_are_counted_by_a_rebuild_while_consumers_run() -> Result<()> {
    let bed = Bed::start("rebuilt", 2).await?;
    let without = Consumer::start("without", &bed.options().with("ROLLUPS", "disabled"))?;
    bed.produce(37, 2, 4_000, None).await?;
    bed.until_rows(3_000).await.map_err(|error| error.context(without.log()))?;
    assert_eq!(bed.number("SELECT count(*) FROM event_rollups").await?, 0);
    drop(without);

    // Rollups of the rows to come, and a lie about those of a day that has none.
    let pool = bed.pool().await?;
    sqlx::query("INSERT INTO event_rollups VALUES ('2020-02-02', 'a', 'b', 'c', 'd', 0, 7)")
        .execute(&pool)
        .await?;
    let options = bed.options().with("ROLLUP_USERS", "enabled").with("BATCH_MAX_EVENTS", 200);
    let mut with = Consumer::start("with", &options)?;
    with.ready().await?;
    let more = bed.produce(41, 2, 20_000, None);
    let rebuild = async {
        bed.until_rows(5_000).await?;
        let range = ["rebuild-rollups", "--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z"];
        process::output(options.command(&range)?).await
    };
    tokio::try_join!(more, rebuild)?;
    wait::until_true("every record is read", SOON, || async {
        Ok(bed.number("SELECT sum(next_offset)::bigint FROM pipeline_offsets").await? == 24_000)
    })
    .await
    .map_err(|error| error.context(with.log()))?;
    bed.rollups_are_right().await?;
    bed.users_are_right().await
}

#[tokio::test]
async fn a_malformed_range_is_named() -> Result<()> {
    let bed = Bed::start("ranges", 1).await?;
    let command =
        bed.options().command(&["rebuild-rollups", "--from", "yesterday", "--to", "2100-01-01T00:00:00Z"])?;
    let error = process::output(command).await.expect_err("yesterday is not a time");
    assert!(format!("{error:#}").contains("yesterday"), "{error:#}");
    Ok(())
}

/// The same table name in another schema, and another name, have rollups of their own.
#[tokio::test]
async fn each_events_table_has_its_own_rollups() -> Result<()> {
    let bed = Bed::start("named", 1).await?;
    bed.send(0, &event(1)).await?;
    let _consumer = Consumer::start("one", &bed.options().with("DATABASE_TABLE", "clicks"))?;
    wait::until_true("one event is counted", SOON, || async {
        Ok(bed.number("SELECT coalesce(sum(events), 0)::bigint FROM clicks_rollups_hourly").await? == 1)
    })
    .await
}
