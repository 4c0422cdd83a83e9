//! librdkafka's callbacks. They run on the reading thread inside `poll`, so they only write things down.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::Positions;
use crate::metrics::Metrics;
use crate::status::Status;

/// A change of the group's assignment, to be carried out after `poll` has returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rebalance {
    Assign(Vec<i32>),
    Revoke(Vec<i32>),
}

/// What the callbacks write to.
pub struct Context {
    topic: String,
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
    positions: Arc<Positions>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
}

impl Context {
    /// A context for one topic.
    #[must_use]
    pub fn new(topic: String, positions: Arc<Positions>, metrics: Arc<Metrics>, status: Arc<Status>) -> Self {
        Self {
            topic,
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            positions,
            metrics,
            status,
        }
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// From now on nobody carries out rebalances: give partitions back at once, so that closing can finish.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }
}

impl ConsumerContext for Context {
    /// librdkafka waits for the matching `incremental_assign` or `incremental_unassign`, which the reading thread
    /// calls as soon as `poll` returns.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::SeqCst) {
            if let Err(error) = consumer.incremental_unassign(list) {
                tracing::debug!(%error, "Nothing to give back while closing");
            }
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition()).collect();
        let rebalance = if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Rebalance::Assign(partitions)
        } else {
            Rebalance::Revoke(partitions)
        };
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
    }

    fn commit_callback(&self, result: rdkafka::error::KafkaResult<()>, offsets: &TopicPartitionList) {
        // Only a hint failed: the offsets that count are in PostgreSQL. It is given again, or a partition without new
        // records (a commit that met a rebalance) would show lag for ever.
        if let Err(error) = result {
            tracing::debug!(%error, "Kafka did not take the committed offsets; telling them again");
            self.positions.not_taken(offsets.elements().iter().map(|element| element.partition()));
        }
    }
}

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.status.kafka_reachable();
        }
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        for (partition, numbers) in &topic.partitions {
            if let Some(stored) = self.positions.get(*partition)
                && numbers.ls_offset >= 0
            {
                self.metrics.position(*partition, stored, (numbers.ls_offset - stored).max(0));
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                tracing::warn!(reason, "No Kafka broker can be reached; trying on");
                self.status.kafka_unreachable(format!("no Kafka broker can be reached: {reason}"));
            }
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                tracing::error!(
                    reason,
                    "Kafka refused the credentials; check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
                );
                self.status.kafka_unreachable(format!("Kafka refused the credentials: {reason}"));
            }
            _ => tracing::warn!(%error, reason, "Kafka"),
        }
    }
}
