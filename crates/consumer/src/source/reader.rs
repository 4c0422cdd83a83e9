//! The reading thread: polls Kafka, parses records into the writers' slots, and carries out the group's rebalances.
//!
//! It is an ordinary thread because librdkafka's `poll` blocks. What it must never do is stop polling: a member that
//! does not poll leaves the group. So when the writers are slow it waits briefly, and when they stay slow (the
//! database is away) it pauses all partitions and goes on polling an empty queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::claims::Claim;
use super::context::Rebalance;
use super::{Assignments, Consumer, Positions};
use crate::batch::{Record, encode_headers};
use crate::dead_letter::Reason;
use crate::engine::BusyClock;
use crate::event::{self, event_key, key_source};
use crate::metrics::Metrics;
use crate::settings::{Deduplication, Tombstones};
use crate::slot::Slot;
use crate::status::Status;

/// How long to wait for records before looking at everything else again.
const POLL: Duration = Duration::from_millis(50);
/// How long to wait for a slow writer before pausing the partitions.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often Kafka is told the offsets.
const HINT_INTERVAL: Duration = Duration::from_millis(250);
/// While records come without a pause, the clock is read once for so many of them.
const RECORDS_BETWEEN_LOOKS: u32 = 64;

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
}

/// How records are read.
pub struct RecordPolicy {
    /// How an event is recognised as seen before.
    pub deduplication: Deduplication,
    /// What happens to a record without a value.
    pub tombstones: Tombstones,
    /// Largest value in bytes.
    pub event_max_bytes: usize,
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
}

