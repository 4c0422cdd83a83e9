//! How fast events arrive, per partition.
//!
//! The rate between two readings is a sample. Three samples are kept, and their **median** decides whether the
//! load has changed: one dump of any size is one sample and changes nothing (it is backlog, not rate), while a
//! true step is two samples old when it is believed. Downwards all three must agree, for a pause between two
//! bursts is no end of the load. Between changes the samples are averaged exponentially, each one bounded by
//! four times the rate, so that bursts that recur are counted and a dump is not. A change is significant when it
//! leaves both a band around the rate and what chance does to counted events (four standard deviations of a Poisson
//! count), or when the topic as a whole changes so.

use litemap::LiteMap;

use crate::offsets::Reading;
use crate::state::{PartitionMemory, push};

/// Time constant of the average, in seconds.
pub(crate) const SMOOTHING_SECONDS: f64 = 60.0;
/// Time constant of the average that knows no steps.
pub(crate) const CALM_SECONDS: f64 = 120.0;
/// Readings closer together than this are not compared: commits and polls are not that regular.
const LEAST_SPAN_SECONDS: f64 = 0.9;
/// A change beyond this share of the rate may be a step.
const STEP_SHARE: f64 = 0.3;
/// A change beyond so many standard deviations of a count is not chance, …
const STEP_DEVIATIONS: f64 = 4.0;
/// … or beyond so many, if the whole topic changes.
const STEP_DEVIATIONS_TOGETHER: f64 = 0.5;
/// A single sample counts as at most so many times the rate.
const BURST_FACTOR: f64 = 4.0;
/// So few events in one reading are never a dump.
const FEW_EVENTS: f64 = 10.0;

/// Takes a reading into the partition's memory. `attended` tells that consumers had the partition since the
/// last reading, so that a position that stands still says something about them; `trend` what the topic as a whole does.
pub(crate) fn learn(
    memory: Option<&PartitionMemory>,
    reading: &Reading,
    now: f64,
    attended: bool,
    trend: Trend,
) -> PartitionMemory {
    let Some(before) = memory else {
        return first(reading, now);
    };
    let span = now - before.time;
    if span < LEAST_SPAN_SECONDS {
        return before.clone();
    }
    let mut after = before.clone();
    let sample = (reading.end - before.end).max(0) as f64 / span;
    let deviations = if trend == Trend::Stepped { STEP_DEVIATIONS_TOGETHER } else { STEP_DEVIATIONS };
    after.rate = Some(rate(before, sample, span, deviations) as f32);
    let calm = before.calm.map_or(sample, f64::from);
    after.calm = Some((calm + (1.0 - (-span / CALM_SECONDS).exp()) * (sample - calm)) as f32);
    push(&mut after.samples, sample);
    after.served = Some(((reading.position - before.position).max(0) as f64 / span) as f32);
    if reading.position != before.position || reading.lag() <= before.residue {
        after.moved = now;
    } else if !attended {
        // Time without consumers says nothing of them, and takes nothing back of what was seen before.
        after.moved = (before.moved + span).min(now);
    }
    if reading.lag() == 0 {
        after.drained = Some(now);
    }
    if reading.position != before.position {
        after.residue = 0;
    }
    (after.time, after.end, after.position) = (now, reading.end, reading.position);
    after
}

fn first(reading: &Reading, now: f64) -> PartitionMemory {
    PartitionMemory {
        time: now,
        end: reading.end,
        position: reading.position,
        moved: now,
        drained: (reading.lag() == 0).then_some(now),
        ..PartitionMemory::default()
    }
}

fn rate(before: &PartitionMemory, sample: f64, span: f64, deviations: f64) -> f64 {
    let Some(rate) = before.rate.map(f64::from) else {
        return sample;
    };
    if let Some(step) = step(rate, &before.samples, sample, span, deviations) {
        return step;
    }
    let middle = middle(&before.samples, sample);
    let bounded = sample.min(middle.max(BURST_FACTOR * rate).max(FEW_EVENTS / span));
    rate + (1.0 - (-span / SMOOTHING_SECONDS).exp()) * (bounded - rate)
}

/// The new rate, if the samples say that it has changed for good.
fn step(rate: f64, samples: &[f32], sample: f64, span: f64, deviations: f64) -> Option<f64> {
    let significant = |candidate: f64| {
        let larger = rate.max(candidate);
        let change = (candidate - rate).abs();
        change > STEP_SHARE * larger && change > deviations * (larger / span).sqrt()
    };
    let (middle, largest) = (middle(samples, sample), largest(samples, sample));
    if middle > rate && significant(middle) {
        // The first of the two readings caught only a part of the step; the second is the better measure.
        return Some(sample.clamp(middle, BURST_FACTOR * middle));
    }
    (largest < rate && significant(largest)).then_some(largest)
}

