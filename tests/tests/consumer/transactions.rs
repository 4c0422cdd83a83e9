//! Offsets that no record has: control records of transactions, aborted records, what compaction removed.

use anyhow::{Result, ensure};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use testbed::{Consumer, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};

use crate::support::{Bed, SOON, event};

/// A producer whose records come in transactions.
fn transactional(bed: &Bed, id: &str) -> Result<FutureProducer> {
    let producer: FutureProducer = bed.kafka.client_config().set("transactional.id", id).create()?;
    producer.init_transactions(SOON)?;
    Ok(producer)
}

/// Sends these events to partition 0 in one transaction, which is committed or aborted.
async fn transact(
    bed: &Bed,
    producer: &FutureProducer,
    numbers: std::ops::Range<u64>,
    commit: bool,
) -> Result<()> {
    producer.begin_transaction()?;
    for number in numbers {
        let payload = event(number);
        let record = FutureRecord::to(&bed.topic).partition(0).key("k").payload(&payload);
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
    }
    let producer = producer.clone();
    let end =
        move || if commit { producer.commit_transaction(SOON) } else { producer.abort_transaction(SOON) };
    Ok(tokio::task::spawn_blocking(end).await??)
}

/// Waits until the controller would see no lag, which is when it may scale to zero.
async fn until_no_lag(bed: &Bed, consumer: &Consumer) -> Result<()> {
    let group = format!("{}-group", bed.topic);
    wait::until_true("no lag is left", SOON, || async {
        let lag = bed.kafka.lag(&group, &bed.topic).await?;
        ensure!(lag == 0, "lag {lag}");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_transactions_control_record_lag_is_zero_and_aborted_records_are_not_stored() -> Result<()> {
    let bed = Bed::start("transacted", 1).await?;
    let producer = transactional(&bed, "one")?;
    transact(&bed, &producer, 0..5, true).await?;
    let mut first = bed.consumer("first")?;
    bed.until_rows(5).await.map_err(|error| error.context(first.log()))?;
    until_no_lag(&bed, &first).await?;
    let ends = bed.kafka.end_offsets(&bed.topic).await?;
    assert_eq!(ends.get(&0), Some(&6), "five records and a control record");
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 6);
    wait::until_true("it is counted", SOON, || async {
        Ok((first.metric("offsets_passed_over_total").await? - 1.0).abs() < 0.5)
    })
    .await?;

    // Only aborted records at the end, and nobody who reads meanwhile; then events again.
    first.kill();
    transact(&bed, &producer, 5..8, false).await?;
    let second = bed.consumer("second")?;
    until_no_lag(&bed, &second).await?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 10);
    transact(&bed, &producer, 8..10, true).await?;
    bed.until_rows(7).await?;
    until_no_lag(&bed, &second).await?;
    let numbers = "SELECT count(*) FROM events WHERE (data->>'n')::int IN (5, 6, 7)";
    assert_eq!(bed.number(numbers).await?, 0, "aborted records are no events");
    assert_eq!(bed.rows().await?, 7);
    wait::until_true("the metric says so, too", SOON, || async {
        Ok(second.metric("kafka_consumer_lag").await? < 0.5)
    })
    .await
}

/// What an open transaction holds back is no lag, and nothing of it is passed over: it may still be committed.
#[tokio::test(flavor = "multi_thread")]
async fn records_of_an_open_transaction_are_waited_for() -> Result<()> {
    let bed = Bed::start("pending", 1).await?;
    bed.send(0, &event(0)).await?;
    let producer = transactional(&bed, "slow")?;
    producer.begin_transaction()?;
    for number in 1..4 {
        let payload = event(number);
        let record = FutureRecord::to(&bed.topic).partition(0).key("k").payload(&payload);
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
    }
    // Good events of others lie behind the open transaction, and must wait for it, too.
    bed.send(0, &event(4)).await?;
    let consumer = bed.consumer("one")?;
    bed.until_rows(1).await.map_err(|error| error.context(consumer.log()))?;
    let committing = producer.clone();
    tokio::task::spawn_blocking(move || committing.commit_transaction(SOON)).await??;
    bed.until_rows(5).await.map_err(|error| error.context(consumer.log()))?;
    until_no_lag(&bed, &consumer).await?;
    assert_eq!(bed.rows().await?, 5);
    Ok(())
}

#[tokio::test]
async fn gaps_of_compaction_are_no_lag() -> Result<()> {
    let cleaner = [("log.cleaner.backoff.ms", "100")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (kafka, postgres) = tokio::try_join!(
        Kafka::start(KafkaOptions { properties: cleaner.to_vec(), ..KafkaOptions::default() }),
        Postgres::start(PostgresOptions::default())
    )?;
    let topic = "compacted".to_owned();
    let compaction = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "100"),
        ("segment.ms", "100"),
        ("segment.bytes", "1048576"),
    ];
    kafka.create_topic_with(&topic, 1, &compaction).await?;
    let url = postgres.url();
    let bed = Bed { kafka, postgres, topic, url };
    // One key for all: compaction leaves the last record of each closed segment, and in the end one before the active one.
    let mut number = 0;
    wait::until_true("compaction has left a gap", SOON, || {
        number += 1;
        let bed = &bed;
        async move {
            bed.send(0, &event(number)).await?;
            let left = crate::support::read(&bed.kafka, &bed.topic).await?.len();
            Ok(i64::try_from(left)? < bed.kafka.end_offsets(&bed.topic).await?.values().sum::<i64>())
        }
    })
    .await?;
    let consumer = bed.consumer("one")?;
    until_no_lag(&bed, &consumer).await?;
    let newest = "SELECT coalesce(max((data->>'n')::bigint), 0) FROM events";
    assert_eq!(bed.number(newest).await?, i64::try_from(number)?);
    Ok(())
}
