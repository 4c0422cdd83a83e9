//! Whether more consumers store more.
//!
//! Every growth is an experiment. If all replicas were busy before it and all are busy after it, the throughput
//! must have risen in proportion; when it rose by less than a quarter of that, something behind the consumers is
//! at its limit (Flink calls it ineffective scaling). Busy with a backlog of their own, that is: a consumer that takes small
//! batches is busy with whatever arrives. Then the replicas go back to the least number that stores
//! as much, and the limit is remembered for an hour, so that the experiment is not made again and again.
//! A gain between a quarter and three quarters is ambiguous (the limit may lie in between, or the replicas
//! became slower): the capacity known before is kept in mind until the next experiment tells.

use crate::shape::levels;
use crate::state::{CapacityMemory, Ceiling, Change, SinkMemory, Trial};

/// Below this share of the expected gain a growth was futile, …
const FUTILE: f64 = 0.25;
/// … and likely futile below this one, half way to what it should have brought.
const LIKELY_FUTILE: f64 = 0.5;
/// Above this share it did what it should.
const EFFECTIVE: f64 = 0.75;
/// Below this share of what fewer replicas stored before, a growth says nothing.
const BROKEN_SHARE: f64 = 0.5;
/// Throughputs that differ by less than this factor are the same.
const SAME_SHARE: f64 = 1.1;
/// Replicas that are busy with a backlog do at least this share of what each of them could.
const BUSY_SHARE: f32 = 0.9;
/// What a replica can do is known well enough to say what those did that were outrun. At a low load a consumer may look many
/// times faster than it is.
const KNOWN_QUALITY: f32 = 0.7;
/// Seconds after everything has settled until a growth is judged.
const JUDGE_SECONDS: f64 = 25.0;
/// Replicas whose capacity adds up to so many times a throughput reach it even when some are slower for a while.
const ENOUGH: f64 = 1.03;
/// A limit is remembered for so long after it last bound.
const MEMORY_SECONDS: f64 = 3600.0;
/// A limit must have seemed not to bind for so long before it is believed.
const RELIEF_SECONDS: f64 = 30.0;
/// Less busy than this, the replicas are not held up.
const RELIEVED: f64 = 0.7;

/// Where an experiment begins: a growth just seen, with what was known before it. `outrun` tells that more arrived than the
/// replicas handle: then all are busy before a backlog shows it, if it is known what they handle. A second growth that comes
/// before anything was seen of the first is part of the same experiment.
pub(crate) fn begin(
    before: &SinkMemory,
    capacity: &CapacityMemory,
    change: Change,
    outrun: bool,
) -> SinkMemory {
    let mut memory = before.clone();
    let grows = change.to > change.from;
    let goes_on = before.trial.filter(|trial| grows && trial.to == change.from);
    memory.trial = goes_on.map(|trial| Trial { to: change.to, ..trial });
    let busy = capacity.saturated || outrun && capacity.quality >= KNOWN_QUALITY;
    if let (true, true, Some(throughput), Some(rate)) =
        (grows && change.from > 0, busy, capacity.throughput, capacity.rate)
    {
        // All were busy at last: what they did then counts, though the average does not show it yet. While the growth before this one
        // is in doubt no samples are taken, and the last one is of fewer replicas.
        let last = capacity.samples.last().filter(|_| goes_on.is_none());
        let last = last.map(|each| BUSY_SHARE * each * change.from as f32);
        let throughput = last.map_or(throughput, |last| throughput.max(last));
        memory.trial = Some(Trial { from: change.from, to: change.to, throughput, capacity: rate });
    }
    memory
}

