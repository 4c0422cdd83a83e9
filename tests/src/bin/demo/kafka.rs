//! The topic, and how far the consumers are behind in it, as any Kafka tool would see it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Creates the topic; one that exists is refused, because its events would blur the numbers, and because it may be
/// somebody's.
pub(crate) async fn create_topic(brokers: &str, topic: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .context("cannot make a Kafka client")?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let results = admin.create_topics([&new], &options).await;
    for result in results.with_context(|| format!("Kafka at {brokers} does not answer"))? {
        match result {
            Ok(_) => {}
            Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => {
                bail!("topic {topic} exists on {brokers}; the demo wants one of its own: delete it first")
            }
            Err((topic, code)) => bail!("topic {topic} cannot be created on {brokers}: {code}"),
        }
    }
    Ok(())
}

/// Looks at one consumer group without joining it.
#[derive(Clone)]
pub(crate) struct Observer {
    consumer: Arc<BaseConsumer>,
    topic: String,
    partitions: i32,
}

impl Observer {
    pub(crate) fn new(brokers: &str, group: &str, topic: &str, partitions: i32) -> Result<Self> {
        let consumer = ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", group).create();
        let consumer = Arc::new(consumer.context("cannot make a Kafka client")?);
        Ok(Self { consumer, topic: topic.to_owned(), partitions })
    }

    /// Records between the committed offsets and the ends of the log.
    pub(crate) async fn lag(&self) -> Result<i64> {
        let observer = self.clone();
        // librdkafka's lookups block.
        tokio::task::spawn_blocking(move || observer.lag_blocking()).await?
    }

    fn lag_blocking(&self) -> Result<i64> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(&self.topic, 0, self.partitions - 1);
        let committed = self.consumer.committed_offsets(wanted, TIMEOUT)?;
        let mut lag = 0;
        for element in committed.elements() {
            let (first, end) = self.consumer.fetch_watermarks(&self.topic, element.partition(), TIMEOUT)?;
            lag += match element.offset() {
                Offset::Offset(offset) => end - offset,
                _ => end - first,
            };
        }
        Ok(lag)
    }
}
