//! Traces that nothing was ever changed for. They are drawn: what arrives, over how many partitions, how it is
//! shared out, what a replica handles (a hundredth to a hundred times), what the objective is, how fast pods start
//! and what goes wrong all follow from one seed. The law was finished before this set was run; whoever changes the law
//! because of what this set shows must draw another one.

use super::random::Random;
use super::trace::{Incident, Trace};
use super::tuning::{may, must};

/// The seed of the set kept apart.
const HELD_OUT_SEED: u64 = 20_261_203;
/// So many traces are in it.
const HELD_OUT_COUNT: usize = 40;
const SECONDS: usize = 7200;
const SHAPES: usize = 10;
/// The heaviest partition gets at most this share of what one replica handles, unless it is hot.
const HEAVIEST: f64 = 0.7;

/// The traces kept apart. Other draws of the same kind (see [`another`]) were looked at to choose between rules.
pub fn held_out() -> Vec<Trace> {
    drawn("held out", HELD_OUT_SEED, HELD_OUT_COUNT)
}

/// As many traces from another seed.
pub fn another(seed: u64) -> Vec<Trace> {
    drawn(&format!("d{seed}"), seed, HELD_OUT_COUNT)
}

/// Draws some traces.
pub fn drawn(name: &str, seed: u64, count: usize) -> Vec<Trace> {
    let mut random = Random::new(seed);
    (0..count).map(|index| draw(&mut random, &format!("{name} {index:02}"), index)).collect()
}

fn draw(random: &mut Random, name: &str, index: usize) -> Trace {
    let partitions = pick(random, &[6, 8, 12, 16, 20, 30, 48, 64]);
    let weights = weights(random, partitions);
    let heaviest = weights.iter().copied().fold(0.0, f64::max);
    let peak = (random.between(0.35, 1.0) * HEAVIEST / heaviest).clamp(1.2, 24.0).min(HEAVIEST / heaviest);
    let base = peak * random.between(0.08, 0.5);
    let noise = random.between(0.03, 0.12);
    let (from, to) = (600 + random.index(1800), 3600 + random.index(2400));
    // Each round of shapes meets other troubles.
    let (shape, trouble) = (index % SHAPES, (index * 3 + index / SHAPES) % 11);
    let trouble = Trouble::of(trouble);
    let (shape, weights) = match trouble {
        Trouble::Hot => (0, hot(random, partitions)),
        // What must be reported, and when, is only clear of a step.
        Trouble::SinkCap | Trouble::Maximum => (1, weights),
        _ => (shape, weights),
    };
    let load = if trouble == Trouble::Hot { hot_load(&weights) } else { peak };
    let (label, curve) = curve(random, shape, base, load, (from, to));
    let mut trace = Trace::weighted(&format!("{name} {label}"), &weights, SECONDS, noise, curve);
    if shape == 8 {
        let each = random.between(10.0, 150.0) * 100.0 / partitions as f64;
        trace = trace.dump(1800 + random.index(600), 0..partitions, each);
        trace = trace.dump(4800 + random.index(600), 0..partitions.div_ceil(3), each);
    }
    trace.target = pick(random, &[30.0, 45.0, 60.0, 90.0, 120.0]);
    trace.start_seconds = random.between(4.0, 30.0);
    trace.commit_seconds = 1 + random.index(4);
    trace.tells_age = random.index(3) == 0;
    trouble.befall(random, &mut trace, load, (from, to));
    let factor = pick(random, &[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]);
    trace.name = format!("{} {} x{factor}", trace.name, trouble.name());
    trace.scaled(factor)
}

fn pick<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    choices[random.index(choices.len())]
}

/// All alike, or each its own share.
fn weights(random: &mut Random, partitions: usize) -> Vec<f64> {
    let spread = pick(random, &[0.0, 0.0, 0.25, 0.5]);
    let raw: Vec<f64> = (0..partitions).map(|_| (1.0 + spread * random.bell()).clamp(0.3, 2.0)).collect();
    let sum: f64 = raw.iter().sum();
    raw.iter().map(|weight| weight / sum).collect()
}

/// One partition with more than a replica handles, the others with a fifth of it at most.
fn hot(random: &mut Random, partitions: usize) -> Vec<f64> {
    let hottest = random.between(1.3, 1.9);
    let mut rates: Vec<f64> = (0..partitions).map(|_| random.between(0.1, 0.25)).collect();
    rates[random.index(partitions)] = hottest;
    let sum: f64 = rates.iter().sum();
    rates.iter().map(|rate| rate / sum).collect()
}

/// The total at which the hot partition gets half as much again as a replica handles.
fn hot_load(weights: &[f64]) -> f64 {
    1.5 / weights.iter().copied().fold(0.0, f64::max)
}

type Curve = Box<dyn Fn(usize) -> f64>;

