//! What one replica can do, from how busy it is: true processing rate = events per second / busy share
//! (DS2, Kalavri et al., OSDI 2018; Flink's autoscaler uses the same quotient).
//!
//! The quotient is only as good as the load. A consumer that batches by nature, as ours does, is busy nearly all
//! the time with small batches at a fraction of its capacity, and more so the less there is to do; others err
//! the other way and look better near idle than they are. Therefore:
//!
//! * What a replica **has done** is a fact: the capacity is at least that, at once.
//! * Only replicas that are busy **and have a backlog** show what they cannot do: only then may the estimate fall. If only a few
//!   of them have one, they count unless they are far slower than all were: then it is not what one replica can do that ails them.
//! * A quotient without a backlog may raise the estimate, if it was taken at a load not much lower than the one
//!   the estimate stems from; that quality fades over half an hour.
//! * An estimate that no backlog and no idle time has confirmed is marked as a bound: the truth may be far higher,
//!   which a scale-down by half will show.
//! * The first sample alone decides nothing: who has just begun is slower than later, on a machine on which all begin at
//!   once far slower. A second one that is far higher takes its place.
//!
//! Samples are taken only while the group has been settled for the whole interval. A replica that is busy and
//! processes nothing is stuck, not slow; it says nothing.

use std::collections::BTreeMap;

use crate::ConsumerObservation;
use crate::state::{CapacityMemory, push};

/// Below this busy ratio a replica says next to nothing about its capacity …
const FAIRLY_BUSY: f64 = 0.25;
/// … which is taken for want of anything better, down to this one.
const LEAST_BUSY: f64 = 0.02;
/// A sample counts if its quality is at least this share of the known one.
const WORSE_BY: f64 = 0.8;
/// A sample whose quality is so many times the known one replaces what is known.
const BETTER_BY: f64 = 1.5;
/// Time constant with which the quality of what is known fades, in seconds.
const FADING_SECONDS: f64 = 1800.0;
/// Time constant of the average, in seconds.
const SMOOTHING_SECONDS: f64 = 60.0;
/// Replicas with little to do say less than those with much: only those count that are at least so busy, as a share of the busiest.
const BUSIEST_SHARE: f64 = 0.75;
/// When three samples in a row agree on a change larger than this, it is taken at once.
const STEP_SHARE: f64 = 0.15;
/// Without a backlog a sample may be lower than what is known by this share.
const CHANCE_SHARE: f64 = 0.1;
/// Time constant of throughput and busy ratio, in seconds.
const RECENT_SECONDS: f64 = 20.0;
/// A replica at least so busy may be at its limit.
const BUSY: f64 = 0.85;
/// A replica at least so busy without a backlog does not show how busy it has to be.
pub(crate) const ALWAYS_BUSY: f64 = 0.97;
/// Work for so many seconds that waits is a backlog.
const BACKLOG_SECONDS: f64 = 3.0;
/// A replica at which work for so many seconds waits has more than it can do, whatever the others have.
const OVERLOADED_SECONDS: f64 = 6.0;
/// What it does counts unless it is lower than what is known by more than this share.
const OVERLOADED_SHARE: f64 = 0.25;
/// It is everywhere if at least this share of the replicas have one of their own.
const EVERYWHERE_SHARE: f64 = 0.5;

/// What the consumers said, taken together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Events per second of all replicas.
    pub(crate) throughput: f64,
    /// Mean busy ratio.
    pub(crate) busy: f64,
    /// Events per second that one replica could do, and the mean busy ratio of the replicas that say so.
    pub(crate) quotient: Option<(f64, f64)>,
    /// The same of the fastest of those replicas that have more than they can do.
    pub(crate) overloaded: Option<f64>,
    /// Events per second of the fastest replica.
    pub(crate) done: f64,
    /// True if the replicas are busy with a backlog: what they do is what they can.
    pub(crate) saturated: bool,
    /// True if they are, and the backlog is not only at a few of them.
    pub(crate) everywhere: bool,
    /// True if they had some work waiting from before: then they did it as fast as they can.
    pub(crate) pressed: bool,
}

