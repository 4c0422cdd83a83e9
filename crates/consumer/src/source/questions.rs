//! What is asked of Kafka when partitions are taken over, on threads that may block.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::Consumer;
use super::topic_id::topic_id;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the same question about one partition may take when it failed for all together.
const ALONE_TIMEOUT: Duration = Duration::from_secs(2);

/// Kafka did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuestionError {
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("the question was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// Questions about one topic.
pub struct Questions {
    /// The client.
    pub consumer: Arc<Consumer>,
    /// The topic.
    pub topic: Arc<str>,
}

impl Questions {
    /// The topic's id. Without an answer recreation is recognised by the log's ends alone.
    pub(super) async fn topic_id(&self) -> Option<String> {
        let asked = self.ask(|consumer, topic| Ok(topic_id(consumer.client(), topic, TIMEOUT))).await;
        asked.ok().flatten()
    }

    /// Every partition of the topic.
    pub(super) async fn partitions(&self) -> Result<Vec<i32>, QuestionError> {
        self.ask(|consumer, topic| {
            let metadata = consumer.client().fetch_metadata(Some(topic), TIMEOUT)?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            Ok(partitions.map(|partition| partition.id()).collect())
        })
        .await
    }

    /// The offsets that the group has committed, of those partitions where it has.
    pub(super) async fn committed(&self, partitions: Vec<i32>) -> Result<HashMap<i32, i64>, QuestionError> {
        let list = self
            .ask(move |consumer, topic| {
                let mut list = TopicPartitionList::new();
                for partition in partitions {
                    list.add_partition(topic, partition);
                }
                consumer.committed_offsets(list, TIMEOUT)
            })
            .await?;
        for element in list.elements() {
            // One that cannot be told must not count as one that is not there.
            element.error()?;
        }
        Ok(numbers(&list))
    }

    /// Where each of these logs begins and ends. One pair of requests for all of them: a broker answers the requests of
    /// a connection one after the other, and each would wait for a fetch that waits for records (fetch.wait.max.ms).
    pub(super) async fn logs(&self, partitions: Vec<i32>) -> HashMap<i32, (i64, i64)> {
        if partitions.is_empty() {
            return HashMap::new();
        }
        let ask = |edge: Offset| {
            let partitions = partitions.clone();
            self.ask(move |consumer, topic| {
                let mut list = TopicPartitionList::new();
                for partition in partitions {
                    list.add_partition_offset(topic, partition, edge)?;
                }
                // In Kafka's ListOffsets request the edges of a log are times with special values.
                consumer.offsets_for_times(list, TIMEOUT)
            })
        };
        match tokio::try_join!(ask(Offset::Beginning), ask(Offset::End)) {
            Ok((lows, highs)) => {
                let (lows, highs) = (numbers(&lows), numbers(&highs));
                lows.into_iter().filter_map(|(id, low)| Some((id, (low, *highs.get(&id)?)))).collect()
            }
            // One partition without a leader fails the question for all: then each is asked about alone.
            Err(error) => {
                tracing::warn!(%error, "Kafka does not say where the logs begin and end; asking for each alone");
                self.logs_one_by_one(&partitions).await
            }
        }
    }

    async fn logs_one_by_one(&self, partitions: &[i32]) -> HashMap<i32, (i64, i64)> {
        let mut logs = HashMap::new();
        for &partition in partitions {
            let question = move |consumer: &Consumer, topic: &str| {
                consumer.fetch_watermarks(topic, partition, ALONE_TIMEOUT)
            };
            if let Ok(log) = self.ask(question).await {
                logs.insert(partition, log);
            }
        }
        logs
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer, &str) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, QuestionError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), Arc::clone(&self.topic));
        Ok(tokio::task::spawn_blocking(move || question(&consumer, &topic)).await??)
    }
}

/// The offsets of those partitions for which Kafka gave one.
fn numbers(list: &TopicPartitionList) -> HashMap<i32, i64> {
    let known = list.elements().into_iter().filter_map(|element| match (element.error(), element.offset()) {
        (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
        _ => None,
    });
    known.collect()
}