/// What the topic as a whole does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trend {
    /// Nothing new.
    #[default]
    Steady,
    /// The last reading shows far more than before: a dump or a step, the next one will tell.
    Undecided,
    /// The arrivals have changed. What chance hides in each partition shows in the sum.
    Stepped,
}

/// What the topic as a whole does, from what was remembered and what is read now.
pub(crate) fn trend(memories: &LiteMap<i32, PartitionMemory>, readings: &[Reading], now: f64) -> Trend {
    let (mut rate, mut older, mut newer, mut sample) = (0.0, 0.0, 0.0, 0.0);
    let mut least = f64::INFINITY;
    for reading in readings {
        let before =
            memories.get(&reading.partition).filter(|memory| now - memory.time >= LEAST_SPAN_SECONDS);
        let Some((before, known)) = before.and_then(|before| Some((before, before.rate?))) else {
            continue;
        };
        let [one, two] = before.samples.as_slice() else {
            continue;
        };
        let span = now - before.time;
        (rate, older, newer) = (rate + f64::from(known), older + f64::from(*one), newer + f64::from(*two));
        sample += (reading.end - before.end).max(0) as f64 / span;
        least = least.min(span);
    }
    if !least.is_finite() {
        return Trend::Steady;
    }
    if step(rate, &[older as f32, newer as f32], sample, least, STEP_DEVIATIONS).is_some() {
        return Trend::Stepped;
    }
    let alone = |sample: f64| step(rate, &[], sample, least, STEP_DEVIATIONS).is_some_and(|step| step > rate);
    if alone(sample) && !alone(newer) { Trend::Undecided } else { Trend::Steady }
}

fn largest(samples: &[f32], sample: f64) -> f64 {
    samples.iter().map(|sample| f64::from(*sample)).fold(sample, f64::max)
}

/// Median of three samples; the smaller one of two.
fn middle(samples: &[f32], sample: f64) -> f64 {
    match samples {
        [] => sample,
        [only] => sample.min(f64::from(*only)),
        [.., older, newer] => {
            let (older, newer) = (f64::from(*older), f64::from(*newer));
            older.max(newer).min(older.min(newer).max(sample))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds arrivals per 5 seconds and gives the rate after each.
    fn rates(arrivals: &[i64]) -> Vec<f64> {
        let mut reading = Reading { partition: 0, end: 0, position: 0, pinned: true, lag_seconds: None };
        let mut memory = learn(None, &reading, 0.0, true, Trend::Steady);
        let mut seen = Vec::new();
        for (index, count) in arrivals.iter().enumerate() {
            reading.end += count;
            memory = learn(Some(&memory), &reading, 5.0 * (index + 1) as f64, true, Trend::Steady);
            seen.push(memory.rate.map_or(0.0, f64::from));
        }
        seen
    }

    #[test]
    fn a_dump_is_backlog_and_not_rate() {
        let mut arrivals = vec![500; 40];
        arrivals[20] = 250_000;
        let seen = rates(&arrivals);
        assert!(seen.iter().all(|rate| (90.0..=126.0).contains(rate)), "{seen:?}");
    }

    #[test]
    fn a_step_is_believed_after_two_readings_up_and_three_down() {
        let mut arrivals = vec![500; 10];
        arrivals.extend([2500; 10]);
        arrivals.extend([100; 10]);
        let seen = rates(&arrivals);
        assert!((seen[11] - 500.0).abs() < 1.0, "{seen:?}");
        assert!((seen[22] - 20.0).abs() < 1.0, "{seen:?}");
    }

    #[test]
    fn chance_in_small_counts_is_no_step() {
        let seen =
            rates(&[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3]);
        assert!(seen[12..].iter().all(|rate| (0.4..=1.6).contains(rate)), "{seen:?}");
    }

    #[test]
    fn bursts_that_recur_are_counted() {
        let arrivals: Vec<i64> = (0..120).map(|index| if index % 3 == 0 { 300 } else { 0 }).collect();
        let last = rates(&arrivals)[119];
        assert!((14.0..=26.0).contains(&last), "20 per second on average, believed {last}");
    }
}