/// What one consumer said: its busy ratio, its events per second, and for how many seconds work waits at it, if that is known.
type Said = (f64, f64, Option<f64>);

/// Takes together what the consumers said, with so many events waiting at the last reading and, by partition, at this
/// one; `None` if too few could be read.
pub(crate) fn sample(
    consumers: &[ConsumerObservation],
    replicas: u32,
    lag_before: f64,
    lags: &BTreeMap<i32, f64>,
) -> Option<Sample> {
    let said: Vec<Said> = consumers
        .iter()
        .filter_map(|consumer| {
            let (busy, rate) = (consumer.busy?.clamp(0.0, 1.0), consumer.processed_rate?.max(0.0));
            Some((busy, rate, waiting_seconds(consumer, rate, lags)))
        })
        .filter(|(busy, rate, _)| busy.is_finite() && rate.is_finite())
        .collect();
    if said.is_empty() || said.len() * 2 < replicas as usize {
        return None;
    }
    let count = said.len() as f64;
    let throughput = said.iter().map(|(_, rate, _)| rate).sum::<f64>() * f64::from(replicas) / count;
    let busy = said.iter().map(|(busy, _, _)| busy).sum::<f64>() / count;
    let waits = |waiting: &Option<f64>| waiting.is_none_or(|seconds| seconds >= BACKLOG_SECONDS);
    let having = said.iter().filter(|(_, _, waiting)| waits(waiting)).count() as f64;
    let saturated = busy >= BUSY && lags.values().sum::<f64>() >= BACKLOG_SECONDS * throughput;
    Some(Sample {
        throughput,
        busy,
        quotient: quotient(said.iter()),
        overloaded: overloaded(&said),
        done: said.iter().map(|(_, rate, _)| *rate).fold(0.0, f64::max),
        saturated,
        everywhere: saturated && having >= EVERYWHERE_SHARE * count,
        pressed: lag_before >= throughput,
    })
}

/// For how many seconds work waits at this consumer; `None` if it has not told which partitions it has.
fn waiting_seconds(consumer: &ConsumerObservation, rate: f64, lags: &BTreeMap<i32, f64>) -> Option<f64> {
    let partitions = consumer.partitions.as_ref()?;
    let lag: f64 = partitions.iter().filter_map(|partition| lags.get(partition)).sum();
    Some(if lag > 0.0 { lag / rate } else { 0.0 })
}

/// Events per second that the fastest of the replicas can do that have more than they can do.
fn overloaded(said: &[Said]) -> Option<f64> {
    let has_too_much = |(busy, rate, waiting): &&Said| {
        *busy >= BUSY && *rate > 0.0 && waiting.is_some_and(|seconds| seconds >= OVERLOADED_SECONDS)
    };
    said.iter().filter(has_too_much).map(|(busy, rate, _)| rate / busy).reduce(f64::max)
}

/// Events per second that one replica could do, by the median of the busiest, and how busy these are.
fn quotient<'a>(said: impl Iterator<Item = &'a Said>) -> Option<(f64, f64)> {
    let mut telling: Vec<&Said> = said.filter(|(busy, rate, _)| *busy >= LEAST_BUSY && *rate > 0.0).collect();
    let busiest = telling.iter().map(|(busy, _, _)| *busy).fold(0.0, f64::max);
    telling.retain(|(busy, _, _)| *busy >= BUSIEST_SHARE * busiest);
    let mut quotients: Vec<f64> = telling.iter().map(|(busy, rate, _)| rate / busy).collect();
    quotients.sort_by(f64::total_cmp);
    let quality = telling.iter().map(|(busy, _, _)| busy).sum::<f64>() / telling.len().max(1) as f64;
    median(&quotients).map(|capacity| (capacity, quality))
}

