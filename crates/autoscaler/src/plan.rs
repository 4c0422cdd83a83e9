//! How many replicas: what would happen with each number worth having, and which is the least that is right.
//!
//! For each candidate the most loaded replica is followed as a fluid queue: it goes on as it is until the new
//! replicas consume, then everything pauses for a rebalance, then it works off what has gathered. What counts
//! is for how many seconds the oldest event would be older than the objective. The replicas there are stay
//! unless that figure can be made smaller by acting now: lag inside the objective is no reason to act.

use crate::fluid::{advance, drain_seconds, violation};
use crate::shape::{Load, together, worst};

/// The plan aims below the objective by this factor; the rest is for what the model does not know.
const AIM: f64 = 0.7;
/// Share of the objective up to which a virtual queue may fill.
pub(crate) const TOLERATED_SHARE: f64 = 0.5;
/// A replica is planned to be no busier than this after growing.
const UTILIZATION_GROWN: f64 = 0.92;
/// A replica may be this busy after shrinking.
const UTILIZATION_SHRUNK: f64 = 0.97;
/// Differences below this many seconds of violation do not matter.
const NEGLIGIBLE_SECONDS: f64 = 2.0;
/// How far the consequences are followed, in seconds.
const FAR_SECONDS: f64 = 7200.0;

/// What the plan is made from.
#[derive(Clone, Debug)]
pub(crate) struct Plant {
    /// Load of each partition.
    pub(crate) loads: Vec<Load>,
    /// The same, by the replicas there are, as far as is known who has what.
    pub(crate) groups: Vec<Vec<Load>>,
    /// Replicas there are.
    pub(crate) replicas: u32,
    /// Events per second that one replica handles.
    pub(crate) capacity: f64,
    /// The objective, in seconds.
    pub(crate) target: f64,
    /// Seconds until new replicas consume.
    pub(crate) delay: f64,
    /// Seconds for which a rebalance stops consumption.
    pub(crate) pause: f64,
    /// Seconds between two observations.
    pub(crate) interval: f64,
}

impl Plant {
    fn aim(&self) -> f64 {
        self.target * AIM
    }

    /// The most loaded replica of those there are.
    fn present(&self) -> Vec<Load> {
        if self.groups.is_empty() {
            vec![worst(&self.loads, self.replicas)]
        } else {
            self.groups.iter().map(|group| together(group.iter().copied())).collect()
        }
    }

    /// Share of its capacity that the most loaded replica needs for the arrivals.
    pub(crate) fn utilization(&self) -> f64 {
        self.present().iter().map(|load| load.rate).fold(0.0, f64::max) / self.capacity
    }

    /// Seconds of violation if nothing is done, within `horizon`.
    fn violation_if_kept(&self, horizon: f64) -> f64 {
        if self.replicas == 0 {
            return violation(together(self.loads.iter().copied()), 0.0, self.aim(), horizon);
        }
        let seconds = |load: &Load| violation(*load, self.capacity, self.aim(), horizon);
        self.present().iter().map(seconds).fold(0.0, f64::max)
    }

    /// The partitions' loads when new replicas begin to consume.
    fn after_delay(&self) -> Vec<Load> {
        let served = |group: &Vec<Load>, capacity: f64| {
            let before = together(group.iter().copied());
            let after = advance(before, capacity, self.delay);
            let gathered = before.backlog + before.rate * self.delay;
            let left = if gathered > 0.0 { after.backlog / gathered } else { 0.0 };
            let one = |load: &Load| Load {
                backlog: (load.backlog + load.rate * self.delay) * left,
                age: after.age,
                rate: load.rate,
            };
            group.iter().map(one).collect::<Vec<_>>()
        };
        if self.replicas == 0 {
            return served(&self.loads, 0.0);
        }
        if self.groups.is_empty() {
            // Nobody knows who has what: partitions are taken in turn.
            let mut groups = vec![Vec::new(); self.replicas as usize];
            for (index, load) in self.loads.iter().enumerate() {
                groups[index % self.replicas as usize].push(*load);
            }
            return groups.iter().flat_map(|group| served(group, self.capacity)).collect();
        }
        self.groups.iter().flat_map(|group| served(group, self.capacity)).collect()
    }

