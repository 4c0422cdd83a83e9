//! The reading thread: polls Kafka, parses records into the writers' slots, and carries out the group's rebalances.
//!
//! It is an ordinary thread because librdkafka's `poll` blocks. What it must never do is stop polling: a member that
//! does not poll leaves the group. So when a writer is slow it waits briefly, and when that writer stays slow (the
//! database is away) it pauses the writer's partitions and goes on polling.

mod pressure;
mod records;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::claims::Claim;
use super::context::Rebalance;
use super::{Assignments, Consumer, Positions};
use crate::engine::BusyClock;
use crate::metrics::Metrics;
use crate::slot::Slot;
use crate::status::Status;

pub use records::RecordPolicy;

/// How long to wait for records before looking at everything else again.
const POLL: Duration = Duration::from_millis(50);
/// How often Kafka is told the offsets.
const HINT_INTERVAL: Duration = Duration::from_millis(250);
/// While records come without a pause, the clock is read once for so many of them.
const RECORDS_BETWEEN_LOOKS: u32 = 64;
/// A partition that Kafka did not let begin is taken over again after this time.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// What others ask of the reading thread.
#[derive(Debug)]
pub enum Control {
    /// A partition's offset is known: begin.
    Claimed {
        /// The partition.
        partition: i32,
        /// The assignment for which it was claimed.
        generation: u64,
        /// Where to begin.
        offset: i64,
    },
    /// A writer found that somebody else moved the partition: read the offset again.
    Fenced {
        /// The partition.
        partition: i32,
        /// The assignment that was fenced.
        generation: u64,
    },
    /// The topic is another one of the same name: read all offsets again.
    Recreated,
}

/// The reading thread's belongings.
pub struct Reader {
    /// The client.
    pub consumer: Arc<Consumer>,
    /// The topic.
    pub topic: Arc<str>,
    /// One slot per writer.
    pub slots: Arc<[Slot]>,
    /// To the task that finds out where partitions begin.
    pub claims: UnboundedSender<Claim>,
    /// From that task and from the writers.
    pub control: Receiver<Control>,
    /// Current generations, shared with the claims.
    pub assignments: Arc<Assignments>,
    /// Stored offsets, shared with the writers.
    pub positions: Arc<Positions>,
    /// How records are read.
    pub policy: RecordPolicy,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What readiness knows.
    pub status: Arc<Status>,
    /// How much of the time the engine is at work.
    pub busy: Arc<BusyClock>,
    /// When to stop.
    pub shutdown: CancellationToken,
    /// Partitions of the present assignment.
    pub partitions: HashMap<i32, Assigned>,
    /// The last generation given out.
    pub generation: u64,
    /// Slots that have no room, whose partitions are paused.
    pub paused: BTreeSet<usize>,
    /// Whether the topic could not be read lately.
    pub unreadable: bool,
}

/// A partition of the present assignment.
#[derive(Clone, Copy, Debug)]
pub struct Assigned {
    generation: u64,
    reading: bool,
    /// Whose writer's it is.
    slot: usize,
}

/// The reading thread ended because librdkafka cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Subscribing was refused.
    #[error("failed to subscribe to `{0}`: {1}")]
    Subscribe(Arc<str>, KafkaError),
    /// A fatal error of the client.
    #[error("the Kafka client cannot go on: {0}")]
    Fatal(KafkaError),
}

