//! Kafka: the group's assignments, where each partition begins, and the thread that reads.

mod claims;
mod context;
mod end_of_partition;
mod headers;
mod properties;
mod questions;
mod quiet_ends;
mod reader;
mod repeats;
mod start;
mod topic_id;
mod trouble;

pub use claims::{Claim, Claims};
pub use context::Context;
pub use properties::{client_config, lookup_config, producer_config};
pub use questions::Questions;
pub use quiet_ends::QuietEnds;
pub use reader::{Control, ReadError, Reader, RecordPolicy};
pub use trouble::authorities;
pub(crate) use {context::log_line, headers::headers as record_headers, trouble::Trouble};

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A consumer with this product's callbacks.
pub type Consumer = rdkafka::consumer::BaseConsumer<Context>;

/// Kafka is told an offset again after this time, although it has not changed. A commit that meets a rebalance or a
/// dying coordinator fails, and rust-rdkafka sets no callback for the outcome of an asynchronous one; untold, a partition
/// without new records would show lag for ever.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// The stored offset of each partition that this process reads, as far as it knows.
///
/// PostgreSQL has the truth. From here it goes to Kafka as the group's committed offset, a hint for lag tools and for
/// the controller, and into the lag metric.
#[derive(Default)]
pub struct Positions {
    offsets: Mutex<HashMap<i32, Position>>,
}

#[derive(Clone, Copy)]
struct Position {
    offset: i64,
    /// When Kafka was last told this offset.
    told: Option<Instant>,
    log_end: Option<i64>,
    /// How often in a row everything was fetched while the offset stood before the log's end.
    quiet: u32,
}

/// A partition that was found quiet so often is looked at.
const QUIET: u32 = 2;

impl Positions {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Position>> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition's stored offset is now `offset`.
    pub fn set(&self, partition: i32, offset: i64) {
        self.lock().insert(partition, Position { offset, told: None, log_end: None, quiet: 0 });
    }

    /// The partition moved on, if it is still read here.
    pub fn advance(&self, partition: i32, offset: i64) {
        if let Some(position) = self.lock().get_mut(&partition) {
            *position = Position { offset, told: None, quiet: 0, ..*position };
        }
    }

    /// The partition is not read here any more.
    pub fn remove(&self, partition: i32) {
        self.lock().remove(&partition);
    }

    /// The end of the partition's log, as last seen.
    pub fn log_end(&self, partition: i32) -> Option<i64> {
        self.lock().get(&partition).and_then(|position| position.log_end)
    }

    /// Notes the end of the partition's log and up to where it was fetched; the lag in offsets, if the partition is read
    /// here.
    fn note_log_end(&self, partition: i32, log_end: i64, fetched: i64) -> Option<i64> {
        let mut offsets = self.lock();
        let position = offsets.get_mut(&partition)?;
        position.log_end = Some(log_end);
        let is_quiet = position.offset < log_end && log_end <= fetched;
        position.quiet = if is_quiet { position.quiet + 1 } else { 0 };
        Some((log_end - position.offset).max(0))
    }

    /// Partitions that stand before their log's end: where they stand, and that end.
    pub fn lagging(&self) -> Vec<(i32, i64, i64)> {
        let offsets = self.lock();
        let known =
            offsets.iter().filter_map(|(id, position)| Some((*id, position.offset, position.log_end?)));
        known.filter(|(_, offset, end)| offset < end).collect()
    }

    /// Any partition that is read here.
    fn any(&self) -> Option<i32> {
        self.lock().keys().next().copied()
    }

    /// Partitions that stand before their log's end for a while although everything was fetched, with their offsets.
    fn take_quiet(&self) -> Vec<(i32, i64)> {
        let mut offsets = self.lock();
        let quiet = offsets.iter_mut().filter(|(_, position)| position.quiet >= QUIET);
        quiet
            .map(|(partition, position)| {
                position.quiet = 0;
                (*partition, position.offset)
            })
            .collect()
    }

    /// Offsets that Kafka has not been told yet, or not lately; they count as told at `now`.
    fn take_untold(&self, now: Instant) -> Vec<(i32, i64)> {
        let mut offsets = self.lock();
        let is_due = |told: Option<Instant>| told.is_none_or(|told| now.duration_since(told) >= TELL_AGAIN);
        let due = offsets.iter_mut().filter(|(_, position)| is_due(position.told));
        due.map(|(partition, position)| {
            position.told = Some(now);
            (*partition, position.offset)
        })
        .collect()
    }
}

/// Which generation of each partition's assignment is current, shared with those who work on its behalf.
#[derive(Default)]
pub struct Assignments {
    generations: Mutex<HashMap<i32, u64>>,
}

impl Assignments {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, u64>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, partition: i32, generation: u64) {
        self.lock().insert(partition, generation);
    }

    fn remove(&self, partition: i32) {
        self.lock().remove(&partition);
    }

    fn is_current(&self, partition: i32, generation: u64) -> bool {
        self.lock().get(&partition) == Some(&generation)
    }

    /// Does something on behalf of an assignment, unless it is over: whoever ends it waits until that is done.
    fn if_current(&self, partition: i32, generation: u64, action: impl FnOnce()) {
        let generations = self.lock();
        if generations.get(&partition) == Some(&generation) {
            action();
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_quiet_when_nothing_moves_although_everything_was_fetched() {
        let positions = Positions::default();
        positions.set(3, 10);
        let note = |log_end, fetched| positions.note_log_end(3, log_end, fetched);
        assert_eq!(note(11, 11), Some(1));
        assert!(positions.take_quiet().is_empty(), "once may be chance");
        note(11, 11);
        assert_eq!(positions.take_quiet(), [(3, 10)]);
        assert!(positions.take_quiet().is_empty(), "asked once");
        for (log_end, fetched) in [(11, 11), (12, 11), (11, 11)] {
            note(log_end, fetched);
        }
        assert!(positions.take_quiet().is_empty(), "records are still on their way");
        assert_eq!(positions.lagging(), [(3, 10, 11)]);
        positions.advance(3, 11);
        note(11, 11);
        note(11, 11);
        assert!(positions.lagging().is_empty());
        assert!(positions.take_quiet().is_empty(), "it has arrived");
    }

    #[test]
    fn an_offset_is_told_when_it_is_new_and_again_when_time_has_passed() {
        let positions = Positions::default();
        let now = Instant::now();
        positions.set(3, 10);
        assert_eq!(positions.take_untold(now), [(3, 10)]);
        assert!(positions.take_untold(now + TELL_AGAIN / 2).is_empty());
        assert_eq!(positions.take_untold(now + TELL_AGAIN), [(3, 10)]);
        positions.advance(3, 11);
        assert_eq!(positions.take_untold(now + TELL_AGAIN), [(3, 11)]);
        positions.remove(3);
        assert!(positions.take_untold(now + TELL_AGAIN * 3).is_empty());
    }
}
