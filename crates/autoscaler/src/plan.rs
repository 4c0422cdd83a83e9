//! How many replicas: what would happen with each number worth having, and which is the least that is right.
//!
//! For each candidate the most loaded replica is followed as a fluid queue: it goes on as it is until the new
//! replicas consume, then everything pauses for a rebalance, then it works off what has gathered. What counts
//! is for how many seconds the oldest event would be older than the objective. The replicas there are stay
//! unless that figure can be made smaller by acting now: lag inside the objective is no reason to act.

use std::collections::BTreeMap;

use crate::fluid::{advance, drain_seconds, violation};
use crate::shape::{Load, Shape, together};

/// Arrivals outrun replicas that are this busy with them.
const OUTRUN_SHARE: f64 = 1.05;
/// The plan aims below the objective by this factor; the rest is for what the model does not know.
const AIM: f64 = 0.7;
/// Share of the objective up to which a virtual queue may fill.
pub(crate) const TOLERATED_SHARE: f64 = 0.5;
/// A replica is planned to be no busier than this after growing.
const UTILIZATION_GROWN: f64 = 0.94;
/// … or than this, if it has grown not long ago: a load that keeps rising is met with fewer, larger steps.
const UTILIZATION_REGROWN: f64 = 0.7;
/// A replica may be this busy after shrinking.
const UTILIZATION_SHRUNK: f64 = 0.99;
/// So many seconds ahead of a steady rise. (A step is none.)
pub(crate) const AHEAD_SECONDS: f64 = 600.0;
/// Differences below this many seconds of violation do not matter.
const NEGLIGIBLE_SECONDS: f64 = 2.0;
/// No number is better than a smaller one for less than this: the time between two readings, which cannot tell more.
const WORTH_SECONDS: f64 = 5.0;
/// After growing, a backlog inside the objective may take so many times the objective to go.
const DRAIN_TARGETS: f64 = 6.0;
/// … or so many times as long as with any number.
const DRAIN_FACTOR: f64 = 1.25;
/// How far the consequences are followed, in seconds.
const FAR_SECONDS: f64 = 7200.0;

/// A backlog is gone when nothing in it is older than this: a tenth of the objective, and no less than the time
/// between commits and readings.
pub(crate) fn gone_age(target: f64) -> f64 {
    (0.1 * target).max(3.0)
}

/// What the plan is made from.
#[derive(Clone, Debug)]
pub(crate) struct Plant {
    /// Load by partition.
    pub(crate) loads: BTreeMap<i32, Load>,
    /// The partitions of each replica there is; empty if it is not known who has what.
    pub(crate) owned: Vec<Vec<i32>>,
    /// How partitions are handed out.
    pub(crate) shape: Shape,
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
    /// True if the pipeline has grown not long ago.
    pub(crate) rising: bool,
    /// By which share of itself the load will have risen after [`AHEAD_SECONDS`].
    pub(crate) rise: f64,
    /// The oldest that events have been of late, in seconds.
    pub(crate) roughness: f64,
}

impl Plant {
    fn aim(&self) -> f64 {
        self.target * AIM
    }

    /// The loads of the partitions that one replica has.
    fn of(&self, partitions: &[i32]) -> Vec<Load> {
        partitions.iter().filter_map(|partition| self.loads.get(partition).copied()).collect()
    }

    /// The replicas there are, or the most loaded of them.
    fn present(&self) -> Vec<Load> {
        if self.owned.is_empty() {
            vec![self.shape.worst(&self.loads, self.replicas)]
        } else {
            self.owned.iter().map(|partitions| together(self.of(partitions))).collect()
        }
    }

    /// Share of its capacity that the most loaded replica needs for the arrivals.
    pub(crate) fn utilization(&self) -> f64 {
        self.present().iter().map(|load| load.rate).fold(0.0, f64::max) / self.capacity
    }

    /// True if arrivals alone, whatever has gathered before, are more than the replicas handle.
    pub(crate) fn is_outrun(&self) -> bool {
        let share = self.utilization();
        share.is_finite() && share > OUTRUN_SHARE
    }

