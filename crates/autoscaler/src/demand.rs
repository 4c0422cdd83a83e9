//! What is asked of the consumers: load per partition, and the partitions that more consumers would not help.

use std::collections::BTreeMap;

use crate::offsets::{Reading, Readings};
use crate::plan::AHEAD_SECONDS;
use crate::shape::{Load, together};
use crate::state::PartitionMemory;
use crate::{Estimates, State};

/// Commits that stand still for so long, with lag and consumers, are suspect: their lag is not a lack of consumers.
const SUSPECT_SECONDS: f64 = 15.0;
/// After so long it is worth telling a person; one slow event of a minute is not.
const STALLED_SECONDS: f64 = 120.0;
/// A partition is hot only if it is so many times faster than the median one; else all are, and that is load.
const HOT_FACTOR: f64 = 3.0;
/// A hot partition has work for so many seconds waiting.
const HOT_BACKLOG_SECONDS: f64 = 5.0;
/// A partition is reported hot when it has exceeded a replica's capacity for so long.
pub(crate) const HOT_SECONDS: f64 = 60.0;
/// A rate beyond so many times its average is rising.
const RISING_FACTOR: f64 = 1.25;
/// A load that will be larger by this share in ten minutes is rising.
const RISING_SHARE: f64 = 0.3;
/// An age that cannot be told is taken for this.
const OLDEST_SECONDS: f64 = 86_400.0;

/// What is asked of the consumers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    /// Load by partition, without what more consumers could not help.
    pub(crate) loads: BTreeMap<i32, Load>,
    /// Partitions whose commits stand still, with the seconds for which they have.
    pub(crate) suspects: Vec<(i32, f64)>,
    /// Partitions with lag.
    pub(crate) lagging: usize,
    /// Partitions that one replica cannot handle, by far faster than the others.
    pub(crate) hot: Vec<i32>,
    /// True if far more has arrived than before, and only the next reading can tell whether that goes on.
    pub(crate) undecided: bool,
    /// By how many events per second all arrivals together rise (fall, if less than 0) in each second.
    pub(crate) slope: f64,
    /// Lag beyond what is known never to be consumed.
    pub(crate) lag: u64,
}

impl Demand {
    /// True if there is lag and none of it moves although consumers are there.
    pub(crate) fn all_stalled(&self) -> bool {
        self.lagging > 0 && self.suspects.len() >= self.lagging
    }

    /// True while more arrives than of late: no moment to have fewer replicas.
    pub(crate) fn is_rising(&self) -> bool {
        let total = together(self.loads.values().copied());
        total.rate > RISING_FACTOR * total.calm || self.slope * AHEAD_SECONDS > RISING_SHARE * total.rate
    }

    /// Partitions that a person should hear of, and for how long the worst has stood still.
    pub(crate) fn stalled(&self) -> (Vec<i32>, f64) {
        let long = self.suspects.iter().filter(|(_, seconds)| *seconds >= STALLED_SECONDS);
        let partitions = long.clone().map(|(partition, _)| *partition).collect();
        (partitions, long.map(|(_, seconds)| *seconds).fold(0.0, f64::max))
    }
}

/// Builds the demand from readings and the memory made from them.
pub(crate) fn demand(state: &State, readings: &Readings, now: f64) -> Demand {
    let suspicious = SUSPECT_SECONDS.max(3.0 * state.interval.map_or(0.0, f64::from));
    let mut demand = Demand { hot: hot(state), ..Demand::default() };
    for reading in &readings.known {
        let Some(memory) = state.partitions.get(&reading.partition) else {
            continue;
        };
        let lag = reading.lag().saturating_sub(memory.residue);
        let frozen = now - memory.moved;
        // Pods that are not ready may be starting; a group that stands for so long without one commit is not.
        let still = memory.still.map_or(0.0, |since| now - since);
        let mut load = load(reading, memory, lag, now);
        if lag > 0 {
            demand.lagging += 1;
            demand.lag += lag;
            if frozen >= suspicious || still >= STALLED_SECONDS {
                demand.suspects.push((reading.partition, frozen.max(still)));
                (load.backlog, load.age) = (0.0, 0.0);
            }
        }
        if !demand.hot.contains(&reading.partition) {
            demand.loads.insert(reading.partition, load);
        }
    }
    // A partition that cannot be read still has the arrivals it had; its lag counts for nothing.
    for partition in &readings.unknown {
        let memory = state.partitions.get(partition);
        let rate = memory.and_then(|memory| memory.rate).map_or(0.0, f64::from);
        let calm = memory.and_then(|memory| memory.calm).map_or(rate, f64::from);
        demand.loads.insert(*partition, Load { rate, calm, ..Load::default() });
    }
    demand
}

