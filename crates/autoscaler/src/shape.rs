//! How partitions are shared out, and which numbers of replicas are worth having.
//!
//! Assignors that count (range, round-robin, cooperative-sticky, the broker's uniform assignor) give every member
//! `floor(P/n)` or `ceil(P/n)` partitions. So the most loaded replica has `k = ceil(P/n)`, and of all `n` with
//! the same `k` only the smallest is worth having: candidates are `ceil(P/k)` (Druid's task-count levels).
//!
//! Which partitions will share a replica after a change follows from the assignor's rule, if what the replicas
//! have now shows one. A sticky assignment shows none; then the expected worst is the heaviest partition
//! together with `k - 1` average ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::State;

/// The numbers of replicas worth having for so many partitions, ascending: `ceil(partitions / k)` for all `k`.
pub(crate) fn levels(partitions: u32) -> Vec<u32> {
    let mut levels: Vec<u32> = Vec::new();
    let mut replicas = 1;
    while replicas <= partitions {
        levels.push(replicas);
        let share = partitions.div_ceil(replicas);
        // The smallest n whose share is smaller: ceil(P / (k - 1)).
        if share == 1 {
            break;
        }
        replicas = partitions.div_ceil(share - 1);
    }
    levels
}

/// The smallest number with the same share per replica as `replicas`.
pub(crate) fn level_of(levels: &[u32], replicas: u32) -> u32 {
    levels.iter().rev().find(|level| **level <= replicas).copied().unwrap_or(replicas)
}

/// A rule by which partitions are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pattern {
    /// One after another to the members in turn (round-robin).
    InTurn,
    /// To each member a run of neighbours (range).
    Ranges,
}

impl Pattern {
    /// Which of `replicas` members gets a partition.
    fn owner(self, partition: u32, partitions: u32, replicas: u32) -> u32 {
        match self {
            Self::InTurn => partition % replicas,
            Self::Ranges => {
                let (share, longer) = (partitions / replicas, partitions % replicas);
                let in_longer = longer * (share + 1);
                if partition < in_longer {
                    partition / (share + 1)
                } else {
                    longer + (partition - in_longer) / share.max(1)
                }
            }
        }
    }

    fn explains(self, owned: &[&Vec<i32>], partitions: u32) -> bool {
        let replicas = owned.len() as u32;
        owned.iter().all(|group| {
            let mut owners = group
                .iter()
                .filter_map(|partition| u32::try_from(*partition).ok())
                .map(|partition| self.owner(partition, partitions, replicas));
            let first = owners.next();
            owners.all(|owner| Some(owner) == first)
        })
    }
}

/// The rule that explains who has what. Where everyone has one partition, or one has all, every rule does, and
/// what is `known` stays.
pub(crate) fn recognize(owned: &[&Vec<i32>], partitions: u32, known: Option<Pattern>) -> Option<Pattern> {
    let replicas = owned.len() as u32;
    if replicas < 2 || replicas >= partitions {
        return known;
    }
    [Pattern::InTurn, Pattern::Ranges].into_iter().find(|pattern| pattern.explains(owned, partitions))
}

/// What is asked of one replica, or of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Events waiting.
    pub(crate) backlog: f64,
    /// Age of the oldest of them, in seconds.
    pub(crate) age: f64,
    /// Events arriving per second.
    pub(crate) rate: f64,
    /// The same on average over two minutes.
    pub(crate) calm: f64,
}

impl Load {
    fn add(self, other: Self) -> Self {
        Self {
            backlog: self.backlog + other.backlog,
            age: self.age.max(other.age),
            rate: self.rate + other.rate,
            calm: self.calm + other.calm,
        }
    }
}

/// Adds up the load of the partitions of one replica.
pub(crate) fn together(loads: impl IntoIterator<Item = Load>) -> Load {
    loads.into_iter().fold(Load::default(), Load::add)
}

/// The topic's partitions and how they are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) partitions: u32,
    pub(crate) pattern: Option<Pattern>,
}

impl Shape {
    /// As remembered.
    pub(crate) fn of(state: &State) -> Self {
        Self { partitions: state.partition_count.unwrap_or(0), pattern: state.pattern }
    }

    /// Numbers of replicas worth having.
    pub(crate) fn levels(self) -> Vec<u32> {
        levels(self.partitions)
    }

    /// The load to be expected at the most loaded of `replicas` replicas, by arrivals and by backlog.
    pub(crate) fn worst(self, loads: &BTreeMap<i32, Load>, replicas: u32) -> Load {
        if loads.is_empty() || replicas == 0 {
            return Load::default();
        }
        match self.pattern {
            Some(pattern) => self.worst_by_rule(pattern, loads, replicas),
            None => self.worst_expected(loads, replicas),
        }
    }