    /// Seconds of violation if nothing is done, within `horizon`.
    fn violation_if_kept(&self, horizon: f64) -> f64 {
        if self.replicas == 0 {
            return violation(together(self.loads.values().copied()), 0.0, self.aim(), horizon);
        }
        let seconds = |load: &Load| violation(*load, self.capacity, self.aim(), horizon);
        self.present().iter().map(seconds).fold(0.0, f64::max)
    }

    /// Seconds of violation from now on, and the age at the end of it: where every number of replicas violates
    /// for ever, the one is better that falls behind more slowly.
    fn cost(&self, load: Load) -> f64 {
        violation(load, self.capacity, self.aim(), FAR_SECONDS)
            + advance(load, self.capacity, FAR_SECONDS).age
    }

    fn cost_if_kept(&self) -> f64 {
        if self.replicas == 0 {
            return 2.0 * FAR_SECONDS;
        }
        self.present().iter().map(|load| self.cost(*load)).fold(0.0, f64::max)
    }

    /// The partitions' loads when new replicas begin to consume.
    fn after_delay(&self) -> BTreeMap<i32, Load> {
        let mut after = BTreeMap::new();
        if self.replicas == 0 {
            self.serve(&mut after, &self.loads.keys().copied().collect::<Vec<_>>(), 0.0);
            return after;
        }
        if self.owned.is_empty() {
            // Nobody knows who has what: partitions are taken in turn.
            let mut owned = vec![Vec::new(); self.replicas as usize];
            for (index, partition) in self.loads.keys().enumerate() {
                owned[index % self.replicas as usize].push(*partition);
            }
            owned.iter().for_each(|partitions| self.serve(&mut after, partitions, self.capacity));
        } else {
            self.owned.iter().for_each(|partitions| self.serve(&mut after, partitions, self.capacity));
        }
        after
    }

    /// One replica goes on as it is until the new ones begin.
    fn serve(&self, after: &mut BTreeMap<i32, Load>, partitions: &[i32], capacity: f64) {
        let before = together(self.of(partitions));
        let served = advance(before, capacity, self.delay);
        let gathered = before.backlog + before.rate * self.delay;
        let left = if gathered > 0.0 { served.backlog / gathered } else { 0.0 };
        for partition in partitions {
            let Some(load) = self.loads.get(partition) else {
                continue;
            };
            let backlog = (load.backlog + load.rate * self.delay) * left;
            after.insert(*partition, Load { backlog, age: served.age, ..*load });
        }
    }

    /// The most loaded replica of `replicas` when the rebalance after a growth is over.
    fn grown(&self, delayed: &BTreeMap<i32, Load>, replicas: u32) -> Load {
        advance(self.shape.worst(delayed, replicas), 0.0, self.pause)
    }

    /// Seconds of violation until the new replicas begin; the same for every candidate.
    fn violation_until_grown(&self) -> f64 {
        self.violation_if_kept(self.delay)
            + if self.replicas == 0 { 0.0 } else { self.pause.min(NEGLIGIBLE_SECONDS) }
    }

    /// True if the objective is violated, or will be before a later decision could still prevent it.
    pub(crate) fn is_urgent(&self) -> bool {
        let horizon = 2.0 * (self.delay + self.pause) + 4.0 * self.interval;
        if self.violation_if_kept(horizon) > 0.5 {
            return true;
        }
        // A load that outruns its replica will need a growth; its rebalance must find room below the objective.
        let outrun = |load: &&Load| load.rate > self.capacity;
        let paused = |load: &Load| advance(*load, 0.0, self.pause);
        let lost = |load: Load| violation(load, self.capacity, self.aim(), horizon) > 0.5;
        self.replicas > 0 && self.present().iter().filter(outrun).map(paused).any(lost)
    }

