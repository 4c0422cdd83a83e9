//! Partitions that stand before their log's end although nothing comes any more.
//!
//! A transaction ends with a control record, which takes an offset and is never delivered. The stored offset would stay
//! before it until the next record comes, and lag would never be 0, nor the number of consumers. So where the client has
//! fetched everything, and the stored offset has not moved for a while, another reader looks what lies between.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;

use super::Positions;
use super::end_of_partition::without_records;
use crate::slot::Slot;

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
}

impl QuietEnds {
    /// Looks, until cancelled.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let mut quiet = self.positions.take_quiet();
            // What has been read and not stored yet is on its way.
            quiet.retain(|(partition, offset)| self.slot(*partition).rests_at(*partition, *offset));
            if !quiet.is_empty() {
                self.look(quiet).await;
            }
        }
    }

    async fn look(&self, quiet: Vec<(i32, i64)>) {
        let (config, topic) = (self.config.clone(), Arc::clone(&self.topic));
        match tokio::task::spawn_blocking(move || without_records(&config, &topic, &quiet)).await {
            Ok(Ok(found)) => {
                for (partition, from, to) in found {
                    tracing::debug!(partition, from, to, "No record lies before the end of the log");
                    self.slot(partition).pass_over(partition, from, to);
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "Kafka does not say what lies before the ends of the logs");
            }
            Err(error) => tracing::warn!(%error, "The look at the ends of the logs was interrupted"),
        }
    }

    fn slot(&self, partition: i32) -> &Slot {
        &self.slots[partition.unsigned_abs() as usize % self.slots.len()]
    }
}
