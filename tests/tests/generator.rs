//! What the generator says it sent is what Kafka holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use rdkafka::Message;
use rdkafka::consumer::{Consumer, StreamConsumer};
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Counts, Generator, Options, Record};
use testbed::{Kafka, KafkaOptions};
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "user-events";
const SOON: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options { malformed: 0.05, duplicates: 0.1, ..Options::default() }
}

fn target(kafka: &Kafka, events: u64, rate: Option<f64>) -> Result<Target> {
    Ok(Target {
        brokers: kafka.bootstrap(),
        topic: TOPIC.to_owned(),
        events,
        rate,
        dated_from: Some("2024-11-09T10:30:00Z".parse()?),
        properties: Vec::new(),
    })
}

async fn start() -> Result<Kafka> {
    let kafka = Kafka::start(KafkaOptions::default()).await?;
    kafka.create_topic(TOPIC, options().partitions).await?;
    Ok(kafka)
}

/// All records of the topic: partition to keys and payloads, in their order.
async fn consume(kafka: &Kafka, count: u64) -> Result<BTreeMap<i32, Vec<(Vec<u8>, Option<Vec<u8>>)>>> {
    let mut config = kafka.client_config();
    config.set("group.id", "reader").set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: StreamConsumer = config.create()?;
    consumer.subscribe(&[TOPIC])?;
    let mut found = BTreeMap::<i32, Vec<_>>::new();
    let mut records = consumer.stream().take(usize::try_from(count)?);
    while let Some(record) = tokio::time::timeout(SOON, records.next()).await.context("a record is late")? {
        let record = record?;
        let key = record.key().unwrap_or_default().to_vec();
        found.entry(record.partition()).or_default().push((key, record.payload().map(<[u8]>::to_vec)));
    }
    Ok(found)
}

#[tokio::test]
async fn kafka_holds_exactly_what_was_counted_byte_for_byte() -> Result<()> {
    let kafka = start().await?;
    let target = target(&kafka, 20_000, None)?;
    let now = target.dated_from.context("dated")?;
    let sent = produce(Generator::new(options())?, target, CancellationToken::new(), |_| {}).await?;

    let mut twin = Generator::new(options())?;
    let mut expected = BTreeMap::<i32, Vec<_>>::new();
    for Record { partition, key, payload, .. } in (0..20_000).map(|_| twin.next_record(now)) {
        expected.entry(partition).or_default().push((key, payload));
    }
    assert_eq!(&sent, twin.counts());
    let found = consume(&kafka, sent.produced()).await?;
    assert!(found == expected, "the records of Kafka are not those of a generator with the same seed");
    let ends: u64 = kafka.end_offsets(TOPIC).await?.values().map(|end| end.unsigned_abs()).sum();
    assert_eq!(ends, sent.produced());
    Ok(())
}

#[tokio::test]
async fn a_rate_is_kept_and_a_stop_leaves_true_counts() -> Result<()> {
    let kafka = start().await?;
    let began = Instant::now();
    let all = produce(
        Generator::new(options())?,
        target(&kafka, 1_000, Some(1_000.0))?,
        CancellationToken::new(),
        |_| {},
    );
    let all = all.await?;
    let took = began.elapsed();
    assert_eq!(all.produced(), 1_000);
    assert!(took >= Duration::from_millis(990), "1000 events at 1000 a second took only {took:?}");

    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let enough = move |counts: &Counts| {
        if counts.produced() >= 500 {
            stopper.cancel();
        }
    };
    let some = produce(Generator::new(options())?, target(&kafka, u64::MAX, None)?, stop, enough).await?;
    assert!(some.produced() >= 500, "{some:?}");
    let ends: u64 = kafka.end_offsets(TOPIC).await?.values().map(|end| end.unsigned_abs()).sum();
    assert_eq!(ends, all.produced() + some.produced());
    Ok(())
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_an_error_and_not_silence() -> Result<()> {
    let properties = vec![("auto.create.topics.enable".to_owned(), "false".to_owned())];
    let kafka = Kafka::start(KafkaOptions { properties, ..KafkaOptions::default() }).await?;
    let mut target = target(&kafka, 10, None)?;
    target.topic = "nowhere".to_owned();
    for (name, milliseconds) in [("message.timeout.ms", 5_000), ("topic.metadata.propagation.max.ms", 1_000)]
    {
        target.properties.push((name.to_owned(), milliseconds.to_string()));
    }
    let sent = produce(Generator::new(options())?, target, CancellationToken::new(), |_| {}).await;
    assert!(sent.is_err(), "{sent:?}");
    Ok(())
}