    /// By how many seconds the oldest event has grown older per second, from `before` on for `lasts` seconds; `None`
    /// unless the objective will be lost at that pace before new replicas consume.
    pub(crate) fn pace(&self, before: f64, lasts: f64) -> Option<f64> {
        let age = self.loads.values().map(|load| load.age).fold(0.0, f64::max);
        let pace = (age - before) / lasts;
        let then = age + pace * (self.delay + self.pause + self.interval);
        (pace > 0.0 && then > self.aim()).then_some(pace)
    }

    /// True if what begins to wait now may be too old before anything that is decided at the usual pace helps.
    pub(crate) fn is_tight(&self) -> bool {
        self.delay + self.pause + 2.0 * self.interval > self.aim()
    }

    /// True if arrivals alone, without what gathers while things move, outrun the replicas and the objective
    /// will be lost.
    pub(crate) fn is_emergency(&self) -> bool {
        let overloaded = self.present().iter().any(|load| load.rate > 1.2 * self.capacity);
        let horizon = 2.0 * (self.delay + self.pause);
        overloaded && self.replicas > 0 && self.violation_if_kept(horizon) > 0.5
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
        (self.cost_if_kept() > acting).then_some(replicas)
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
                (replicas, grown, self.cost(grown))
            })
            .collect();
        let best = considered.iter().map(|(_, _, seconds)| *seconds).reduce(f64::min)?;
        let good = || considered.iter().filter(|(_, _, seconds)| *seconds <= best + WORTH_SECONDS);
        let share = if self.rising { UTILIZATION_REGROWN } else { UTILIZATION_GROWN };
        let keeps_up =
            |load: &Load| load.rate <= share * self.capacity && self.rate_ahead(load) <= self.capacity;
        let drain = |load: &Load| drain_seconds(*load, self.capacity, 0.0);
        let shortest = good().map(|(_, load, _)| drain(load)).fold(f64::INFINITY, f64::min);
        let soon = (DRAIN_TARGETS * self.target).max(120.0).max(DRAIN_FACTOR * shortest);
        good()
            .find(|(_, load, _)| keeps_up(load) && drain(load) <= soon)
            .or_else(|| good().find(|(_, load, _)| keeps_up(load)))
            .or_else(|| good().next_back())
            .map(|(replicas, _, _)| (*replicas, best))
    }

    /// How much will arrive in [`AHEAD_SECONDS`] if what rises steadily goes on to.
    fn rate_ahead(&self, load: &Load) -> f64 {
        load.rate * (1.0 + self.rise)
    }

    /// True if arrivals alone, at present and on average, are more than so many replicas can handle.
    pub(crate) fn overloads(&self, replicas: u32) -> bool {
        let worst = self.shape.worst(&self.loads, replicas);
        worst.rate.min(worst.calm) > UTILIZATION_SHRUNK * self.capacity
    }

    /// True if so many replicas, all at work and the rebalance behind them, meet the objective from now on.
    pub(crate) fn suffices(&self, replicas: u32) -> bool {
        let load = advance(self.shape.worst(&self.loads, replicas), 0.0, self.pause);
        let rate = self.rate_ahead(&load).max(load.calm);
        // What has disturbed the pipeline of late may do so again, and must be worked off then too.
        let disturbance = Load { backlog: self.roughness * rate, age: self.roughness, rate, calm: rate };
        rate <= UTILIZATION_SHRUNK * self.capacity
            && drain_seconds(disturbance, self.capacity, 0.0) <= (2.0 * self.target).max(60.0)
            && violation(load, self.capacity, self.aim(), FAR_SECONDS) <= 0.0
    }

    /// Seconds until the backlog is gone with so many replicas; infinite if it never will be.
    pub(crate) fn drain_seconds(&self, replicas: u32) -> f64 {
        let age = gone_age(self.target);
        if replicas == self.replicas {
            return self
                .present()
                .iter()
                .map(|load| drain_seconds(*load, self.capacity, age))
                .fold(0.0, f64::max);
        }
        let delayed = if replicas > self.replicas { self.after_delay() } else { self.loads.clone() };
        let delay = if replicas > self.replicas { self.delay } else { 0.0 };
        delay + self.pause + drain_seconds(self.grown(&delayed, replicas), self.capacity, age)
    }
}
