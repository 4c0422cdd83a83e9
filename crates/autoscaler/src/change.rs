//! What an observation adds to the one before it: a recording holds little more than what has changed.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{CommittedOffset, ConsumerObservation, Observation, PartitionObservation, ReplicaObservation};

/// The difference between two observations; a part that is absent is as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Change {
    time: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replicas: Option<ReplicaObservation>,
    /// The number of partitions, in a list of one so that "not known" can be told from "as it was".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partition_count: Option<[Option<u32>; 1]>,
    /// All partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    partitions: Option<Vec<Row>>,
    /// Those of the same partitions that have changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    moved: Vec<Row>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consumers: Option<Vec<ConsumerObservation>>,
}

/// One partition: its number, log start, log end, committed offset, and the age of its oldest event.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Row(i32, Option<i64>, Option<i64>, Committed, Option<f64>);

/// The offset, or a word.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Committed {
    At(i64),
    Word(Word),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Never,
    Unknown,
}

impl Change {
    /// What has to be told of `after` to somebody who knows `before`.
    pub(crate) fn between(before: &Observation, after: &Observation) -> Self {
        let numbers = |observation: &Observation| -> Vec<i32> {
            observation.partitions.iter().map(|partition| partition.partition).collect()
        };
        let same_partitions = numbers(before) == numbers(after);
        let pairs = before.partitions.iter().zip(after.partitions.iter()).filter(|_| same_partitions);
        Self {
            time: after.time,
            replicas: (before.replicas != after.replicas).then(|| after.replicas.clone()),
            partition_count: (before.partition_count != after.partition_count)
                .then_some([after.partition_count]),
            partitions: (!same_partitions).then(|| after.partitions.iter().map(Row::from).collect()),
            moved: pairs.filter(|(old, new)| old != new).map(|(_, new)| Row::from(new)).collect(),
            consumers: (before.consumers != after.consumers).then(|| after.consumers.clone()),
        }
    }

    /// Makes the observation before into the one after.
    pub(crate) fn apply(self, observation: &mut Observation) {
        observation.time = self.time;
        observation.replicas = self.replicas.unwrap_or_else(|| observation.replicas.clone());
        if let Some([count]) = self.partition_count {
            observation.partition_count = count;
        }
        if let Some(partitions) = self.partitions {
            observation.partitions = partitions.into_iter().map(PartitionObservation::from).collect();
        }
        for moved in self.moved.into_iter().map(PartitionObservation::from) {
            let place = Arc::make_mut(&mut observation.partitions)
                .iter_mut()
                .find(|old| old.partition == moved.partition);
            place.into_iter().for_each(|place| *place = moved);
        }
        if let Some(consumers) = self.consumers {
            observation.consumers = consumers;
        }
    }
}

impl From<&PartitionObservation> for Row {
    fn from(partition: &PartitionObservation) -> Self {
        let committed = match partition.committed {
            CommittedOffset::At(offset) => Committed::At(offset),
            CommittedOffset::Never => Committed::Word(Word::Never),
            CommittedOffset::Unknown => Committed::Word(Word::Unknown),
        };
        Self(partition.partition, partition.log_start, partition.log_end, committed, partition.lag_seconds)
    }
}

impl From<Row> for PartitionObservation {
    fn from(Row(partition, log_start, log_end, committed, lag_seconds): Row) -> Self {
        let committed = match committed {
            Committed::At(offset) => CommittedOffset::At(offset),
            Committed::Word(Word::Never) => CommittedOffset::Never,
            Committed::Word(Word::Unknown) => CommittedOffset::Unknown,
        };
        Self { partition, log_start, log_end, committed, lag_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(partition: i32, end: i64, committed: CommittedOffset) -> PartitionObservation {
        PartitionObservation {
            partition,
            log_start: Some(0),
            log_end: Some(end),
            committed,
            lag_seconds: Some(0.1),
        }
    }

    fn seen(time: f64, count: Option<u32>, partitions: Vec<PartitionObservation>) -> Observation {
        Observation { time, partition_count: count, partitions: partitions.into(), ..Observation::default() }
    }

    #[test]
    fn every_change_leads_to_the_same_observation_again() {
        use CommittedOffset::{At, Never, Unknown};
        let busy = ConsumerObservation {
            name: "a".to_owned(),
            busy: Some(0.1 + 0.2),
            processed_rate: None,
            partitions: Some(vec![0]),
        };
        let course = [
            Observation::default(),
            seen(1.5, Some(2), vec![partition(0, 5, At(5)), partition(1, 7, Never)]),
            seen(2.5, Some(2), vec![partition(0, 5, At(5)), partition(1, 7, Never)]),
            seen(3.5, Some(2), vec![partition(0, 5, At(5)), partition(1, 9, At(7))]),
            seen(4.5, Some(2), vec![partition(1, 9, At(7)), partition(0, 5, Unknown)]),
            seen(5.5, None, vec![]),
            Observation { consumers: vec![busy], ..seen(6.5, Some(1), vec![partition(0, 1, At(-1))]) },
            Observation {
                replicas: ReplicaObservation { spec: 3, group_members: Some(2), ..Default::default() },
                ..seen(7.5, Some(1), vec![partition(0, 1, At(-1))])
            },
        ];
        let mut told = Observation::default();
        for pair in course.windows(2) {
            let text = serde_json::to_string(&Change::between(&pair[0], &pair[1])).unwrap();
            serde_json::from_str::<Change>(&text).unwrap().apply(&mut told);
            assert_eq!(told, pair[1], "{text}");
        }
    }

    /// A thousand idle pipelines are recorded all the time.
    #[test]
    fn nothing_new_is_told_in_a_few_bytes() {
        let partitions: Vec<_> = (0..12).map(|number| partition(number, 5, CommittedOffset::At(5))).collect();
        let change =
            Change::between(&seen(1.5, Some(12), partitions.clone()), &seen(2.5, Some(12), partitions));
        assert_eq!(serde_json::to_string(&change).unwrap(), r#"{"time":2.5}"#);
    }
}
