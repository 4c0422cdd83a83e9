//! Partitions that stand before their log's end although nothing comes any more.
//!
//! A transaction ends with a control record, which takes an offset and is never delivered. The stored offset would stay
//! before it until the next record comes, and lag would never be 0, nor the number of consumers. So where the client has
//! fetched everything, and the stored offset has not moved for a while, another reader looks what lies between. Another
//! one looks, too, where the topic could not be read, because the client does not say when it can be again.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;

use super::Positions;
use super::end_of_partition::{can_read, without_records};
use crate::slot::Slot;
use crate::status::Status;

/// How often to see whether there is such a partition.
const LOOK: Duration = Duration::from_secs(1);

/// Moves quiet partitions to their ends.
pub struct QuietEnds {
    /// For the reader that looks.
    pub config: ClientConfig,
    /// The topic.
    pub topic: Arc<str>,
    /// Where what was found becomes part of a batch, and so of a transaction that moves the stored offset.
    pub slots: Arc<[Slot]>,
    /// Where the partitions stand.
    pub positions: Arc<Positions>,
    /// Whether the topic could be read.
    pub status: Arc<Status>,
}

impl QuietEnds {
    /// Looks, until cancelled.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut quiet = self.positions.take_quiet();
            // What has been read and not stored yet is on its way.
            quiet.retain(|(partition, offset)| {
                self.slots.iter().any(|slot| slot.rests_at(*partition, *offset))
            });
            if !quiet.is_empty() {
                self.look(quiet).await;
            }
            if !self.status.is_topic_readable() {
                self.try_reading().await;
            }
        }
    }

    /// Reads at the end of a partition, if only to see that this is allowed. It takes a while where it is not.
    async fn try_reading(&self) {
        let (config, topic) = (self.config.clone(), Arc::clone(&self.topic));
        let partition = self.positions.any().unwrap_or(0);
        let read = tokio::task::spawn_blocking(move || can_read(&config, &topic, partition)).await;
        if matches!(read, Ok(Ok(true))) {
            self.status.topic_readable();
        }
    }

    async fn look(&self, quiet: Vec<(i32, i64)>) {
        let (config, topic) = (self.config.clone(), Arc::clone(&self.topic));
        match tokio::task::spawn_blocking(move || without_records(&config, &topic, &quiet)).await {
            Ok(Ok(found)) => {
                for (partition, from, to) in found {
                    tracing::debug!(partition, from, to, "No record lies before the end of the log");
                    // Only the slot that has the partition heeds it.
                    self.slots.iter().for_each(|slot| slot.pass_over(partition, from, to));
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "Kafka does not say what lies before the ends of the logs");
            }
            Err(error) => tracing::warn!(%error, "The look at the ends of the logs was interrupted"),
        }
    }
}
