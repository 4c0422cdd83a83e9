//! Where partitions begin, and what happens when the log is not where the stored offset is.

use anyhow::Result;
use testbed::wait;

use crate::support::{Bed, SOON, event, until_logged};

#[tokio::test]
async fn records_removed_before_they_were_read_stop_the_partition_until_a_person_decides() -> Result<()> {
    let bed = Bed::start("gaps", 1).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.send(0, &event(0)).await?;
    bed.until_rows(1).await?;
    consumer.kill();
    for number in 1..6 {
        bed.send(0, &event(number)).await?;
    }
    bed.kafka.delete_records(&bed.topic, 0, 4).await?;

    let mut stopped = bed.consumer("stopped")?;
    until_logged(&stopped, "retention removed 3 offsets that were never read").await?;
    let (status, reason) = stopped.get("/readyz").await?;
    assert!(status == 503 && reason.contains("KAFKA_ON_OFFSET_GAP"), "{status} {reason}");
    assert_eq!(bed.rows().await?, 1);
    stopped.kill();

    let allowed =
        testbed::Consumer::start("allowed", &bed.options().with("KAFKA_ON_OFFSET_GAP", "earliest"))?;
    bed.until_rows(3).await.map_err(|error| error.context(allowed.log()))?;
    assert!((allowed.metric("offsets_lost_total").await? - 3.0).abs() < 0.5);
    Ok(())
}

#[tokio::test]
async fn a_topic_that_was_made_anew_is_noticed() -> Result<()> {
    let bed = Bed::start("anew", 1).await?;
    let mut consumer = bed.consumer("one")?;
    for number in 0..3 {
        bed.send(0, &event(number)).await?;
    }
    bed.until_rows(3).await?;
    consumer.kill();
    bed.kafka.delete_topic(&bed.topic).await?;
    bed.kafka.create_topic(&bed.topic, 1).await?;
    // As many records as the stored offset says: by the log's ends alone nothing would look wrong.
    for number in 7..12 {
        bed.send(0, &event(number)).await?;
    }
    let stopped = bed.consumer("stopped")?;
    until_logged(&stopped, "the topic was made anew since offset 3 was stored").await?;
    let options = bed.options().with("KAFKA_ON_OFFSET_GAP", "earliest");
    drop(stopped);
    let allowed = testbed::Consumer::start("allowed", &options)?;
    bed.until_rows(8).await.map_err(|error| error.context(allowed.log()))?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 5);
    Ok(())
}

#[tokio::test]
async fn lag_can_be_read_in_sql() -> Result<()> {
    let bed = Bed::start("readable", 1).await?;
    let counts = bed.produce(31, 1, 500, None).await?;
    let _consumer = bed.consumer("one")?;
    bed.settled(&counts).await?;
    assert_eq!(bed.number("SELECT sum(lag)::bigint FROM pipeline_lag").await?, 0);
    assert_eq!(bed.number("SELECT max(log_end_offset) FROM pipeline_lag").await?, 500);
    Ok(())
}

#[tokio::test]
async fn latest_begins_at_the_end_but_reads_partitions_added_later_from_their_beginning() -> Result<()> {
    let bed = Bed::start("latest", 2).await?;
    bed.send(0, &event(1)).await?;
    let options = bed
        .options()
        .with("KAFKA_START_FROM", "latest")
        .with("KAFKA_PROPERTIES", "topic.metadata.refresh.interval.ms=1000");
    let mut consumer = testbed::Consumer::start("one", &options)?;
    consumer.ready().await?;
    wait::until_true("both partitions are stored", SOON, || async {
        Ok(bed.number("SELECT count(*) FROM pipeline_offsets").await? == 2)
    })
    .await?;
    bed.send(1, &event(2)).await?;
    bed.until_rows(1).await?;
    bed.kafka.add_partitions(&bed.topic, 3).await?;
    bed.send(2, &event(3)).await?;
    bed.until_rows(2).await.map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.number("SELECT count(*) FROM events WHERE data = '{\"n\":1}'").await?, 0);
    Ok(())
}

#[tokio::test]
async fn without_stored_offsets_the_groups_committed_offset_counts() -> Result<()> {
    let bed = Bed::start("moved", 1).await?;
    for number in 0..3 {
        bed.send(0, &event(number)).await?;
    }
    let mut consumer = bed.consumer("one")?;
    bed.until_rows(3).await?;
    let group = format!("{}-group", bed.topic);
    wait::until_true("Kafka knows the offsets", SOON, || async {
        Ok(bed.kafka.lag(&group, &bed.topic).await? == 0)
    })
    .await?;
    consumer.kill();
    // A move to a new database.
    let pool = bed.pool().await?;
    sqlx::raw_sql("DROP TABLE events, pipeline_offsets, dead_letters, pipeline_schema CASCADE")
        .execute(&pool)
        .await?;
    bed.send(0, &event(3)).await?;
    let _moved = bed.consumer("two")?;
    bed.until_rows(1).await?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 4);
    assert_eq!(bed.rows().await?, 1);
    Ok(())
}
