//! The consumer group: who gets which partitions, and what a rebalance costs.

use super::random::Random;

/// How a group hands out partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Everyone gives up everything and waits until all have joined (librdkafka's default: range, round-robin).
    Eager,
    /// Only the partitions that change hands stand still (KIP-429, and KIP-848).
    Cooperative,
}

impl Protocol {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Eager, Self::Cooperative];

    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Cooperative => "cooperative",
        }
    }

    /// Seconds until all members have joined.
    pub fn join_seconds(self) -> f64 {
        match self {
            Self::Eager => 6.0,
            Self::Cooperative => 3.0,
        }
    }

    /// Seconds for which a partition that changes hands stands still after that.
    pub fn move_seconds(self) -> f64 {
        match self {
            Self::Eager => 0.0,
            Self::Cooperative => 3.0,
        }
    }

    /// True if nobody consumes until all have joined.
    pub fn stops_the_world(self) -> bool {
        self == Self::Eager
    }
}

/// Hands out partitions to members that had `before`: in turn when eager; by count, with as few moves as
/// possible and no further order, when cooperative.
pub fn assign(
    protocol: Protocol,
    before: &[Vec<usize>],
    partitions: usize,
    random: &mut Random,
) -> Vec<Vec<usize>> {
    let members = before.len();
    if members == 0 {
        return Vec::new();
    }
    let mut after = vec![Vec::new(); members];
    if protocol == Protocol::Eager {
        for partition in 0..partitions {
            after[partition % members].push(partition);
        }
        return after;
    }
    // The members that have most may keep one more, if it does not come out even.
    let mut order: Vec<usize> = (0..members).collect();
    order.sort_by_key(|member| std::cmp::Reverse(before[*member].len()));
    let mut quota = vec![partitions / members; members];
    order.iter().take(partitions % members).for_each(|member| quota[*member] += 1);
    let mut owned = vec![false; partitions];
    for member in 0..members {
        let mut kept = before[member].clone();
        random.shuffle(&mut kept);
        kept.truncate(quota[member]);
        kept.iter().for_each(|partition| owned[*partition] = true);
        after[member] = kept;
    }
    let mut free: Vec<usize> = (0..partitions).filter(|partition| !owned[*partition]).collect();
    random.shuffle(&mut free);
    for member in 0..members {
        while after[member].len() < quota[member] {
            after[member].extend(free.pop());
        }
        after[member].sort_unstable();
    }
    after
}

/// Shares a budget of events over backlogs so that each gets the same, and none more than it has.
pub fn share_out(backlogs: &[f64], budget: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..backlogs.len()).collect();
    order.sort_by(|one, other| backlogs[*one].total_cmp(&backlogs[*other]));
    let mut taken = vec![0.0; backlogs.len()];
    let mut left = budget;
    for (done, index) in order.iter().enumerate() {
        let fair = left / (backlogs.len() - done) as f64;
        taken[*index] = backlogs[*index].min(fair);
        left -= taken[*index];
    }
    taken
}
