//! Backpressure: what happens to partitions whose writer does not take its batch.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;

use super::{Reader, list};
use crate::engine::Wait;

/// How long to wait for a slow writer before pausing its partitions. At full speed a batch is taken sooner, and a pause
/// costs: the client drops what it has fetched already.
const PATIENCE: Duration = Duration::from_secs(1);

impl Reader {
    /// What the reading thread waits for when no record comes.
    pub(super) fn wait(&self) -> Wait {
        match (self.paused.is_empty(), self.status.is_sink_up()) {
            (true, _) => Wait::Records,
            (false, true) => Wait::Database,
            (false, false) => Wait::AbsentDatabase,
        }
    }

    /// Waits until the writer has taken the batch of this full slot, and pauses its partitions when that takes too long:
    /// other writers have work to do, and the group wants to be polled.
    pub(super) fn wait_for_room(&mut self, slot: usize) {
        // A record that was on its way when its partition was paused: the client counts it as delivered.
        if self.paused.contains(&slot) {
            return;
        }
        let waiting = Instant::now();
        let has_room = self.slots[slot].wait_for_room(PATIENCE);
        self.busy.waited(Wait::Database, waiting.elapsed());
        if has_room || self.shutdown.is_cancelled() {
            return;
        }
        self.paused.insert(slot);
        let partitions = self.partitions_of(slot);
        tracing::warn!(?partitions, "The database does not keep up; pausing these partitions until it does");
        self.set_paused(partitions, true);
    }

    /// Goes on with the partitions of slots that have room again.
    pub(super) fn resume(&mut self) {
        if self.paused.is_empty() {
            return;
        }
        let has_room = |slot: &usize| self.slots[*slot].wait_for_room(Duration::ZERO);
        let roomy: Vec<usize> = self.paused.iter().copied().filter(has_room).collect();
        for slot in roomy {
            self.paused.remove(&slot);
            let partitions = self.partitions_of(slot);
            tracing::info!(?partitions, "The database keeps up again; resuming");
            self.set_paused(partitions, false);
        }
    }

    /// Partitions of this slot that are fetched.
    fn partitions_of(&self, slot: usize) -> Vec<i32> {
        let fetched =
            self.partitions.iter().filter(|(_, assigned)| assigned.reading && assigned.slot == slot);
        fetched.map(|(partition, _)| *partition).collect()
    }

    pub(super) fn set_paused(&self, partitions: impl IntoIterator<Item = i32>, paused: bool) {
        let list = list(&self.topic, partitions.into_iter().map(|partition| (partition, None)));
        let result = if paused { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
        if let Err(error) = result {
            tracing::warn!(%error, paused, "Kafka refused to pause or resume");
        }
    }
}
