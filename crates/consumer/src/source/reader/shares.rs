//! Which writer gets which partition: each as many as any other, whatever the partitions' numbers. A group that hands out
//! partitions in turn gives a member every second one, and by the number alone one writer would get them all.

use std::collections::HashMap;

use super::{Assigned, Reader};

/// The slot that fewest of these partitions have; the first of several.
fn lightest(slots: usize, taken: impl Iterator<Item = usize>) -> usize {
    let counts = counts(slots, taken);
    (0..slots).min_by_key(|slot| counts[*slot]).unwrap_or(0)
}

/// A partition to move, if one slot has at least two more than another: then moving it makes the shares more even.
fn misplaced(slots: usize, partitions: &HashMap<i32, Assigned>) -> Option<i32> {
    let counts = counts(slots, partitions.values().map(|assigned| assigned.slot));
    let least = counts.iter().min()?;
    let (most, count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
    let of_most = partitions.iter().filter(|(_, assigned)| assigned.slot == most);
    of_most.map(|(partition, _)| *partition).min().filter(|_| *count >= least + 2)
}

fn counts(slots: usize, taken: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut counts = vec![0; slots];
    taken.for_each(|slot| counts[slot] += 1);
    counts
}

impl Reader {
    /// The slot for a partition that is about to be taken over.
    pub(super) fn slot_for(&self, partition: i32) -> usize {
        let others = self.partitions.iter().filter(|(other, _)| **other != partition);
        lightest(self.slots.len(), others.map(|(_, assigned)| assigned.slot))
    }

    /// Moves partitions between the writers when a rebalance has left some of them with fewer. Each is taken over again, as if
    /// it had just been assigned, which costs one question to the database.
    pub(super) fn even_out(&mut self) {
        while let Some(partition) = misplaced(self.slots.len(), &self.partitions) {
            tracing::debug!(partition, "Another writer has less to do and takes the partition over");
            self.take_over_again(&[partition]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_go_where_fewest_are() {
        let cases: [(usize, &[usize], usize); 5] =
            [(1, &[0, 0], 0), (2, &[], 0), (2, &[0], 1), (2, &[0, 1, 1], 0), (3, &[2, 0, 0, 1], 1)];
        for (slots, taken, expected) in cases {
            assert_eq!(lightest(slots, taken.iter().copied()), expected, "{taken:?}");
        }
    }

    #[test]
    fn one_is_moved_only_where_that_makes_the_shares_more_even() {
        /// Partitions, each with its slot.
        type Placed<'a> = &'a [(i32, usize)];
        let cases: [(usize, Placed<'_>, Option<i32>); 6] = [
            (2, &[], None),
            (1, &[(0, 0), (1, 0)], None),
            (2, &[(4, 0)], None),
            (2, &[(4, 0), (6, 1), (8, 0)], None),
            (2, &[(4, 1), (6, 1)], Some(4)),
            (3, &[(0, 0), (1, 1), (3, 0), (4, 1)], Some(1)),
        ];
        for (slots, placed, expected) in cases {
            let assigned = |slot| Assigned { generation: 1, reading: true, slot };
            let partitions = placed.iter().map(|(partition, slot)| (*partition, assigned(*slot))).collect();
            assert_eq!(misplaced(slots, &partitions), expected, "{placed:?}");
        }
    }
}
