//! Groups whose partitions the broker shares out (KIP-848).

use anyhow::{Result, ensure};
use testbed::{Consumer, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};

use crate::support::{Bed, SOON};

/// The broker decides how long a silent member keeps its partitions; by default no less than 45 s.
fn quick_sessions() -> Vec<(String, String)> {
    let properties = [
        ("group.consumer.min.session.timeout.ms", "3000"),
        ("group.consumer.session.timeout.ms", "6000"),
        ("group.consumer.min.heartbeat.interval.ms", "500"),
        ("group.consumer.heartbeat.interval.ms", "1000"),
    ];
    properties.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

async fn until_assigned(consumer: &Consumer, range: std::ops::RangeInclusive<f64>) -> Result<()> {
    wait::until_true("the broker shares out the partitions", SOON, || async {
        let assigned = consumer.metric("partitions_assigned").await?;
        ensure!(range.contains(&assigned), "{assigned} partitions");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))
}

#[tokio::test]
async fn consumers_of_a_broker_led_group_share_and_one_that_dies_costs_nothing() -> Result<()> {
    let (kafka, postgres) = tokio::try_join!(
        Kafka::start(KafkaOptions { properties: quick_sessions(), ..KafkaOptions::default() }),
        Postgres::start(PostgresOptions::default())
    )?;
    kafka.create_topic("led", 6).await?;
    let url = postgres.url();
    let bed = Bed { kafka, postgres, topic: "led".to_owned(), url };
    let options = bed.options().with("KAFKA_GROUP_PROTOCOL", "consumer").with("BATCH_MAX_EVENTS", 300);
    let mut first = Consumer::start("first", &options)?;
    first.ready().await?;
    until_assigned(&first, 6.0..=6.0).await?;
    let mut second = Consumer::start("second", &options)?;
    second.ready().await?;
    until_assigned(&first, 3.0..=3.0).await?;
    until_assigned(&second, 3.0..=3.0).await?;

    let counts = bed.produce(43, 6, 40_000, None).await?;
    bed.until_rows(i64::try_from(counts.distinct / 4)?).await?;
    first.kill();
    bed.settled(&counts).await.map_err(|error| error.context(second.log()))?;
    until_assigned(&second, 6.0..=6.0).await?;
    // A clean stop hands over, too, and what comes while nobody is there is read by the next one.
    second.signal(rustix::process::Signal::TERM);
    ensure!(second.ended(SOON).await?.success(), "{}", second.log());
    let more = bed.produce(47, 6, 2_000, None).await?;
    let third = Consumer::start("third", &options)?;
    bed.settled(&crate::support::together(counts, &more)).await.map_err(|error| error.context(third.log()))
}