/// Judges the experiment that is under way. `settled` is for how many seconds everything has been in its place;
/// the second value is the capacity to go back to, if it was misjudged.
pub(crate) fn judge(
    before: &SinkMemory,
    capacity: &CapacityMemory,
    partitions: u32,
    settled: Option<f64>,
    now: f64,
) -> (SinkMemory, Option<f32>) {
    let mut memory = before.clone();
    let Some(throughput) = capacity.throughput.map(f64::from) else {
        return (memory, None);
    };
    let Some(trial) = memory.trial.filter(|_| settled.is_some_and(|seconds| seconds >= JUDGE_SECONDS)) else {
        return (memory, None);
    };
    memory.trial = None;
    let expected = f64::from(trial.throughput) * (f64::from(trial.to) / f64::from(trial.from) - 1.0);
    let gain = (throughput - f64::from(trial.throughput)) / expected.max(f64::MIN_POSITIVE);
    // Where only a few have something left to do, the others store what arrives, and that is no more than before.
    if !capacity.everywhere || gain >= EFFECTIVE {
        memory.doubt = None;
        return (memory, None);
    }
    // At a limit as much is stored as before; where it is far less, something is broken, and that is no limit.
    if throughput < BROKEN_SHARE * f64::from(trial.throughput) {
        return (memory, None);
    }
    let known = memory.doubt.unwrap_or(trial.capacity);
    // With as many replicas as partitions no other experiment will tell; the likelier is taken.
    let futile = if trial.to >= partitions { LIKELY_FUTILE } else { FUTILE };
    if gain >= futile {
        memory.doubt = Some(known);
        return (memory, None);
    }
    let limit = throughput.max(f64::from(trial.throughput));
    // Where the growth gained something after all, the number before it does not store as much.
    let safe = if limit > SAME_SHARE * f64::from(trial.throughput) { trial.to } else { trial.from };
    memory.doubt = None;
    memory.ceiling = Some(Ceiling {
        throughput: limit as f32,
        replicas: sufficient(limit, f64::from(known), &levels(partitions)).min(safe),
        safe,
        active: true,
        seen: now,
        relieved_since: None,
    });
    (memory, Some(known))
}

/// The least number of replicas worth having that stores `throughput`.
fn sufficient(throughput: f64, capacity: f64, levels: &[u32]) -> u32 {
    let enough = |replicas: &&u32| f64::from(**replicas) * capacity >= throughput * ENOUGH;
    levels.iter().find(enough).or(levels.last()).copied().unwrap_or(1)
}

/// The most replicas that are of use at a limit that binds or is remembered; `None` if there is none.
pub(crate) fn most_useful(memory: &SinkMemory, capacity: &CapacityMemory, levels: &[u32]) -> Option<u32> {
    let ceiling = memory.ceiling.as_ref()?;
    let rate = f64::from(capacity.rate?);
    Some(if ceiling.active {
        ceiling.replicas
    } else {
        sufficient(1.1 * f64::from(ceiling.throughput), rate, levels).max(ceiling.safe)
    })
}

/// Follows a known limit: whether it still binds, and whether the replicas left to it are enough. `urgent` tells
/// that the objective is or will be violated, `settled` for how long everything has been in its place.
pub(crate) fn follow(
    before: &SinkMemory,
    capacity: &CapacityMemory,
    urgent: bool,
    last: Option<Change>,
    settled: Option<f64>,
    now: f64,
) -> SinkMemory {
    let mut memory = before.clone();
    let (Some(ceiling), Some(throughput), Some(busy)) =
        (memory.ceiling.as_mut(), capacity.throughput.map(f64::from), capacity.busy.map(f64::from))
    else {
        return memory;
    };
    let limit = f64::from(ceiling.throughput);
    if !ceiling.active {
        if urgent && capacity.saturated && throughput >= 0.85 * limit {
            (ceiling.active, ceiling.relieved_since) = (true, None);
            // So few had seemed to be enough until they were outgrown again: they are not.
            if let Some(grown) = last.filter(|last| last.to > last.from && last.from >= ceiling.replicas) {
                (ceiling.replicas, ceiling.safe) = (grown.to, ceiling.safe.max(grown.to));
            }
        } else if now - ceiling.seen > MEMORY_SECONDS {
            memory.ceiling = None;
            return memory;
        }
    }
    if !ceiling.active {
        return memory;
    }
    ceiling.seen = now;
    let judged = settled.is_some_and(|seconds| seconds >= JUDGE_SECONDS);
    if judged && capacity.saturated && throughput < 0.9 * limit {
        if ceiling.replicas < ceiling.safe {
            ceiling.replicas = ceiling.safe;
        } else {
            ceiling.throughput = throughput as f32;
        }
    }
    let lifted = throughput > 1.2 * limit;
    if urgent && busy >= RELIEVED && !lifted {
        ceiling.relieved_since = None;
    } else if now - *ceiling.relieved_since.get_or_insert(now) >= if lifted { 0.0 } else { RELIEF_SECONDS } {
        ceiling.active = false;
        if lifted {
            memory.ceiling = None;
        }
    }
    memory
}