impl Reader {
    /// Reads until told to stop.
    ///
    /// # Errors
    /// The Kafka client is in a state that only a new process gets out of.
    pub fn run(&mut self) -> Result<(), ReadError> {
        self.consumer
            .subscribe(&[&*self.topic])
            .map_err(|error| ReadError::Subscribe(Arc::clone(&self.topic), error))?;
        let consumer = Arc::clone(&self.consumer);
        let mut headers = Vec::new();
        let (mut hinted, mut unlooked) = (Instant::now(), 0_u32);
        while !self.shutdown.is_cancelled() {
            unlooked += 1;
            // Waiting for records is the only idle time; a record that is already here costs no clock reading.
            let polled = consumer.poll(Duration::ZERO).or_else(|| {
                unlooked = RECORDS_BETWEEN_LOOKS;
                let waiting = Instant::now();
                let polled = consumer.poll(POLL);
                self.busy.waited(self.wait(), waiting.elapsed());
                polled
            });
            match polled {
                Some(Ok(message)) => self.take_in(&message, &mut headers),
                Some(Err(error)) => self.failed(error)?,
                None => {}
            }
            self.serve();
            if unlooked < RECORDS_BETWEEN_LOOKS {
                continue;
            }
            unlooked = 0;
            self.resume();
            if hinted.elapsed() >= HINT_INTERVAL {
                self.commit_hints(CommitMode::Async);
                self.busy.tick(&self.metrics);
                hinted = Instant::now();
            }
        }
        Ok(())
    }

    /// Tells Kafka the last offsets and leaves the group. Call it when the writers have finished.
    pub fn close(self) {
        self.commit_hints(CommitMode::Sync);
        self.consumer.context().close();
        // Dropping the last reference gives the partitions back and leaves the group.
    }