fn load(reading: &Reading, memory: &PartitionMemory, lag: u64, now: f64) -> Load {
    let rate = memory.rate.map_or(0.0, f64::from);
    let calm = memory.calm.map_or(rate, f64::from);
    Load { backlog: lag as f64, age: age(reading, memory, lag, now), rate, calm }
}

/// Age of the oldest event: as told, else by the arrival rate, and no more than since the partition was empty.
fn age(reading: &Reading, memory: &PartitionMemory, lag: u64, now: f64) -> f64 {
    if lag == 0 {
        return 0.0;
    }
    let Some(rate) = memory.rate.map(f64::from) else {
        // Seen for the first time: nobody knows; the next reading will tell.
        return reading.lag_seconds.unwrap_or(0.0);
    };
    let by_rate = if rate > 0.0 { lag as f64 / rate } else { OLDEST_SECONDS };
    let since_empty = memory.drained.map_or(OLDEST_SECONDS, |drained| now - drained);
    // What is never consumed stands before what waits, and is older.
    let told = reading.lag_seconds.filter(|_| memory.residue == 0);
    told.unwrap_or_else(|| by_rate.min(since_empty)).min(OLDEST_SECONDS)
}

/// Partitions faster than a replica and by far faster than the rest.
fn hot(state: &State) -> Vec<i32> {
    let Some(capacity) = state.capacity.rate.map(f64::from) else {
        return Vec::new();
    };
    let limit = capacity.max(HOT_FACTOR * median_rate(state));
    // What a replica can do may only be known to be no less; a backlog shows that this is more than it can.
    let hot = |memory: &PartitionMemory| {
        let waiting = memory.end.saturating_sub(memory.position) as f64;
        memory.rate.map_or(0.0, f64::from) > limit && waiting > HOT_BACKLOG_SECONDS * capacity
    };
    state.partitions.iter().filter(|(_, memory)| hot(memory)).map(|(partition, _)| *partition).collect()
}

/// The lower median of the partitions' rates.
fn median_rate(state: &State) -> f64 {
    let mut rates: Vec<f64> =
        state.partitions.values().map(|memory| memory.rate.map_or(0.0, f64::from)).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// Notes since when which partitions have been too fast for one replica. While the capacity is in doubt, none is.
pub(crate) fn note_hot(state: &mut State, now: f64, certain: bool) {
    let hot = hot(state);
    for (partition, memory) in &mut state.partitions {
        if certain && hot.contains(partition) {
            memory.hot_since.get_or_insert(now);
        } else {
            memory.hot_since = None;
        }
    }
}

/// Totals for the status.
pub(crate) fn estimates(state: &State, demand: &Demand, readings: &Readings, now: f64) -> Estimates {
    if readings.known.is_empty() {
        return Estimates {
            capacity_per_replica: state.capacity.rate.map(f64::from),
            ..Estimates::default()
        };
    }
    let memories = || readings.known.iter().filter_map(|reading| state.partitions.get(&reading.partition));
    let total = |part: fn(&PartitionMemory) -> Option<f32>| {
        let known: Vec<f64> = memories().filter_map(part).map(f64::from).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    };
    let oldest = readings.known.iter().filter_map(|reading| {
        let memory = state.partitions.get(&reading.partition)?;
        Some(age(reading, memory, reading.lag().saturating_sub(memory.residue), now))
    });
    Estimates {
        lag_events: Some(demand.lag),
        lag_seconds: oldest.reduce(f64::max),
        arrival_rate: total(|memory| memory.rate),
        processed_rate: total(|memory| memory.served),
        capacity_per_replica: state.capacity.rate.map(f64::from),
        ..Estimates::default()
    }
}