    fn worst_by_rule(self, pattern: Pattern, loads: &BTreeMap<i32, Load>, replicas: u32) -> Load {
        let replicas = replicas.min(self.partitions.max(1));
        let mut groups = vec![Load::default(); replicas as usize];
        for (partition, load) in loads {
            let owner = pattern.owner(u32::try_from(*partition).unwrap_or(0), self.partitions, replicas);
            if let Some(group) = groups.get_mut(owner as usize) {
                *group = group.add(*load);
            }
        }
        let most = |part: fn(&Load) -> f64| groups.iter().map(part).fold(0.0, f64::max);
        Load {
            backlog: most(|load| load.backlog),
            age: most(|load| load.age),
            rate: most(|load| load.rate),
            calm: most(|load| load.calm),
        }
    }

    fn worst_expected(self, loads: &BTreeMap<i32, Load>, replicas: u32) -> Load {
        let count = loads.len();
        let share = count.div_ceil(replicas as usize);
        let total = together(loads.values().copied());
        let expected = |part: fn(&Load) -> f64| {
            let heaviest = loads.values().map(part).fold(0.0, f64::max);
            let others = (count - 1).max(1) as f64;
            let drawn = (share - 1) as f64;
            let mean = (part(&total) - heaviest) / others;
            let squares: f64 = loads.values().map(|load| (part(load) - mean).powi(2)).sum();
            let variance = ((squares - (heaviest - mean).powi(2)) / others).max(0.0);
            heaviest + mean * drawn + (variance * drawn * (1.0 - drawn / others).max(0.0)).sqrt()
        };
        Load {
            backlog: expected(|load| load.backlog),
            age: total.age,
            rate: expected(|load| load.rate),
            calm: expected(|load| load.calm),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_the_distinct_values_of_ceil_partitions_over_k() {
        for partitions in 1..=300_u32 {
            let mut expected: Vec<u32> = (1..=partitions).map(|k| partitions.div_ceil(k)).collect();
            expected.reverse();
            expected.dedup();
            assert_eq!(levels(partitions), expected, "{partitions} partitions");
        }
        assert_eq!(levels(0), Vec::<u32>::new());
        let wasteful = levels(126).into_iter().any(|replicas| (43..=62).contains(&replicas));
        assert!(!wasteful, "43 to 62 replicas all share 126 partitions by threes");
    }

    fn rates(rates: &[f64]) -> BTreeMap<i32, Load> {
        let load = |rate: &f64| Load { rate: *rate, ..Load::default() };
        (0..).zip(rates.iter().map(load)).collect()
    }

    #[test]
    fn without_a_rule_the_worst_replica_has_the_heaviest_partition_and_others_by_chance() {
        let shape = Shape { partitions: 5, pattern: None };
        for (replicas, expected) in [(1, 12.0), (2, 10.0), (3, 9.0), (5, 8.0)] {
            let worst = shape.worst(&rates(&[8.0, 1.0, 1.0, 1.0, 1.0]), replicas);
            assert_eq!(worst.rate, expected, "{replicas} replicas");
        }
        let uneven = shape.worst(&rates(&[8.0, 0.0, 0.0, 2.0, 2.0]), 3).rate;
        assert!((uneven - (8.0 + 1.0 + 0.75_f64.sqrt())).abs() < 1e-9, "{uneven}");
    }

    #[test]
    fn with_a_rule_the_worst_replica_is_known() {
        let loads = rates(&[8.0, 1.0, 4.0, 1.0, 2.0]);
        let cases = [
            (Pattern::InTurn, 2, 14.0),
            (Pattern::InTurn, 3, 9.0),
            (Pattern::Ranges, 2, 13.0),
            (Pattern::Ranges, 3, 9.0),
            (Pattern::Ranges, 5, 8.0),
        ];
        for (pattern, replicas, expected) in cases {
            let shape = Shape { partitions: 5, pattern: Some(pattern) };
            assert_eq!(shape.worst(&loads, replicas).rate, expected, "{pattern:?} over {replicas}");
        }
    }

    #[test]
    fn a_rule_is_recognized_from_what_the_replicas_have() {
        let cases = [
            (vec![vec![0, 2, 4], vec![1, 3, 5]], Some(Pattern::InTurn)),
            (vec![vec![3, 4, 5], vec![0, 1, 2]], Some(Pattern::Ranges)),
            (vec![vec![0, 3, 4], vec![1, 2, 5]], None),
            (vec![vec![0, 1, 2, 3, 4, 5]], Some(Pattern::Ranges)),
        ];
        for (owned, expected) in cases {
            let owned: Vec<&Vec<i32>> = owned.iter().collect();
            assert_eq!(recognize(&owned, 6, Some(Pattern::Ranges)), expected, "{owned:?}");
        }
    }
}