    /// The most loaded replica of `replicas` when the rebalance after a growth is over.
    fn grown(&self, delayed: &[Load], replicas: u32) -> Load {
        advance(worst(delayed, replicas), 0.0, self.pause)
    }

    /// Seconds of violation until the new replicas begin; the same for every candidate.
    fn violation_until_grown(&self) -> f64 {
        self.violation_if_kept(self.delay)
            + if self.replicas == 0 { 0.0 } else { self.pause.min(NEGLIGIBLE_SECONDS) }
    }

    /// True if the objective is violated, or will be before a later decision could still prevent it.
    pub(crate) fn is_urgent(&self) -> bool {
        let horizon = 2.0 * (self.delay + self.pause) + 4.0 * self.interval;
        self.violation_if_kept(horizon) > 0.5
    }

    /// The least candidate beyond the present number that makes the violation as short as it can be made;
    /// `None` if nothing is urgent or acting does not make it shorter. `candidates` ascend.
    pub(crate) fn growth(&self, candidates: &[u32]) -> Option<u32> {
        if !self.is_urgent() {
            return None;
        }
        let (replicas, seconds) =
            self.pick(candidates.iter().copied().filter(|replicas| *replicas > self.replicas))?;
        let acting = seconds + self.violation_until_grown() + NEGLIGIBLE_SECONDS;
        (self.violation_if_kept(FAR_SECONDS) > acting).then_some(replicas)
    }

    /// The least candidate that is right for a pipeline without any replica.
    pub(crate) fn size(&self, candidates: &[u32]) -> Option<u32> {
        self.pick(candidates.iter().copied()).map(|(replicas, _)| replicas)
    }

    /// The least candidate whose violation is as short as that of the best, and how long that is. Among equals
    /// those are preferred that keep up with some room and work off the backlog soon.
    fn pick(&self, candidates: impl Iterator<Item = u32>) -> Option<(u32, f64)> {
        let delayed = self.after_delay();
        let considered: Vec<(u32, Load, f64)> = candidates
            .map(|replicas| {
                let grown = self.grown(&delayed, replicas);
                (replicas, grown, violation(grown, self.capacity, self.aim(), FAR_SECONDS))
            })
            .collect();
        let best = considered.iter().map(|(_, _, seconds)| *seconds).reduce(f64::min)?;
        let good = || considered.iter().filter(|(_, _, seconds)| *seconds <= best + NEGLIGIBLE_SECONDS);
        let keeps_up = |load: &Load| load.rate <= UTILIZATION_GROWN * self.capacity;
        let sound = |load: &Load| {
            keeps_up(load) && drain_seconds(*load, self.capacity) <= (2.0 * self.target).max(60.0)
        };
        good()
            .find(|(_, load, _)| sound(load))
            .or_else(|| good().find(|(_, load, _)| keeps_up(load)))
            .or_else(|| good().next_back())
            .map(|(replicas, _, _)| (*replicas, best))
    }

    /// True if so many replicas, all at work and the rebalance behind them, meet the objective from now on.
    pub(crate) fn suffices(&self, replicas: u32) -> bool {
        let load = advance(worst(&self.loads, replicas), 0.0, self.pause);
        load.rate <= UTILIZATION_SHRUNK * self.capacity
            && violation(load, self.capacity, self.aim(), FAR_SECONDS) <= 0.0
    }

    /// Seconds until the backlog is gone with so many replicas; infinite if it never will be.
    pub(crate) fn drain_seconds(&self, replicas: u32) -> f64 {
        if replicas == self.replicas {
            return self.present().iter().map(|load| drain_seconds(*load, self.capacity)).fold(0.0, f64::max);
        }
        let delayed = if replicas > self.replicas { self.after_delay() } else { self.loads.clone() };
        let delay = if replicas > self.replicas { self.delay } else { 0.0 };
        delay + self.pause + drain_seconds(self.grown(&delayed, replicas), self.capacity)
    }
}
