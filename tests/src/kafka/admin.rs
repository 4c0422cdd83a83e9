//! Topics and offsets, through librdkafka.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::Kafka;
use crate::wait;

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the brokers may take to tell each other about a change.
const SETTLED: Duration = Duration::from_secs(30);

/// An admin client that can be shared.
#[derive(Clone)]
pub(super) struct Admin(Arc<AdminClient<DefaultClientContext>>);

impl Admin {
    pub(super) async fn broker_count(&self) -> Result<usize> {
        let client = Arc::clone(&self.0);
        let look = move || {
            client.inner().fetch_metadata(None, Duration::from_secs(2)).map(|all| all.brokers().len())
        };
        Ok(tokio::task::spawn_blocking(look).await??)
    }

    /// The number of partitions that have a leader; zero when there is no such topic.
    async fn partitions_with_leader(&self, topic: &str) -> Result<usize> {
        let (client, topic) = (Arc::clone(&self.0), topic.to_owned());
        let look = move || -> Result<usize> {
            let metadata = client.inner().fetch_metadata(Some(&topic), TIMEOUT)?;
            let found =
                metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
            Ok(found.map_or(0, |found| found.partitions().iter().filter(|one| one.leader() >= 0).count()))
        };
        tokio::task::spawn_blocking(look).await?
    }
}

impl Kafka {
    pub(super) fn admin(&self) -> Result<Admin> {
        Ok(Admin(Arc::new(self.client_config().create().context("failed to create an admin client")?)))
    }

    /// Creates a topic, replicated to at most three brokers, and waits until every partition has a leader.
    ///
    /// # Errors
    /// When the topic exists or the brokers refuse it.
    pub async fn create_topic(&self, topic: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(topic, partitions, &[]).await
    }

    /// Like [`Kafka::create_topic`], with the topic's own settings (such as `retention.ms`).
    ///
    /// # Errors
    /// As [`Kafka::create_topic`].
    pub async fn create_topic_with(
        &self,
        topic: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Result<()> {
        let replicas = i32::try_from(self.brokers.len().min(3))?;
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let admin = self.admin()?;
        accept(admin.0.create_topics([&new], &options()).await?, "create")?;
        self.await_partitions(&admin, topic, partitions).await
    }

    /// Raises the number of partitions to `total` and waits until each has a leader.
    ///
    /// # Errors
    /// When the topic is missing or has as many already.
    pub async fn add_partitions(&self, topic: &str, total: i32) -> Result<()> {
        let admin = self.admin()?;
        let new = NewPartitions::new(topic, usize::try_from(total)?);
        accept(admin.0.create_partitions([&new], &options()).await?, "add partitions to")?;
        self.await_partitions(&admin, topic, total).await
    }

    /// Replaces the topic's own settings by these.
    ///
    /// # Errors
    /// When the brokers refuse them.
    pub async fn alter_topic(&self, topic: &str, settings: &[(&str, &str)]) -> Result<()> {
        let start = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let alter = settings.iter().fold(start, |alter, (key, value)| alter.set(key, value));
        let results = self.admin()?.0.alter_configs([&alter], &options()).await?;
        let results = results
            .into_iter()
            .map(|one| one.map(|_| topic.to_owned()).map_err(|(_, code)| (topic.to_owned(), code)));
        accept(results.collect(), "alter")
    }

    /// Deletes a topic and waits until it is gone.
    ///
    /// # Errors
    /// When it does not exist.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let admin = self.admin()?;
        accept(admin.0.delete_topics(&[topic], &options()).await?, "delete")?;
        self.await_partitions(&admin, topic, 0).await
    }

    /// Deletes the records before `offset` of one partition, as retention would.
    ///
    /// # Errors
    /// When the brokers refuse it.
    pub async fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        for element in self.admin()?.0.delete_records(&list, &options()).await?.elements() {
            element.error().with_context(|| format!("failed to delete records of {topic}/{partition}"))?;
        }
        Ok(())
    }

    /// The log end offset of each partition.
    ///
    /// # Errors
    /// When the topic is missing or the brokers do not answer.
    pub async fn end_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let (consumer, topic) = (self.observer("testbed-observer")?, topic.to_owned());
        let look = move || {
            let partitions = partitions(&consumer, &topic)?;
            partitions
                .into_iter()
                .map(|partition| Ok((partition, consumer.fetch_watermarks(&topic, partition, TIMEOUT)?.1)))
                .collect()
        };
        tokio::task::spawn_blocking(look).await?
    }

    /// The offset that `group` has committed in each partition; a partition without one is absent.
    ///
    /// # Errors
    /// When the topic is missing or the brokers do not answer.
    pub async fn committed(&self, group: &str, topic: &str) -> Result<BTreeMap<i32, i64>> {
        let (consumer, topic) = (self.observer(group)?, topic.to_owned());
        let look = move || {
            let mut list = TopicPartitionList::new();
            for partition in partitions(&consumer, &topic)? {
                list.add_partition(&topic, partition);
            }
            let committed = consumer.committed_offsets(list, TIMEOUT)?;
            let known = committed.elements().into_iter().filter_map(|one| match one.offset() {
                Offset::Offset(offset) => Some((one.partition(), offset)),
                _ => None,
            });
            Ok(known.collect())
        };
        tokio::task::spawn_blocking(look).await?
    }

    /// Events of the topic that `group` has not committed; a partition without a commit counts from zero.
    ///
    /// # Errors
    /// As [`Kafka::end_offsets`].
    pub async fn lag(&self, group: &str, topic: &str) -> Result<i64> {
        let committed = self.committed(group, topic).await?;
        let ends = self.end_offsets(topic).await?;
        Ok(ends.iter().map(|(partition, end)| end - committed.get(partition).unwrap_or(&0)).sum())
    }

    fn observer(&self, group: &str) -> Result<BaseConsumer> {
        self.client_config().set("group.id", group).create().context("failed to create a consumer")
    }

    async fn await_partitions(&self, admin: &Admin, topic: &str, expected: i32) -> Result<()> {
        let expected = usize::try_from(expected)?;
        wait::until_true(&format!("{topic} has {expected} partitions with a leader"), SETTLED, || async {
            Ok(admin.partitions_with_leader(topic).await? == expected)
        })
        .await
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT))
}

fn accept(results: Vec<Result<String, (String, RDKafkaErrorCode)>>, verb: &str) -> Result<()> {
    for result in results {
        result.map_err(|(topic, code)| anyhow!("failed to {verb} topic {topic}: {code}"))?;
    }
    Ok(())
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
    let found = found.with_context(|| format!("there is no topic {topic}"))?;
    Ok(found.partitions().iter().map(|partition| partition.id()).collect())
}
