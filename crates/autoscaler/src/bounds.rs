//! Between which numbers a decision may lie, and whose bound it is.

use crate::shape::{level_of, levels};
use crate::{Limit, Policy};

/// The bounds that the policy and the topic set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bounds {
    /// The least, and who asks for it.
    pub(crate) floor: u32,
    pub(crate) floor_by: Limit,
    /// The most, and whose bound it is.
    pub(crate) cap: u32,
    pub(crate) cap_by: Limit,
    /// Numbers of replicas worth having for the topic, whatever the policy says.
    pub(crate) levels: Vec<u32>,
}

/// Bounds for a topic with so many partitions (`None`: not known, and then no bound).
///
/// A connection budget smaller than one replica's connections still allows one replica: a pipeline that may
/// never run is refused when it is applied, not here.
pub(crate) fn bounds(policy: &Policy, partitions: Option<u32>) -> Bounds {
    let per_replica = policy.connections_per_replica.max(1);
    let connections = policy.max_connections.map_or(u32::MAX, |budget| (budget / per_replica).max(1));
    let maximum = policy.max_replicas.unwrap_or(u32::MAX);
    let partitions = partitions.filter(|count| *count > 0);
    // Where two bounds are equal, the one that cannot be changed by configuration is named.
    let (cap, cap_by) = [
        (partitions.unwrap_or(u32::MAX), Limit::Partitions),
        (maximum, Limit::MaxReplicas),
        (connections, Limit::Connections),
    ]
    .into_iter()
    .min_by_key(|(bound, _)| *bound)
    .unwrap_or((u32::MAX, Limit::None));
    let scheduled = policy.schedule_floor.unwrap_or(0);
    let floor_by = if scheduled > policy.min_replicas { Limit::Schedule } else { Limit::MinReplicas };
    Bounds {
        floor: policy.min_replicas.max(scheduled).min(cap),
        floor_by,
        cap,
        cap_by,
        levels: levels(partitions.unwrap_or(0)),
    }
}

impl Bounds {
    /// Numbers worth having within the bounds, ascending, the floor first if it is above 0.
    pub(crate) fn candidates(&self) -> Vec<u32> {
        if self.cap == 0 {
            return Vec::new();
        }
        let least = self.floor.max(1);
        let mut candidates = vec![least];
        candidates.extend(self.levels.iter().copied().filter(|level| (least + 1..=self.cap).contains(level)));
        candidates
    }

    /// The smallest number with the same share per replica.
    pub(crate) fn level_of(&self, replicas: u32) -> u32 {
        level_of(&self.levels, replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_bound_is_named() {
        let policy = |max_replicas, max_connections, min_replicas, schedule_floor| Policy {
            max_replicas,
            max_connections,
            min_replicas,
            schedule_floor,
            connections_per_replica: 4,
            ..Policy::default()
        };
        let cases = [
            (policy(None, None, 1, None), (1, Limit::MinReplicas, 12, Limit::Partitions)),
            (policy(Some(5), None, 1, None), (1, Limit::MinReplicas, 5, Limit::MaxReplicas)),
            (policy(Some(12), None, 0, None), (0, Limit::MinReplicas, 12, Limit::Partitions)),
            (policy(Some(5), Some(15), 1, None), (1, Limit::MinReplicas, 3, Limit::Connections)),
            (policy(Some(5), Some(1), 1, None), (1, Limit::MinReplicas, 1, Limit::Connections)),
            (policy(Some(5), None, 9, None), (5, Limit::MinReplicas, 5, Limit::MaxReplicas)),
            (policy(None, None, 1, Some(4)), (4, Limit::Schedule, 12, Limit::Partitions)),
        ];
        for (policy, expected) in cases {
            let bounds = bounds(&policy, Some(12));
            assert_eq!((bounds.floor, bounds.floor_by, bounds.cap, bounds.cap_by), expected, "{policy:?}");
        }
    }

    #[test]
    fn candidates_are_levels_within_the_bounds() {
        let policy = Policy { min_replicas: 5, max_replicas: Some(20), ..Policy::default() };
        assert_eq!(bounds(&policy, Some(24)).candidates(), vec![5, 6, 8, 12]);
        assert_eq!(bounds(&policy, Some(24)).level_of(7), 6);
    }
}
