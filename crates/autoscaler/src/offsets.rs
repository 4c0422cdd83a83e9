//! From raw offsets to lag that can be trusted.

use std::collections::BTreeMap;

use crate::state::PartitionMemory;
use crate::{CommittedOffset, Observation, PartitionObservation, Policy, StartFrom, State};

/// Offsets of one partition that make sense together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) partition: i32,
    pub(crate) end: i64,
    /// Where consumption stands or would start.
    pub(crate) position: i64,
    /// False while the group has not committed here and there has been something to consume: sleeping now
    /// could lose the place.
    pub(crate) pinned: bool,
    pub(crate) lag_seconds: Option<f64>,
}

impl Reading {
    pub(crate) fn lag(&self) -> u64 {
        self.end.abs_diff(self.position)
    }
}

/// All partitions of the topic, divided into those that are known and those that are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Readings {
    /// Partitions of the topic; `None` if its metadata could not be read.
    pub(crate) count: Option<u32>,
    /// Ascending by partition.
    pub(crate) known: Vec<Reading>,
    /// Ascending.
    pub(crate) unknown: Vec<i32>,
}

impl Readings {
    /// True if the lag of every partition is known.
    pub(crate) fn complete(&self) -> bool {
        self.count.is_some_and(|count| count > 0) && self.unknown.is_empty()
    }
}

/// Divides an observation into what is known and what is not. A partition that the topic has and the
/// observation has not is unknown; so is one whose offsets contradict each other or went backwards, until the
/// next observation (the topic was made anew, or the answer came from a replica that is behind).
pub(crate) fn read(state: &State, observation: &Observation, policy: &Policy) -> Readings {
    let Some(count) = observation.partition_count else {
        return Readings::default();
    };
    let observed: BTreeMap<i32, &PartitionObservation> =
        observation.partitions.iter().map(|partition| (partition.partition, partition)).collect();
    let mut readings = Readings { count: Some(count), ..Readings::default() };
    for id in 0..i32::try_from(count).unwrap_or(i32::MAX) {
        let reading = observed.get(&id).and_then(|partition| sane(partition, policy));
        match reading {
            Some(reading) if !went_back(&reading, state.partitions.get(&id)) => readings.known.push(reading),
            _ => readings.unknown.push(id),
        }
    }
    readings
}

fn sane(partition: &PartitionObservation, policy: &Policy) -> Option<Reading> {
    let end = partition.log_end?;
    let (position, pinned) = match partition.committed {
        CommittedOffset::Unknown => return None,
        // Records below the log start are gone; they cannot be consumed, so they are not lag.
        CommittedOffset::At(offset) => (offset.max(partition.log_start.unwrap_or(offset)), true),
        CommittedOffset::Never => match policy.start_from {
            StartFrom::Earliest => (partition.log_start?, true),
            StartFrom::Latest => (end, partition.log_start == Some(end)),
        },
    };
    let lag_seconds = partition.lag_seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    (position <= end && end >= 0 && position >= 0).then_some(Reading {
        partition: partition.partition,
        end,
        position,
        pinned,
        lag_seconds,
    })
}

fn went_back(reading: &Reading, memory: Option<&PartitionMemory>) -> bool {
    memory.is_some_and(|memory| reading.end < memory.end)
}

/// Log ends that went backwards: what was remembered of these partitions is about another log.
pub(crate) fn restarted(state: &State, observation: &Observation) -> Vec<i32> {
    let back = |partition: &&PartitionObservation| {
        let memory = state.partitions.get(&partition.partition);
        partition.log_end.zip(memory).is_some_and(|(end, memory)| end < memory.end)
    };
    observation.partitions.iter().filter(back).map(|partition| partition.partition).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn observed(committed: CommittedOffset, log_start: Option<i64>, log_end: Option<i64>) -> Observation {
        let partition =
            PartitionObservation { partition: 0, log_start, log_end, committed, lag_seconds: None };
        Observation { partition_count: Some(1), partitions: Arc::new([partition]), ..Observation::default() }
    }

    /// The matrix of issue items 11 to 13: what is lag, what is unknown, and what must not be slept over.
    #[test]
    fn lag_follows_from_offsets_or_is_unknown() {
        use CommittedOffset::{At, Never, Unknown};
        use StartFrom::{Earliest, Latest};
        let cases = [
            (Earliest, At(40), None, Some(100), Some((60, true)), "plain lag"),
            (Earliest, At(100), None, Some(100), Some((0, true)), "no lag"),
            (Earliest, Unknown, Some(0), Some(100), None, "commit unreadable"),
            (Earliest, At(40), None, None, None, "log end unreadable"),
            (Earliest, At(140), None, Some(100), None, "commit beyond the end"),
            (Earliest, At(40), Some(70), Some(100), Some((30, true)), "retention has passed the commit"),
            (Earliest, Never, Some(70), Some(100), Some((30, true)), "never committed, earliest"),
            (Earliest, Never, None, Some(100), None, "never committed, earliest, start unreadable"),
            (Latest, Never, Some(70), Some(100), Some((0, false)), "never committed, latest: not idle"),
            (Latest, Never, None, Some(100), Some((0, false)), "never committed, latest, start unreadable"),
            (Latest, Never, Some(0), Some(0), Some((0, true)), "never committed, empty"),
        ];
        for (start_from, committed, start, end, expected, name) in cases {
            let policy = Policy { start_from, ..Policy::default() };
            let readings = read(&State::default(), &observed(committed, start, end), &policy);
            let seen = readings.known.first().map(|reading| (reading.lag(), reading.pinned));
            assert_eq!(seen, expected, "{name}");
            assert_eq!(readings.complete(), expected.is_some(), "{name}");
        }
    }

    #[test]
    fn a_partition_that_is_missing_from_the_answer_is_unknown() {
        let mut observation = observed(CommittedOffset::At(1), None, Some(1));
        observation.partition_count = Some(3);
        let readings = read(&State::default(), &observation, &Policy::default());
        assert_eq!(readings.unknown, vec![1, 2]);
        assert!(!readings.complete());
    }

    #[test]
    fn a_log_that_begins_anew_is_unknown_until_it_has_been_seen_twice() {
        let mut state = State::default();
        state.partitions.insert(0, PartitionMemory { end: 500, ..PartitionMemory::default() });
        let observation = observed(CommittedOffset::At(10), None, Some(20));
        assert_eq!(read(&state, &observation, &Policy::default()).unknown, vec![0]);
        assert_eq!(restarted(&state, &observation), vec![0]);
    }
}
