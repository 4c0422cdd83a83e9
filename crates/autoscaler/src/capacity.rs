//! What one replica can do, from how busy it is: true processing rate = events per second / busy share
//! (DS2, Kalavri et al., OSDI 2018; Flink's autoscaler uses the same quotient).
//!
//! The quotient is only as good as the load: near idle, fixed costs and rounding dominate it. So every sample
//! carries the busy ratio it was taken at as its quality, a sample counts only if it is not much worse than
//! what is known, and knowledge fades over half an hour. Samples are taken only while the group has been settled
//! for the whole interval. A replica that is busy and processes nothing is stuck, not slow; it says nothing.

use crate::ConsumerObservation;
use crate::state::CapacityMemory;

/// Below this busy ratio a replica says nothing about its capacity.
const LEAST_BUSY: f64 = 0.25;
/// A sample counts if its quality is at least this share of the known one.
const WORSE_BY: f64 = 0.8;
/// Time constant with which the quality of what is known fades, in seconds.
const FADING_SECONDS: f64 = 1800.0;
/// Time constant of the average, in seconds.
const SMOOTHING_SECONDS: f64 = 60.0;
/// When three samples in a row agree on a change larger than this, it is taken at once.
const STEP_SHARE: f64 = 0.15;
/// Time constant of throughput and busy ratio, in seconds.
const RECENT_SECONDS: f64 = 20.0;
/// A replica at least so busy is at its limit.
pub(crate) const SATURATED: f64 = 0.85;

/// What the consumers said, taken together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Events per second of all replicas.
    pub(crate) throughput: f64,
    /// Mean busy ratio.
    pub(crate) busy: f64,
    /// Events per second that one replica could do, and the mean busy ratio of the replicas that say so.
    pub(crate) capacity: Option<(f64, f64)>,
}

/// Takes together what the consumers said; `None` if too few of them could be read.
pub(crate) fn sample(consumers: &[ConsumerObservation], replicas: u32) -> Option<Sample> {
    let said: Vec<(f64, f64)> = consumers
        .iter()
        .filter_map(|consumer| Some((consumer.busy?.clamp(0.0, 1.0), consumer.processed_rate?.max(0.0))))
        .filter(|(busy, rate)| busy.is_finite() && rate.is_finite())
        .collect();
    if said.is_empty() || said.len() * 2 < replicas as usize {
        return None;
    }
    let count = said.len() as f64;
    let telling: Vec<(f64, f64)> =
        said.iter().copied().filter(|(busy, rate)| *busy >= LEAST_BUSY && *rate > 0.0).collect();
    let mut quotients: Vec<f64> = telling.iter().map(|(busy, rate)| rate / busy).collect();
    quotients.sort_by(f64::total_cmp);
    let quality = telling.iter().map(|(busy, _)| busy).sum::<f64>() / telling.len().max(1) as f64;
    Some(Sample {
        throughput: said.iter().map(|(_, rate)| rate).sum::<f64>() * f64::from(replicas) / count,
        busy: said.iter().map(|(busy, _)| busy).sum::<f64>() / count,
        capacity: median(&quotients).map(|capacity| (capacity, quality)),
    })
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
        (memory.throughput, memory.busy) = (None, None);
        return memory;
    };
    let blend = |known: Option<f32>, seen: f64, constant: f64| {
        known.map(f64::from).map_or(seen, |known| known + (1.0 - (-span / constant).exp()) * (seen - known))
            as f32
    };
    memory.throughput = Some(blend(before.throughput, sample.throughput, RECENT_SECONDS));
    memory.busy = Some(blend(before.busy, sample.busy, RECENT_SECONDS));
    let Some((capacity, quality)) = sample.capacity else {
        return memory;
    };
    let falls = before.rate.is_some_and(|rate| capacity < f64::from(rate));
    if quality < WORSE_BY * f64::from(memory.quality) || (falls && !may_fall) {
        return memory;
    }
    memory.rate = Some(match step(before, capacity) {
        Some(rate) => rate as f32,
        None => blend(before.rate, capacity, SMOOTHING_SECONDS),
    });
    memory.quality = memory.quality.max(quality as f32);
    memory.samples.push(capacity as f32);
    if memory.samples.len() > 2 {
        memory.samples.remove(0);
    }
    memory
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

    fn after(samples: &[(f64, f64)]) -> CapacityMemory {
        let learn_one = |memory, (busy, rate): &(f64, f64)| {
            learn(&memory, sample(&[consumer(*busy, *rate)], 1), 5.0, true)
        };
        samples.iter().fold(CapacityMemory::default(), learn_one)
    }

    #[test]
    fn capacity_is_throughput_by_busy_share() {
        assert_eq!(after(&[(0.5, 50.0)]).rate, Some(100.0));
    }

    /// Flink's autoscaler overestimates capacity when under-loaded and then shrinks too far.
    #[test]
    fn low_load_neither_inflates_nor_deflates_what_is_known() {
        let mut samples = vec![(0.9, 90.0); 10];
        samples.extend([(0.3, 60.0); 50]);
        samples.extend([(0.05, 50.0); 50]);
        assert_eq!(after(&samples).rate, Some(100.0));
    }

    #[test]
    fn knowledge_fades_so_that_lower_load_counts_in_the_end() {
        let mut samples = vec![(0.9, 90.0); 10];
        samples.extend([(0.5, 30.0); 400]);
        let rate = after(&samples).rate.map_or(0.0, f64::from);
        assert!((rate - 60.0).abs() < 6.0, "{rate}");
    }

    #[test]
    fn a_true_change_is_taken_after_three_samples_and_one_outlier_is_not() {
        let mut samples = vec![(1.0, 100.0); 10];
        samples.push((1.0, 10.0));
        let outlier = after(&samples).rate.map_or(0.0, f64::from);
        assert!(outlier > 90.0, "{outlier}");
        samples.extend([(1.0, 50.0); 3]);
        assert_eq!(after(&samples).rate, Some(50.0));
    }

    #[test]
    fn a_replica_that_is_stuck_says_nothing() {
        let stuck = sample(&[consumer(1.0, 0.0), consumer(0.8, 80.0)], 2).and_then(|sample| sample.capacity);
        assert_eq!(stuck.map(|(capacity, _)| capacity.round()), Some(100.0));
    }
}