/// True while a lower throughput per replica may be the database's doing.
pub(crate) fn in_doubt(memory: &SinkMemory) -> bool {
    memory.trial.is_some() || memory.ceiling.as_ref().is_some_and(|ceiling| ceiling.active)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A third replica beside two that stored 200 should add 100.
    #[test]
    fn a_growth_is_futile_only_if_all_had_enough_to_do() {
        let trial = Trial { from: 2, to: 3, throughput: 200.0, capacity: 100.0 };
        let memory = SinkMemory { trial: Some(trial), ..SinkMemory::default() };
        // With three partitions no other growth will tell.
        for (stored, everywhere, partitions, futile) in [
            (205.0, true, 12, true),
            (205.0, false, 12, false),
            (240.0, true, 12, false),
            (240.0, true, 3, true),
            (260.0, true, 3, false),
            (300.0, true, 12, false),
            (140.0, true, 12, true),
            (20.0, true, 12, false),
        ] {
            let capacity = CapacityMemory {
                saturated: true,
                everywhere,
                throughput: Some(stored),
                ..CapacityMemory::default()
            };
            let (after, _) = judge(&memory, &capacity, partitions, Some(60.0), 100.0);
            assert_eq!(after.ceiling.is_some(), futile, "{stored} per second, {partitions} partitions");
            assert!(after.trial.is_none(), "it is judged once");
        }
    }

    /// A step that is answered at once is answered before a backlog shows how busy all are.
    #[test]
    fn a_growth_is_an_experiment_if_all_are_busy_or_more_arrives_than_they_handle() {
        let change = Change { time: 1.0, from: 2, to: 4, settling: true };
        for (saturated, outrun, quality, begins) in [
            (true, false, 1.0, true),
            (false, true, 0.9, true),
            (true, true, 1.0, true),
            (false, false, 1.0, false),
            (false, true, 0.2, false),
        ] {
            let capacity = CapacityMemory {
                rate: Some(100.0),
                quality,
                throughput: Some(150.0),
                saturated,
                samples: [98.0, 100.0].into(),
                ..CapacityMemory::default()
            };
            let trial = begin(&SinkMemory::default(), &capacity, change, outrun).trial;
            assert_eq!(trial.is_some(), begins, "saturated {saturated}, outrun {outrun}, quality {quality}");
            // Two that are outrun do nearly what two can do, whatever the average still says.
            assert!(trial.is_none_or(|trial| (trial.throughput - 180.0).abs() < 0.1), "{trial:?}");
        }
    }

    /// Seen in the simulator: from 13 to 32 replicas and on to 64 a moment after, and as 32 were believed to do what the 13 had done
    /// each, the 64 seemed to be broken and not held up by a limit.
    #[test]
    fn a_second_growth_before_the_first_was_seen_is_part_of_the_same_experiment() {
        let trial = Trial { from: 2, to: 4, throughput: 190.0, capacity: 100.0 };
        let before = SinkMemory { trial: Some(trial), ..SinkMemory::default() };
        let unseen = CapacityMemory { rate: Some(100.0), ..CapacityMemory::default() };
        let samples = [98.0, 100.0].into();
        let seen = CapacityMemory { saturated: true, throughput: Some(250.0), samples, ..unseen };
        for (capacity, from, to, expected) in [
            (&unseen, 4, 8, Some(Trial { to: 8, ..trial })),
            (&seen, 4, 8, Some(Trial { from: 4, to: 8, throughput: 250.0, capacity: 100.0 })),
            (&unseen, 3, 8, None),
            (&unseen, 4, 2, None),
        ] {
            let change = Change { time: 0.0, from, to, settling: true };
            assert_eq!(begin(&before, capacity, change, false).trial, expected, "{from} to {to}");
        }
    }

    /// The least number that reaches the limit on average may leave a backlog on its busiest replica.
    #[test]
    fn so_few_as_are_outgrown_while_the_limit_does_not_bind_are_not_enough() {
        let ceiling = Ceiling {
            throughput: 130.0,
            replicas: 2,
            safe: 2,
            active: false,
            seen: 100.0,
            relieved_since: Some(60.0),
        };
        let memory = SinkMemory { ceiling: Some(ceiling), ..SinkMemory::default() };
        let capacity = CapacityMemory {
            rate: Some(100.0),
            saturated: true,
            throughput: Some(128.0),
            busy: Some(1.0),
            ..CapacityMemory::default()
        };
        for (from, to, expected) in [(2, 3, 3), (1, 3, 2), (3, 2, 2)] {
            let last = Some(Change { time: 110.0, from, to, settling: false });
            let after = follow(&memory, &capacity, true, last, Some(60.0), 200.0);
            let found = after.ceiling.map(|ceiling| (ceiling.active, ceiling.replicas));
            assert_eq!(found, Some((true, expected)), "from {from} to {to}");
        }
    }
}
