//! Exactly once while things break.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use testbed::wait;

use crate::support::{Bed, SOON, event, together};

/// Consumers killed in the middle, twice, and the database restarted in the middle: nothing lost, nothing twice.
#[tokio::test]
async fn killed_consumers_and_a_restarted_database_lose_and_repeat_nothing() -> Result<()> {
    let mut bed = Bed::start("kills", 8).await?;
    let counts = bed.produce(11, 8, 60_000, None).await?;
    // Small batches, so that there are many moments to die in.
    let options = bed.options().with("BATCH_MAX_EVENTS", 500);
    let start = |name: &str| testbed::Consumer::start(name, &options);
    let distinct = i64::try_from(counts.distinct)?;

    let mut first = start("first")?;
    bed.until_rows(distinct / 10).await?;
    first.kill();
    let mut second = start("second")?;
    bed.until_rows(distinct / 4).await?;
    second.kill();
    let third = start("third")?;
    bed.until_rows(distinct / 2).await?;
    bed.postgres.restart().await?;
    bed.settled(&counts).await.map_err(|error| error.context(third.log()))
}

/// A consumer that is stopped for longer than its session (a frozen node) comes back as a zombie that still believes
/// to own its partitions. What it holds must not be written.
#[tokio::test]
async fn a_zombie_cannot_write() -> Result<()> {
    let bed = Bed::start("zombies", 2).await?;
    let options = bed.options().with("BATCH_MAX_EVENTS", 200);
    let mut zombie = testbed::Consumer::start("zombie", &options)?;
    zombie.ready().await?;
    let counts = bed.produce(13, 2, 40_000, None).await?;
    bed.until_rows(2_000).await?;
    zombie.signal(Signal::STOP);
    let mut heir = testbed::Consumer::start("heir", &options)?;
    heir.ready().await?;
    let frozen = bed.rows().await?;
    bed.until_rows(frozen + 2_000).await.map_err(|error| error.context(heir.log()))?;
    zombie.signal(Signal::CONT);
    bed.settled(&counts).await.map_err(|error| error.context(format!("{}\n{}", zombie.log(), heir.log())))?;
    wait::until_true("the zombie joins again", SOON, || async { Ok(zombie.get("/readyz").await?.0 == 200) })
        .await
}

/// Two consumers that both believe to own the partition: separate groups in Kafka, one name in the database.
#[tokio::test]
async fn two_owners_of_one_partition_store_each_event_once() -> Result<()> {
    let bed = Bed::start("doubles", 1).await?;
    let mut first = bed.consumer("first")?;
    first.ready().await?;
    bed.send(0, &event(0)).await?;
    bed.until_rows(1).await?;
    let pool = bed.pool().await?;
    // What a second owner does, as seen by the first: it stores the next event and moves the offset.
    bed.kafka.create_topic("elsewhere", 1).await?;
    sqlx::query("UPDATE pipeline_offsets SET next_offset = 2").execute(&pool).await?;
    for number in 1..4 {
        bed.send(0, &event(number)).await?;
    }
    bed.until_rows(3).await.map_err(|error| error.context(first.log()))?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 4);
    assert_eq!(
        bed.number("SELECT count(*) FROM events WHERE data = '{\"n\":1}'").await?,
        0,
        "event 1 was the other owner's"
    );
    assert!(first.metric("batches_fenced_total").await? >= 1.0);
    Ok(())
}

#[tokio::test]
async fn a_killed_consumers_partitions_flow_again_soon() -> Result<()> {
    let bed = Bed::start("heirs", 2).await?;
    let (mut first, mut second) = (bed.consumer("first")?, bed.consumer("second")?);
    first.ready().await?;
    second.ready().await?;
    for consumer in [&first, &second] {
        wait::until_true("one partition each", SOON, || async {
            Ok((consumer.metric("partitions_assigned").await? - 1.0).abs() < 0.5)
        })
        .await?;
    }
    first.kill();
    for partition in 0..2 {
        bed.send(partition, &event(partition.unsigned_abs().into())).await?;
    }
    // About 7 s on an idle machine: the session timeout and a rebalance. The bound only tells it from librdkafka's
    // default session of 45 s; how long it takes is for the benchmark to say.
    wait::until_true("both rows", Duration::from_secs(30), || async { Ok(bed.rows().await? == 2) }).await
}

#[tokio::test]
async fn a_database_that_is_away_makes_it_unready_not_dead_and_nothing_is_lost() -> Result<()> {
    let mut bed = Bed::start("outage", 4).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.postgres.stop().await?;
    let counts = bed.produce(17, 4, 5_000, None).await?;
    wait::until_true("unready", SOON, || async { Ok(consumer.get("/readyz").await?.0 == 503) }).await?;
    let reason = consumer.get("/readyz").await?.1;
    assert!(reason.contains("PostgreSQL"), "{reason}");
    assert_eq!(consumer.get("/livez").await?.0, 200);
    bed.postgres.restart().await?;
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))?;
    consumer.ready().await
}

#[tokio::test]
async fn a_restarted_broker_is_waited_for() -> Result<()> {
    let mut bed = Bed::start("brokers", 4).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    let before = bed.produce(19, 4, 3_000, None).await?;
    bed.kafka.kill();
    wait::until_true("unready", SOON, || async { Ok(consumer.get("/readyz").await?.0 == 503) }).await?;
    assert_eq!(consumer.get("/livez").await?.0, 200);
    bed.kafka.restart().await?;
    let counts = together(before, &bed.produce(23, 4, 3_000, None).await?);
    bed.settled(&counts).await.map_err(|error| error.context(consumer.log()))
}
