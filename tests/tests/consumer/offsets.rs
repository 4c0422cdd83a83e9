//! Where partitions begin, and what happens when the log is not where the stored offset is.

use anyhow::{Result, ensure};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::FutureRecord;
use rdkafka::{Offset, TopicPartitionList};
use rustix::process::Signal;
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

/// The member of the group never sees the topic missing, and its position lies in the new log when it looks again.
#[tokio::test]
async fn a_topic_made_anew_while_it_is_read_is_read_from_its_beginning() -> Result<()> {
    let bed = Bed::start("renewed", 1).await?;
    let options = bed
        .options()
        .with("KAFKA_ON_OFFSET_GAP", "earliest")
        .with("KAFKA_PROPERTIES", "session.timeout.ms=60000");
    let consumer = testbed::Consumer::start("one", &options)?;
    for number in 0..3 {
        bed.send(0, &event(number)).await?;
    }
    bed.until_rows(3).await.map_err(|error| error.context(consumer.log()))?;
    // What is done in a moment elsewhere takes longer here.
    consumer.signal(Signal::STOP);
    bed.kafka.delete_topic(&bed.topic).await?;
    bed.kafka.create_topic(&bed.topic, 1).await?;
    for number in 100..120 {
        bed.send(0, &event(number)).await?;
    }
    consumer.signal(Signal::CONT);
    bed.until_rows(23).await.map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 20);
    ensure!(consumer.metric("offset_gaps_total{action=\"earliest\"}").await? >= 1.0, "{}", consumer.log());
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

/// No transaction tells of it then.
#[tokio::test]
async fn lag_can_be_read_in_sql_while_nothing_can_be_stored() -> Result<()> {
    let bed = Bed::start("frozen", 1).await?;
    let mut consumer = bed.consumer("one")?;
    consumer.ready().await?;
    bed.send(0, &event(0)).await?;
    bed.until_rows(1).await?;
    let pool = bed.pool().await?;
    sqlx::raw_sql("ALTER TABLE events RENAME TO elsewhere").execute(&pool).await?;
    for number in 1..6 {
        bed.send(0, &event(number)).await?;
    }
    let lag = "SELECT coalesce(sum(lag), 0)::bigint FROM pipeline_lag";
    wait::until_true("the lag is told", SOON, || async {
        let lag = bed.number(lag).await?;
        ensure!(lag == 5, "lag {lag}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))?;
    sqlx::raw_sql("ALTER TABLE elsewhere RENAME TO events").execute(&pool).await?;
    bed.until_rows(6).await.map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.number(lag).await?, 0);
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

#[tokio::test]
async fn a_committed_offset_outside_the_log_is_told_like_a_stored_one() -> Result<()> {
    let bed = Bed::start("outdated", 1).await?;
    for number in 0..6 {
        bed.send(0, &event(number)).await?;
    }
    commit(&bed, 0, 3).await?;
    bed.kafka.delete_records(&bed.topic, 0, 5).await?;
    // A new database: nothing is stored, and what the group remembers is gone.
    let mut stopped = bed.consumer("stopped")?;
    until_logged(&stopped, "the committed offset 3 is before the log, which begins at 5").await?;
    stopped.kill();
    let allowed =
        testbed::Consumer::start("allowed", &bed.options().with("KAFKA_ON_OFFSET_GAP", "earliest"))?;
    bed.until_rows(1).await.map_err(|error| error.context(allowed.log()))?;
    until_logged(&allowed, "The committed offset is outside the log").await?;
    assert!((allowed.metric("offsets_lost_total").await? - 2.0).abs() < 0.5);
    assert!((allowed.metric("offset_gaps_total{action=\"earliest\"}").await? - 1.0).abs() < 0.5);
    Ok(())
}

/// Commits an offset for the group, as an earlier database's consumer did.
async fn commit(bed: &Bed, partition: i32, offset: i64) -> Result<()> {
    let mut config = bed.kafka.client_config();
    config.set("group.id", format!("{}-group", bed.topic));
    let topic = bed.topic.clone();
    let commit = move || -> Result<()> {
        let consumer: BaseConsumer = config.create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    };
    tokio::task::spawn_blocking(commit).await?
}

#[tokio::test]
async fn latest_with_a_new_database_goes_on_where_the_group_stood() -> Result<()> {
    let bed = Bed::start("followed", 2).await?;
    for number in 0..3 {
        bed.send(0, &event(number)).await?;
        bed.send(1, &event(10 + number)).await?;
    }
    commit(&bed, 0, 1).await?;
    let consumer = testbed::Consumer::start("one", &bed.options().with("KAFKA_START_FROM", "latest"))?;
    bed.until_rows(2).await.map_err(|error| error.context(consumer.log()))?;
    bed.send(1, &event(20)).await?;
    bed.until_rows(3).await.map_err(|error| error.context(consumer.log()))?;
    let expected = "SELECT count(*) FROM events WHERE (data->>'n')::int IN (1, 2, 20)";
    assert_eq!((bed.rows().await?, bed.number(expected).await?), (3, 3));
    Ok(())
}

#[tokio::test]
async fn tombstones_that_are_to_be_skipped_are_counted_and_leave_nothing_else() -> Result<()> {
    let bed = Bed::start("buried", 1).await?;
    let producer = bed.kafka.producer()?;
    for payload in [None, Some(&[][..])] {
        let mut record: FutureRecord<'_, str, [u8]> = FutureRecord::to(&bed.topic).partition(0).key("k");
        record.payload = payload;
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
    }
    bed.send(0, &event(1)).await?;
    let consumer = testbed::Consumer::start("one", &bed.options().with("TOMBSTONES", "skip"))?;
    bed.until_rows(1).await.map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 3);
    assert_eq!(bed.number("SELECT count(*) FROM dead_letters").await?, 0);
    wait::until_true("they are counted", SOON, || async {
        let skipped = consumer.metric("records_skipped_total{reason=\"tombstone\"}").await?;
        ensure!((skipped - 2.0).abs() < 0.5, "{skipped} are counted");
        Ok(true)
    })
    .await?;
    assert!(consumer.metric("offsets_passed_over_total").await? < 0.5);
    Ok(())
}