/// Takes a sample into memory. `span` is the time since the last one, `may_fall` is false while it is unclear
/// whether a lower throughput is the replicas' doing or the database's.
pub(crate) fn learn(
    before: &CapacityMemory,
    sample: Option<Sample>,
    span: f64,
    may_fall: bool,
) -> CapacityMemory {
    let mut memory = before.clone();
    memory.quality = (f64::from(before.quality) * (-span / FADING_SECONDS).exp()) as f32;
    let Some(sample) = sample else {
        (memory.throughput, memory.busy, memory.saturated, memory.everywhere) = (None, None, false, false);
        return memory;
    };
    memory.throughput = Some(blend(before.throughput, sample.throughput, span, RECENT_SECONDS));
    memory.busy = Some(blend(before.busy, sample.busy, span, RECENT_SECONDS));
    memory.saturated = sample.saturated;
    memory.everywhere = sample.everywhere;
    follow_quotient(&mut memory, before, &sample, span, may_fall);
    // By less than that the quotient finds it out, with less chance in it.
    let far = memory.rate.is_none_or(|rate| f64::from(rate) * (1.0 + STEP_SHARE) < sample.done);
    if far && sample.done > 0.0 && !sample.saturated {
        memory.rate = Some(sample.done as f32);
        memory.bound = sample.busy >= ALWAYS_BUSY && !sample.pressed;
        memory.samples.clear();
    }
    memory.tentative = before.rate.is_none() && memory.rate.is_some();
    memory
}

fn follow_quotient(
    memory: &mut CapacityMemory,
    before: &CapacityMemory,
    sample: &Sample,
    span: f64,
    may_fall: bool,
) {
    let Some((capacity, quality)) = sample.quotient else {
        return;
    };
    if let Some(capacity) = disproved(before, sample).filter(|_| may_fall) {
        memory.rate = Some(blend(before.rate, capacity, span, SMOOTHING_SECONDS));
        return;
    }
    let quality = if sample.saturated { 1.0 } else { quality };
    let falls = before.rate.is_some_and(|rate| capacity < f64::from(rate));
    // Within chance a sample counts both ways, or the highest ever seen would stay.
    let slightly = before.rate.is_some_and(|rate| capacity >= f64::from(rate) * (1.0 - CHANCE_SHARE));
    let known = f64::from(memory.quality);
    let too_weak = quality < WORSE_BY * known || quality < FAIRLY_BUSY && known >= FAIRLY_BUSY;
    let may_count = if falls { may_fall && (sample.saturated || slightly && !too_weak) } else { !too_weak };
    if !may_count {
        return;
    }
    let far_better = quality >= BETTER_BY * known;
    // Who has just begun is slower than later, and on a machine on which all begin at once far slower.
    let begun =
        before.tentative && before.rate.is_some_and(|rate| capacity > f64::from(rate) * (1.0 + STEP_SHARE));
    memory.rate = Some(match step(before, capacity) {
        Some(rate) => rate as f32,
        None if far_better || begun => capacity as f32,
        None => blend(before.rate, capacity, span, SMOOTHING_SECONDS),
    });
    if sample.saturated || sample.busy < ALWAYS_BUSY {
        memory.bound = false;
    } else if before.rate.is_none() {
        memory.bound = true;
    }
    memory.quality = memory.quality.max(quality as f32);
    push(&mut memory.samples, capacity);
}

/// What a few replicas that have more than they can do show, if it is less than what is known, and not far less.
fn disproved(before: &CapacityMemory, sample: &Sample) -> Option<f64> {
    let known = f64::from(before.rate?);
    let believable = known * (1.0 - OVERLOADED_SHARE)..known;
    sample.overloaded.filter(|capacity| !sample.saturated && believable.contains(capacity))
}

fn blend(known: Option<f32>, seen: f64, span: f64, constant: f64) -> f32 {
    let weight = 1.0 - (-span / constant).exp();
    known.map(f64::from).map_or(seen, |known| known + weight * (seen - known)) as f32
}

