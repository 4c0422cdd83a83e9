//! What a client keeps beside its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

use super::ends::Ends;
use super::error::Reported;

/// How long the partitions of a topic are believed; a partition that is new must not wait longer to be seen.
const PARTITIONS: Duration = Duration::from_secs(30);
/// How many errors of its own a client remembers.
const REMEMBERED: usize = 16;

/// Partitions by topic, and when they were read.
type Topics = HashMap<String, (Instant, Arc<[i32]>)>;

/// Collects what a client reports on its own, and remembers the partitions of topics for a while: they hardly ever change.
/// Log ends are remembered for a moment.
#[derive(Default)]
pub(super) struct Listener {
    pub(super) ends: Ends,
    reported: Mutex<Vec<Reported>>,
    partitions: Mutex<Topics>,
}

impl Listener {
    /// Partitions of a topic, if they were read not long ago.
    pub(super) fn partitions(&self, topic: &str) -> Option<Arc<[i32]>> {
        let known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(topic)
            .filter(|(at, _)| at.elapsed() < PARTITIONS)
            .map(|(_, partitions)| Arc::clone(partitions))
    }

    /// Remembers the partitions of a topic; `None` forgets them.
    pub(super) fn remember(&self, topic: &str, partitions: Option<Arc<[i32]>>) {
        let mut known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < PARTITIONS);
        match partitions {
            Some(partitions) => known.insert(topic.to_owned(), (Instant::now(), partitions)),
            None => known.remove(topic),
        };
    }

    pub(super) fn take(&self) -> Vec<Reported> {
        std::mem::take(&mut self.reported.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, error: &KafkaError, detail: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() == REMEMBERED {
            reported.remove(0);
        }
        reported.push(Reported { code, detail: detail.to_owned() });
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "Kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        self.note(&error, reason);
    }
}

impl ConsumerContext for Listener {}
