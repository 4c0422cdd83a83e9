//! How partitions are shared out, and which numbers of replicas are worth having.
//!
//! Assignors that count (cooperative-sticky, round-robin, the broker's uniform assignor) give every member
//! `floor(P/n)` or `ceil(P/n)` partitions. So the most loaded replica has `k = ceil(P/n)`, and of all `n` with
//! the same `k` only the smallest is worth having: candidates are `ceil(P/k)` (Druid's task-count levels).
//! Which partitions will share a replica after a change cannot be told beforehand; the expected worst is the
//! heaviest partition together with `k - 1` average ones.

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

/// What is asked of one replica, or of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Events waiting.
    pub(crate) backlog: f64,
    /// Age of the oldest of them, in seconds.
    pub(crate) age: f64,
    /// Events arriving per second.
    pub(crate) rate: f64,
}

impl Load {
    fn add(self, other: Self) -> Self {
        Self {
            backlog: self.backlog + other.backlog,
            age: self.age.max(other.age),
            rate: self.rate + other.rate,
        }
    }
}

/// Adds up the load of the partitions of one replica.
pub(crate) fn together(loads: impl IntoIterator<Item = Load>) -> Load {
    loads.into_iter().fold(Load::default(), Load::add)
}

/// The load to be expected at the most loaded of `replicas` replicas, by arrivals and by backlog: the worst in
/// either respect is the partition that is heaviest in it and `k - 1` average others.
pub(crate) fn worst(loads: &[Load], replicas: u32) -> Load {
    let count = loads.len();
    if count == 0 || replicas == 0 {
        return Load::default();
    }
    let share = count.div_ceil(replicas as usize);
    let total = together(loads.iter().copied());
    let expected = |heaviest: f64, sum: f64| {
        if count == 1 {
            heaviest
        } else {
            heaviest + (sum - heaviest) / (count - 1) as f64 * (share - 1) as f64
        }
    };
    let heaviest = |part: fn(&Load) -> f64| loads.iter().map(part).fold(0.0, f64::max);
    Load {
        backlog: expected(heaviest(|load| load.backlog), total.backlog),
        age: total.age,
        rate: expected(heaviest(|load| load.rate), total.rate),
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
        assert!(
            !levels(126).iter().any(|replicas| (43..=62).contains(replicas)),
            "all of them share by threes"
        );
    }

    #[test]
    fn the_worst_replica_has_the_heaviest_partition_and_average_others() {
        let rates = [8.0, 1.0, 1.0, 1.0, 1.0];
        let loads: Vec<Load> = rates.iter().map(|rate| Load { rate: *rate, ..Load::default() }).collect();
        let cases = [(1, 12.0), (2, 10.0), (3, 9.0), (5, 8.0)];
        for (replicas, expected) in cases {
            assert_eq!(worst(&loads, replicas).rate, expected, "{replicas} replicas");
        }
    }
}
