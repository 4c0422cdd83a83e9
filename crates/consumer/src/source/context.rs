//! librdkafka's callbacks. They run on the reading thread inside `poll`, so they only write things down.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::Positions;
use super::repeats::Repeats;
use super::trouble::{self, Trouble};
use crate::metrics::Metrics;
use crate::status::Status;

/// So long without the group's coordinator is no mere move to another broker.
const COORDINATOR_AWAY_MILLIS: i64 = 10_000;
const COORDINATOR_AWAY: &str = "the broker that coordinates the consumer group cannot be reached, or has no leader for its partition of \
                                __consumer_offsets; brokers that answer are not enough";

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
    trouble: Arc<Trouble>,
    repeats: Repeats,
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
            trouble: Arc::default(),
            repeats: Repeats::default(),
        }
    }

    /// With the certificates (PEM) that the brokers' are checked against, for saying what is wrong with one.
    #[must_use]
    pub fn trusting(mut self, authorities: String) -> Self {
        self.trouble = Arc::new(Trouble::new(authorities));
        self
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
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" {
            self.trouble.noted(message.split_once("]: ").map_or(message, |(_, message)| message));
        }
        // librdkafka's names of its threads are of no interest to whoever reads the same of another.
        if self
            .repeats
            .say(message.split_once("]: ").map_or(message, |(_, said)| said), Instant::now())
            .is_some()
        {
            log_line(level, facility, message);
        }
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.trouble.over();
            self.status.kafka_reachable();
        }
        if let Some(group) = &statistics.cgrp {
            let is_away = group.state != "up" && group.stateage >= COORDINATOR_AWAY_MILLIS;
            self.status.coordinator(is_away.then(|| COORDINATOR_AWAY.to_owned()));
        }
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        for (partition, numbers) in topic.partitions.iter().filter(|(_, numbers)| numbers.ls_offset >= 0) {
            let (end, fetched) = (numbers.ls_offset, numbers.next_offset);
            if let Some(lag) = self.positions.note_log_end(*partition, end, fetched) {
                self.metrics.position(*partition, numbers.ls_offset - lag, lag);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        let cause = self.trouble.reported(code, reason);
        if let Some(left_out) = self.repeats.say(&format!("{code:?} {reason}"), Instant::now()) {
            let left_out = (left_out > 0).then_some(left_out);
            match &cause {
                Some(cause) => tracing::warn!(reason, left_out, "{cause}"),
                None => tracing::warn!(%error, reason, left_out, "Kafka"),
            }
        }
        if let Some(cause) = cause {
            self.status.kafka_unreachable(cause);
        }
        if code == RDKafkaErrorCode::SSL {
            trouble::examine(&self.trouble, &self.status, reason);
        }
    }
}

/// What librdkafka says of itself, in this program's log.
pub(crate) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
    }
}