/// A partition of the present assignment.
#[derive(Clone, Copy, Debug)]
pub struct Assigned {
    generation: u64,
    reading: bool,
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
                self.busy.waited(waiting.elapsed());
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
            if hinted.elapsed() >= HINT_INTERVAL {
                self.commit_hints(CommitMode::Async);
                self.busy.tick(&self.metrics.busy);
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
            }
        }
    }

    fn slot(&self, partition: i32) -> &Slot {
        &self.slots[partition.unsigned_abs() as usize % self.slots.len()]
    }

    /// The group gave us partitions. Nothing is fetched before their offsets are read from PostgreSQL: the client is
    /// told that the assignment is empty for now, which lets the rebalance end.
    fn assign(&mut self, partitions: &[i32]) {
        tracing::info!(?partitions, "Partitions assigned");
        if let Err(error) = self.consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "Kafka refused the assignment");
        }
        for &partition in partitions {
            self.claim(partition);
        }
        self.status.joined();
        self.metrics.rebalanced("assigned", self.partitions.len());
    }

    fn claim(&mut self, partition: i32) {
        self.generation += 1;
        let generation = self.generation;
        self.partitions.insert(partition, Assigned { generation, reading: false });
        self.assignments.set(partition, generation);
        // The receiver lives as long as this thread.
        let _ = self.claims.send((partition, generation));
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
            return self.claim(partition);
        }
        assigned.reading = true;
        self.slot(partition).begin(partition, generation, offset);
        self.positions.set(partition, offset);
        tracing::info!(partition, offset, "Reading the partition");
    }

    fn fenced(&mut self, partition: i32, generation: u64) {
        let current = self.partitions.get(&partition).copied();
        if current.is_some_and(|assigned| assigned.generation == generation) {
            self.stop_reading(&[partition]);
            self.claim(partition);
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
        let reading: Vec<i32> = partitions
            .iter()
            .copied()
            .filter(|partition| self.partitions.get(partition).is_some_and(|assigned| assigned.reading))
            .collect();
        for &partition in &reading {
            self.slot(partition).end(partition);
            self.positions.remove(partition);
            self.metrics.forget_position(partition);
        }
        if reading.is_empty() {
            return false;
        }
        let list = list(&self.topic, reading.into_iter().map(|partition| (partition, None)));
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            tracing::warn!(%error, "Kafka refused to end partitions");
        }
        true
    }

    fn take_in(&mut self, message: &BorrowedMessage<'_>, headers: &mut Vec<u8>) {
        if self.accept(message, headers) {
            self.wait_for_room(message.partition(), headers);
        }
    }

    /// Puts a record into its slot; says whether the slot is full.
    fn accept(&self, message: &BorrowedMessage<'_>, headers: &mut Vec<u8>) -> bool {
        headers.clear();
        encode_headers(super::headers::headers(message), headers);
        let record = Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_millis: message.timestamp().to_millis(),
            key: message.key(),
            payload: message.payload(),
            headers,
        };
        self.parse(&record, message)
    }

    /// Parses the record and puts it into its slot; says whether the slot is full.
    fn parse(&self, record: &Record<'_>, message: &BorrowedMessage<'_>) -> bool {
        let slot = self.slot(record.partition);
        let (partition, offset) = (record.partition, record.offset);
        let Some(payload) = record.payload.filter(|payload| !payload.is_empty()) else {
            return slot.push(partition, offset, |batch| {
                if self.policy.tombstones == Tombstones::DeadLetter {
                    batch.push_dead_letter(record, Reason::Tombstone, "the record has no value".to_owned());
                }
            });
        };
        match event::parse(payload, self.policy.event_max_bytes) {
            Ok(event) => {
                let source = key_source(&self.policy.deduplication, payload, |name| header(message, name));
                let key = event_key(&source, event.timestamp, (&self.topic, partition, offset));
                slot.push(partition, offset, |batch| batch.push_event(record, &event, key))
            }
            Err(rejection) => slot.push(partition, offset, |batch| {
                batch.push_dead_letter(record, rejection.reason, rejection.detail);
            }),
        }
    }

    /// Backpressure: waits until the writer has taken the batch, without ever ceasing to poll for long.
    fn wait_for_room(&mut self, partition: i32, headers: &mut Vec<u8>) {
        let (slots, consumer) = (Arc::clone(&self.slots), Arc::clone(&self.consumer));
        let slot = &slots[partition.unsigned_abs() as usize % slots.len()];
        if slot.wait_for_room(PATIENCE) || self.shutdown.is_cancelled() {
            return;
        }
        tracing::warn!("The database does not keep up; pausing all partitions until it does");
        self.set_paused(true);
        while !slot.wait_for_room(POLL) && !self.shutdown.is_cancelled() {
            match consumer.poll(Duration::ZERO) {
                // A record that was on its way when its partition was paused: the client counts it as delivered.
                Some(Ok(message)) => {
                    self.accept(&message, headers);
                }
                Some(Err(error)) => tracing::debug!(%error, "Kafka while paused"),
                None => {}
            }
            if !self.status.is_sink_up() {
                // Waiting for a server that is away is not work that more consumers could share.
                self.busy.waited(POLL);
            }
            self.serve();
            self.set_paused(true);
            self.commit_hints(CommitMode::Async);
            self.busy.tick(&self.metrics.busy);
        }
        self.set_paused(false);
        tracing::info!("The database keeps up again; resuming");
    }

    fn set_paused(&self, paused: bool) {
        let reading = self.partitions.iter().filter(|(_, assigned)| assigned.reading);
        let list = list(&self.topic, reading.map(|(partition, _)| (*partition, None)));
        let result = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(error) = result {
            tracing::warn!(%error, paused, "Kafka refused to pause or resume");
        }
    }

    fn failed(&mut self, error: KafkaError) -> Result<(), ReadError> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                let reason =
                    format!("the topic `{}` does not exist; create it or correct KAFKA_TOPIC", self.topic);
                tracing::warn!("{reason}");
                self.status.kafka_unreachable(reason);
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                tracing::error!(%error, "Kafka refuses access; allow this user Read on the topic and on the group");
                self.status
                    .kafka_unreachable(format!("Kafka refuses access to the topic or the group: {error}"));
            }
            // The error does not say for which partition: look at all of them again.
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                tracing::warn!(%error, "A position is outside of its log; reading all offsets again");
                let reading: Vec<i32> = self.partitions.keys().copied().collect();
                self.stop_reading(&reading);
                for partition in reading {
                    self.claim(partition);
                }
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

fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    super::headers::headers(message).find(|(found, _)| *found == name.as_bytes())?.1
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