    fn serve(&mut self) {
        while let Some(rebalance) = self.consumer.context().next_rebalance() {
            match rebalance {
                Rebalance::Assign(partitions) => self.assign(&partitions),
                Rebalance::Revoke(partitions) => self.revoke(&partitions),
            }
        }
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::Claimed { partition, generation, offset } => {
                    self.begin(partition, generation, offset);
                }
                Control::Fenced { partition, generation } => self.fenced(partition, generation),
                Control::Recreated => {
                    let all: Vec<i32> = self.partitions.keys().copied().collect();
                    self.take_over_again(&all);
                }
            }
        }
    }

    /// The group gave us partitions. Nothing is fetched before their offsets are read from PostgreSQL: the client is
    /// told that the assignment is empty for now, which lets the rebalance end.
    fn assign(&mut self, partitions: &[i32]) {
        tracing::info!(?partitions, "Partitions assigned");
        if let Err(error) = self.consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "Kafka refused the assignment");
        }
        for &partition in partitions {
            self.claim(partition, Instant::now());
        }
        self.even_out();
        self.status.joined();
        self.metrics.rebalanced("assigned", self.partitions.len());
    }

    fn claim(&mut self, partition: i32, due: Instant) {
        self.generation += 1;
        let generation = self.generation;
        let slot = self.slot_for(partition);
        self.partitions.insert(partition, Assigned { generation, reading: false, slot });
        self.assignments.set(partition, generation);
        // The receiver lives as long as this thread.
        let _ = self.claims.send(Claim { partition, generation, due });
    }

    fn begin(&mut self, partition: i32, generation: u64, offset: i64) {
        let Some(assigned) =
            self.partitions.get_mut(&partition).filter(|assigned| assigned.generation == generation)
        else {
            return;
        };
        if let Err(error) = self.consumer.incremental_assign(&list(&self.topic, [(partition, Some(offset))]))
        {
            tracing::warn!(partition, %error, "Kafka refused to begin the partition; asking again");
            return self.claim(partition, Instant::now() + BEGIN_AGAIN);
        }
        assigned.reading = true;
        let slot = assigned.slot;
        self.slots[slot].begin(partition, generation, offset);
        self.positions.set(partition, offset);
        // The client remembers a pause beyond the end of an assignment.
        self.set_paused([partition], self.paused.contains(&slot));
        tracing::info!(partition, offset, "Reading the partition");
    }

    fn fenced(&mut self, partition: i32, generation: u64) {
        let current = self.partitions.get(&partition).copied();
        if current.is_some_and(|assigned| assigned.generation == generation) {
            self.take_over_again(&[partition]);
        }
    }

    fn take_over_again(&mut self, partitions: &[i32]) {
        self.stop_reading(partitions);
        for &partition in partitions {
            self.claim(partition, Instant::now());
        }
    }

    fn revoke(&mut self, partitions: &[i32]) {
        tracing::info!(?partitions, lost = self.consumer.assignment_lost(), "Partitions revoked");
        self.commit_hints(CommitMode::Async);
        if !self.stop_reading(partitions) {
            // The client waits for this call even when it never fetched any of them.
            if let Err(error) = self.consumer.incremental_unassign(&TopicPartitionList::new()) {
                tracing::warn!(%error, "Kafka refused the revocation");
            }
        }
        for partition in partitions {
            self.partitions.remove(partition);
            self.assignments.remove(*partition);
            self.status.gap_closed(*partition);
            self.metrics.waiting(*partition, false);
        }
        self.metrics.rebalanced("revoked", self.partitions.len());
    }

    /// Ends fetching of those partitions that are fetched, and forgets what is buffered for them; says whether there
    /// were any. A transaction that is under way may still commit: its offsets move with its rows.
    fn stop_reading(&mut self, partitions: &[i32]) -> bool {
        let slot = |partition: &i32| {
            self.partitions.get(partition).filter(|assigned| assigned.reading).map(|assigned| assigned.slot)
        };
        let reading: Vec<(i32, usize)> =
            partitions.iter().filter_map(|partition| Some((*partition, slot(partition)?))).collect();
        for &(partition, slot) in &reading {
            self.slots[slot].end(partition);
            self.positions.remove(partition);
            self.metrics.forget_position(partition);
        }
        if reading.is_empty() {
            return false;
        }
        let list = list(&self.topic, reading.into_iter().map(|(partition, _)| (partition, None)));
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::warn!(%error, "Kafka refused to end partitions");
        }
        true
    }

    fn take_in(&mut self, message: &BorrowedMessage<'_>, headers: &mut Vec<u8>) {
        if std::mem::take(&mut self.unreadable) {
            self.status.topic_readable();
        }
        if let Some(full) = self.accept(message, headers) {
            self.wait_for_room(full);
        }
    }

    fn failed(&mut self, error: KafkaError) -> Result<(), ReadError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                let reason =
                    format!("the topic `{}` does not exist; create it or correct KAFKA_TOPIC", self.topic);
                tracing::warn!("{reason}");
                self.unreadable(reason);
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                tracing::error!(%error, "Kafka refuses access; allow this user Read on the topic and on the group");
                self.unreadable(format!(
                    "Kafka refuses access to the topic or the group: {error}; allow this user Read on the topic `{}`",
                    self.topic
                ));
            }
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {
                tracing::error!(%error, "Kafka refuses access; allow this user Read on the topic and on the group");
                self.status.not_joined(format!("Kafka refuses access to the topic or the group: {error}"));
            }
            // The error does not say for which partition: look at all of them again.
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                tracing::warn!(%error, "A position is outside of its log; reading all offsets again");
                let reading = self.partitions.iter().filter(|(_, assigned)| assigned.reading);
                let reading: Vec<i32> = reading.map(|(partition, _)| *partition).collect();
                self.take_over_again(&reading);
            }
            Some(RDKafkaErrorCode::PollExceeded) => {
                tracing::warn!(
                    "This process did not poll for longer than max.poll.interval.ms and left the group; joining again"
                );
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                return Err(ReadError::Fatal(error));
            }
            _ => tracing::warn!(%error, "Kafka"),
        }
        Ok(())
    }

    /// librdkafka says it once, whatever becomes of the topic.
    fn unreadable(&mut self, reason: String) {
        self.unreadable = true;
        self.status.topic_unreadable(reason);
    }

    fn commit_hints(&self, mode: CommitMode) {
        let news = self.positions.take_untold(Instant::now());
        if news.is_empty() {
            return;
        }
        let list = list(&self.topic, news.into_iter().map(|(partition, offset)| (partition, Some(offset))));
        if let Err(error) = self.consumer.commit(&list, mode) {
            tracing::debug!(%error, "Kafka did not take the committed offsets");
        }
    }
}

fn list(topic: &str, partitions: impl IntoIterator<Item = (i32, Option<i64>)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in partitions {
        let mut element = list.add_partition(topic, partition);
        if let Some(offset) = offset {
            // Only a negative offset that is none of Kafka's special ones is refused; ours are never negative.
            let _ = element.set_offset(Offset::Offset(offset));
        }
    }
    list
}
