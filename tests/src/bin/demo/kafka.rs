//! How far the consumers are behind, as any Kafka tool would see it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(10);

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
