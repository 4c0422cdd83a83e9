//! Where the reading thread and one writer meet: the batch that gathers while the writer's transaction runs.
//!
//! The writer takes the batch whenever it is free, so a batch is as large as what arrived during the transaction
//! before it: small and quick at low load, large at high load, and no timer anywhere ("natural batching"). The slot
//! also knows which assignment of a partition is current; records and batches of an older one are dropped.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::batch::{Batch, Progress};
use crate::settings::BatchLimits;

/// Where a partition stands between the reading thread and its writer.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    generation: u64,
    /// The offset that will be stored when everything handed over so far is committed.
    next: i64,
}

struct State {
    batch: Batch,
    cursors: HashMap<i32, Cursor>,
}

/// The meeting place of the reading thread and one writer.
pub struct Slot {
    state: Mutex<State>,
    filled: Notify,
    taken: Condvar,
    limits: BatchLimits,
}

impl Slot {
    /// An empty slot.
    #[must_use]
    pub fn new(limits: BatchLimits) -> Self {
        let state = State { batch: Batch::with_room_for(&limits), cursors: HashMap::new() };
        Self { state: Mutex::new(state), filled: Notify::new(), taken: Condvar::new(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done by a panic in here that clearing the batch would not repair.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition begins: records from `offset` on belong to `generation`.
    pub fn begin(&self, partition: i32, generation: u64, offset: i64) {
        self.lock().cursors.insert(partition, Cursor { generation, next: offset });
    }

    /// A partition ends: what is buffered for it is dropped, what is in a transaction will not be retried.
    pub fn end(&self, partition: i32) {
        let mut state = self.lock();
        state.cursors.remove(&partition);
        state.batch.retain_partitions(|progress| progress.partition != partition);
        self.taken.notify_all();
    }

    /// Ends a partition only if it is still in that generation.
    pub fn end_generation(&self, partition: i32, generation: u64) {
        let current =
            self.lock().cursors.get(&partition).is_some_and(|cursor| cursor.generation == generation);
        if current {
            self.end(partition);
        }
    }

    /// Whether that part of a batch may still be written.
    pub fn is_current(&self, progress: &Progress) -> bool {
        self.lock()
            .cursors
            .get(&progress.partition)
            .is_some_and(|cursor| cursor.generation == progress.generation)
    }

    /// Adds one record through `add` and says whether the batch is full now. A record of a partition that is not
    /// begun, or that was handed over before, is passed over.
    pub fn push(&self, partition: i32, offset: i64, add: impl FnOnce(&mut Batch)) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(cursor) = state.cursors.get_mut(&partition).filter(|cursor| offset >= cursor.next) else {
            return false;
        };
        let was_empty = state.batch.is_empty();
        if state.batch.first_read().is_none() {
            state.batch.begin(Instant::now());
        }
        state.batch.advance(partition, cursor.generation, cursor.next, offset);
        cursor.next = offset + 1;
        add(&mut state.batch);
        let full = state.batch.is_full(&self.limits);
        drop(guard);
        if was_empty {
            self.filled.notify_one();
        }
        full
    }

    /// Whether everything up to `offset` was handed over, and nothing behind it.
    pub fn rests_at(&self, partition: i32, offset: i64) -> bool {
        self.lock().cursors.get(&partition).is_some_and(|cursor| cursor.next == offset)
    }

    /// Moves a partition from `from` to `to`, between which its log holds no record. Where the partition has moved on
    /// meanwhile this is no news and is passed over.
    pub fn pass_over(&self, partition: i32, from: i64, to: i64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(cursor) =
            state.cursors.get_mut(&partition).filter(|cursor| cursor.next == from && from < to)
        else {
            return;
        };
        state.batch.pass_over(partition, cursor.generation, from, to);
        cursor.next = to;
        drop(guard);
        self.filled.notify_one();
    }

    /// Waits until the batch has room, at most `patience`; says whether it has.
    pub fn wait_for_room(&self, patience: Duration) -> bool {
        let guard = self.lock();
        let (guard, _) = self
            .taken
            .wait_timeout_while(guard, patience, |state| state.batch.is_full(&self.limits))
            .unwrap_or_else(PoisonError::into_inner);
        !guard.batch.is_full(&self.limits)
    }

    /// Exchanges the gathered batch for `empty` and says whether it holds anything.
    pub fn take(&self, empty: &mut Batch) -> bool {
        let mut state = self.lock();
        if state.batch.is_empty() {
            return false;
        }
        std::mem::swap(&mut state.batch, empty);
        drop(state);
        self.taken.notify_all();
        true
    }

    /// Completes when something may have been added since the last [`Slot::take`].
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.lock().batch.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { max_events: 10, max_bytes: 4096 };

    fn push(slot: &Slot, partition: i32, offset: i64) -> bool {
        slot.push(partition, offset, |_| {})
    }

    #[test]
    fn consecutive_batches_of_a_partition_join_without_a_gap() {
        let slot = Slot::new(LIMITS);
        slot.begin(0, 1, 5);
        push(&slot, 0, 7);
        let mut first = Batch::default();
        assert!(slot.take(&mut first));
        push(&slot, 0, 9);
        let mut second = Batch::default();
        assert!(slot.take(&mut second));
        assert_eq!((first.progress()[0].from, first.progress()[0].to), (5, 8));
        assert_eq!((second.progress()[0].from, second.progress()[0].to), (8, 10));
        assert!(!slot.take(&mut Batch::default()));
    }

    #[test]
    fn records_of_no_or_an_older_assignment_are_passed_over() {
        let slot = Slot::new(LIMITS);
        push(&slot, 0, 7);
        assert!(slot.is_empty());
        slot.begin(0, 1, 5);
        push(&slot, 0, 4);
        assert!(slot.is_empty());
        push(&slot, 0, 5);
        let mut batch = Batch::default();
        slot.take(&mut batch);
        slot.begin(0, 2, 5);
        assert!(!slot.is_current(&batch.progress()[0]));
        slot.end_generation(0, 1);
        push(&slot, 0, 5);
        assert!(!slot.is_empty(), "ending an older generation must not touch the current one");
    }

    #[test]
    fn offsets_without_records_are_passed_over_only_where_the_partition_still_rests() {
        let slot = Slot::new(LIMITS);
        slot.begin(0, 1, 5);
        push(&slot, 0, 5);
        assert!(slot.rests_at(0, 6) && !slot.rests_at(0, 5) && !slot.rests_at(1, 6));
        slot.pass_over(0, 5, 9);
        slot.pass_over(1, 0, 9);
        slot.pass_over(0, 6, 8);
        push(&slot, 0, 8);
        let mut batch = Batch::default();
        slot.take(&mut batch);
        let progress = batch.progress();
        assert_eq!((progress.len(), progress[0].from, progress[0].to, progress[0].records), (1, 5, 9, 2));
        slot.pass_over(0, 9, 11);
        assert!(slot.take(&mut Batch::default()), "it makes a batch of its own");
    }

    #[test]
    fn ending_a_partition_makes_room() {
        let slot = Slot::new(BatchLimits { max_events: 1, max_bytes: 4096 });
        slot.begin(0, 1, 0);
        let full = slot.push(0, 0, |batch| {
            let record = crate::batch::Record {
                partition: 0,
                offset: 0,
                timestamp_millis: None,
                key: None,
                payload: None,
                headers: &[],
            };
            batch.push_dead_letter(&record, crate::dead_letter::Reason::Tombstone, String::new());
        });
        assert!(full && !slot.wait_for_room(Duration::ZERO));
        slot.end(0);
        assert!(slot.wait_for_room(Duration::ZERO));
    }
    /// Full by bytes, and all of it given back: there must be room again, or the reading thread waits for ever.
    #[test]
    fn ending_all_partitions_of_a_batch_full_by_bytes_makes_room() {
        let slot = Slot::new(BatchLimits { max_events: 100, max_bytes: 600 });
        let payload = br#"{"event_type":"a","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"s","timestamp":"2024-11-09T10:30:00Z","data":{}}"#;
        let event = crate::event::parse(payload, 4096).expect("good");
        for partition in 0..2 {
            slot.begin(partition, 1, 0);
            for offset in 0..3 {
                let record = crate::batch::Record {
                    partition,
                    offset,
                    timestamp_millis: None,
                    key: None,
                    payload: Some(payload),
                    headers: &[],
                };
                slot.push(partition, offset, |batch| batch.push_event(&record, &event, [0; 16]));
            }
        }
        assert!(!slot.wait_for_room(Duration::ZERO));
        slot.end(0);
        slot.end(1);
        assert!(slot.wait_for_room(Duration::ZERO) && slot.is_empty());
        slot.begin(0, 2, 0);
        assert!(!push(&slot, 0, 0), "one record does not fill it");
        assert!(slot.take(&mut Batch::default()));
    }
}