/// Replicas' worth of arrivals by second.
fn curve(
    random: &mut Random,
    shape: usize,
    base: f64,
    peak: f64,
    (from, to): (usize, usize),
) -> (&'static str, Curve) {
    let inside = move |second: usize| (from..to).contains(&second);
    let period = 1200 + random.index(6000);
    match shape {
        0 => ("flat", Box::new(move |_| peak)),
        1 => ("step", Box::new(move |second| if inside(second) { peak } else { base })),
        2 => {
            let middle = usize::midpoint(from, to);
            let stairs = move |second| if second < middle { 0.5 * (base + peak) } else { peak };
            ("two steps", Box::new(move |second| if inside(second) { stairs(second) } else { base }))
        }
        3 => {
            let share =
                move |second: usize| (second.saturating_sub(from) as f64 / (to - from) as f64).min(1.0);
            ("ramp", Box::new(move |second| base + (peak - base) * share(second)))
        }
        4 => {
            let turn = std::f64::consts::TAU / (2400 + period) as f64;
            let half = 0.5 * (peak - base);
            ("wave", Box::new(move |second| base + half * (1.0 - (second as f64 * turn).cos())))
        }
        5 => {
            let half = 300 + period / 4;
            ("on-off", Box::new(move |second| if second / half % 2 == 1 { peak } else { base }))
        }
        6 => {
            let long = 20 + random.index(160);
            let spike = move |second: usize| second % 2400 >= 1500 && second % 2400 < 1500 + long;
            ("spikes", Box::new(move |second| if spike(second) { peak } else { base }))
        }
        7 => {
            let mut load = base;
            let mut step = || {
                load = (load + 0.12 * peak * random.bell()).clamp(0.3 * base, peak);
                load
            };
            let steps: Vec<f64> = (0..SECONDS / 60).map(|_| step()).collect();
            ("walk", Box::new(move |second| steps[second / 60]))
        }
        8 => ("dumps", Box::new(move |_| base)),
        _ => {
            let share = move |second: usize| (second % period) as f64 / period as f64;
            ("sawtooth", Box::new(move |second| base + (peak - base) * share(second)))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Crash,
    Rollout,
    SinkCap,
    Outage,
    Blind,
    Stuck,
    Hot,
    Maximum,
    Batches,
    SlowEvent,
}

impl Trouble {
    fn of(index: usize) -> Self {
        [
            Self::None,
            Self::Crash,
            Self::SinkCap,
            Self::Rollout,
            Self::Outage,
            Self::Blind,
            Self::Stuck,
            Self::Hot,
            Self::Maximum,
            Self::Batches,
            Self::SlowEvent,
        ][index % 11]
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Crash => "crash",
            Self::Rollout => "rollout",
            Self::SinkCap => "sink cap",
            Self::Outage => "outage",
            Self::Blind => "blind",
            Self::Stuck => "stuck",
            Self::Hot => "hot",
            Self::Maximum => "maximum",
            Self::Batches => "batches",
            Self::SlowEvent => "slow event",
        }
    }

    /// What goes wrong, and which conditions are true because of it.
    fn befall(self, random: &mut Random, trace: &mut Trace, peak: f64, (from, to): (usize, usize)) {
        let at = from + 60 + random.index(to - from);
        let partition = random.index(trace.arrivals.len());
        match self {
            Self::None => {}
            Self::Crash => trace.incidents = vec![Incident::Crash { at }, Incident::Crash { at: at / 2 }],
            Self::Rollout => trace.incidents = vec![Incident::Rollout { at }],
            Self::SinkCap => {
                trace.sink = vec![(0, 100.0 * peak * random.between(0.55, 0.75))];
                trace.truths =
                    vec![must("SinkSaturated", from, SECONDS, 600), may("AtPartitionCount", from, SECONDS)];
            }
            Self::Outage => {
                let end = at + 60 + random.index(240);
                trace.sink = vec![(at, 0.0), (end, 1e9)];
                trace.truths = vec![may("Stalled", at, end), may("AtPartitionCount", at, end + 600)];
            }
            Self::Blind => {
                let end = at + 60 + random.index(500);
                trace.incidents = vec![Incident::OffsetsUnknown { from: at, to: end }];
                trace.truths = vec![must("LagUnknown", at, end, 10)];
            }
            Self::Stuck => {
                let end = at + 400 + random.index(1200);
                trace.incidents = vec![Incident::Stuck { partition, from: at, to: end }];
                trace.truths = vec![must("Stalled", at, end, 240)];
            }
            Self::Hot => trace.truths = vec![must("HotPartition", 0, SECONDS, 240)],
            Self::Maximum => {
                trace.max = Some(((0.6 * peak) as u32).max(trace.initial).max(1));
                // Uneven partitions may make the busiest replica need more before the step too.
                trace.truths = vec![must("AtMaximum", from, SECONDS, 240), may("AtMaximum", 0, from)];
            }
            Self::Batches => trace.busy_gain = random.between(5.0, 60.0),
            Self::SlowEvent => {
                trace.incidents = vec![Incident::Stuck { partition, from: at, to: at + 60 }];
            }
        }
    }
}