/// The new capacity, if three samples in a row agree that it has changed.
fn step(before: &CapacityMemory, capacity: f64) -> Option<f64> {
    let rate = f64::from(before.rate?);
    let [older, newer] = before.samples.as_slice() else {
        return None;
    };
    let mut three = [f64::from(*older), f64::from(*newer), capacity];
    three.sort_by(f64::total_cmp);
    let above = three[0] > rate * (1.0 + STEP_SHARE);
    let below = three[2] < rate * (1.0 - STEP_SHARE);
    (above || below).then_some(three[1])
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle - 1)? + sorted.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consumer(busy: f64, rate: f64) -> ConsumerObservation {
        ConsumerObservation {
            name: "a".to_owned(),
            busy: Some(busy),
            processed_rate: Some(rate),
            partitions: None,
        }
    }

    /// Capacity after samples of busy ratio, rate and lag, five seconds apart.
    fn after(samples: &[(f64, f64, f64)]) -> CapacityMemory {
        let learn_one = |memory, (busy, rate, lag): &(f64, f64, f64)| {
            let lags = BTreeMap::from([(0, *lag)]);
            learn(&memory, sample(&[consumer(*busy, *rate)], 1, 0.0, &lags), 5.0, true)
        };
        samples.iter().fold(CapacityMemory::default(), learn_one)
    }

    #[test]
    fn capacity_is_throughput_by_busy_share() {
        assert_eq!(after(&[(0.5, 50.0, 0.0)]).rate, Some(100.0));
    }

    /// Seen on a machine on which everything began at once: 4 events per second where it was to be a hundred.
    #[test]
    fn the_first_sample_is_tentative_and_gives_way_to_a_far_higher_second_one() {
        let first = after(&[(1.0, 4.0, 900.0)]);
        assert_eq!((first.rate, first.tentative), (Some(4.0), true));
        for (samples, expected) in [
            ([(1.0, 4.0, 900.0), (1.0, 90.0, 900.0)], 90.0..=90.0),
            ([(1.0, 90.0, 900.0), (1.0, 4.0, 900.0)], 80.0..=90.0),
            ([(1.0, 90.0, 900.0), (1.0, 95.0, 900.0)], 90.0..=95.0),
        ] {
            let second = after(&samples);
            assert!(!second.tentative, "{samples:?}");
            assert!(second.rate.is_some_and(|rate| expected.contains(&rate)), "{samples:?}: {second:?}");
        }
        let stuck = after(&[(1.0, 0.0, 900.0)]);
        assert_eq!((stuck.rate, stuck.tentative), (None, false), "who is stuck says nothing");
    }

    /// Flink's autoscaler overestimates capacity when under-loaded and then shrinks too far.
    #[test]
    fn low_load_does_not_inflate_what_is_known() {
        let mut samples = vec![(0.9, 90.0, 0.0); 10];
        samples.extend([(0.3, 60.0, 0.0); 50]);
        samples.extend([(0.05, 50.0, 0.0); 50]);
        assert_eq!(after(&samples).rate, Some(100.0));
    }

    /// A consumer with small batches is always busy; that is no lack of capacity.
    #[test]
    fn without_a_backlog_the_estimate_never_falls() {
        let mut samples = vec![(1.0, 1000.0, 9000.0); 10];
        samples.extend([(1.0, 10.0, 0.0); 1000]);
        assert_eq!(after(&samples).rate, Some(1000.0));
    }

    #[test]
    fn what_has_been_done_can_be_done() {
        let memory = after(&[(1.0, 10.0, 0.0), (1.0, 500.0, 0.0)]);
        assert_eq!(memory.rate, Some(500.0));
        assert!(memory.bound, "nothing shows yet that it is the limit");
        assert!(!after(&[(1.0, 10.0, 0.0), (1.0, 500.0, 5000.0)]).bound, "a backlog shows that it is");
    }

    #[test]
    fn with_a_backlog_a_change_is_taken_after_three_samples_and_one_outlier_is_not() {
        let mut samples = vec![(1.0, 100.0, 9000.0); 10];
        samples.push((1.0, 10.0, 9000.0));
        let outlier = after(&samples).rate.map_or(0.0, f64::from);
        assert!(outlier > 90.0, "{outlier}");
        samples.extend([(1.0, 50.0, 9000.0); 3]);
        assert_eq!(after(&samples).rate, Some(50.0));
    }

    /// A consumer with small batches is always busy, so what waits at one of them would look like all at their limit.
    #[test]
    fn a_backlog_is_everywhere_if_half_of_the_replicas_have_one() {
        let has =
            |partition| ConsumerObservation { partitions: Some(vec![partition]), ..consumer(1.0, 100.0) };
        let untold = vec![consumer(1.0, 100.0); 3];
        let told: Vec<ConsumerObservation> = (0..3).map(has).collect();
        let cases = [
            (&told, [9000.0, 0.0, 0.0], (true, false)),
            (&told, [9000.0, 400.0, 0.0], (true, true)),
            (&told, [200.0, 200.0, 200.0], (false, false)),
            (&untold, [9000.0, 0.0, 0.0], (true, true)),
        ];
        for (consumers, lags, expected) in cases {
            let by_partition = (0..).zip(lags).collect();
            let sample = sample(consumers, 3, 0.0, &by_partition).unwrap();
            assert_eq!((sample.saturated, sample.everywhere), expected, "{lags:?}");
        }
    }

    /// Seen in the simulator: of six replicas one had eleven partitions and not the time for them, the others, as busy with small
    /// batches, hardly anything waiting. For twenty minutes all were taken to be as fast as they were in the beginning.
    #[test]
    fn what_one_overloaded_replica_cannot_do_counts_unless_it_is_far_slower() {
        let known = after(&[(1.0, 32.0, 9000.0); 3]);
        let at_last = |rate: f64, waiting: f64| {
            let consumers: Vec<ConsumerObservation> = [(0, rate), (1, 25.0), (2, 26.0)]
                .map(|(partition, rate)| ConsumerObservation {
                    partitions: Some(vec![partition]),
                    ..consumer(1.0, rate)
                })
                .into();
            let lags = BTreeMap::from([(0, waiting), (1, 0.0), (2, 0.0)]);
            let seen = || sample(&consumers, 3, 0.0, &lags);
            let memory = (0..60).fold(known.clone(), |memory, _| learn(&memory, seen(), 5.0, true));
            memory.rate.map(f32::round)
        };
        for (rate, waiting, expected) in [
            (28.0, 200.0, 28.0), // it has more than it can do
            (28.0, 100.0, 32.0), // it has little waiting
            (10.0, 150.0, 32.0), // something else ails it
            (33.0, 200.0, 32.0), // it is no slower than is known
        ] {
            assert_eq!(at_last(rate, waiting), Some(expected), "{rate} per second, {waiting} waiting");
        }
    }

    /// Small batches cost more each, so replicas with little to do seem to be slower than they are.
    #[test]
    fn the_busiest_replicas_say_what_one_can_do() {
        let uneven = [consumer(0.9, 90.0), consumer(0.8, 80.0), consumer(0.5, 40.0), consumer(0.2, 15.0)];
        let quotient = sample(&uneven, 4, 0.0, &BTreeMap::new()).and_then(|sample| sample.quotient);
        assert_eq!(
            quotient.map(|(capacity, busy)| (capacity.round(), (100.0 * busy).round())),
            Some((100.0, 85.0))
        );
    }

    #[test]
    fn a_replica_that_is_stuck_says_nothing() {
        let both = [consumer(1.0, 0.0), consumer(0.8, 80.0)];
        let quotient =
            sample(&both, 2, 0.0, &BTreeMap::from([(0, 1000.0)])).and_then(|sample| sample.quotient);
        assert_eq!(quotient.map(|(capacity, _)| capacity.round()), Some(100.0));
    }
}
