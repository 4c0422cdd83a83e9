//! Traces that were looked at while the law was developed, though no constant was fitted to one of them: other seeds
//! (a trace's seed follows from its name), numbers of partitions, objectives, capacities from a hundredth to a hundred
//! times and shapes of load than those used for tuning, and a draw of the generator that makes the held-out set.

use super::held_out::drawn;
use super::random::Random;
use super::trace::{Incident, Trace};
use super::tuning::{between, may, must};

const TWO_HOURS: usize = 7200;

/// The seed of the traces that are drawn.
const SEED: u64 = 1;

/// The traces that were looked at.
pub fn validation() -> Vec<Trace> {
    let mut all = loads();
    all.extend(scaled());
    all.extend(trouble());
    all.extend(drawn("v", SEED, 22));
    all
}

fn loads() -> Vec<Trace> {
    let walk = {
        let mut random = Random::new(4711);
        let mut load: f64 = 5.0;
        let steps: Vec<f64> = (0..TWO_HOURS / 60)
            .map(|_| {
                load = (load + 0.8 * random.bell()).clamp(0.7, 14.0);
                load
            })
            .collect();
        move |second: usize| steps[second / 60]
    };
    let saw = |second: usize| 2.0 + 9.0 * (second % 2400) as f64 / 2400.0;
    let stairs = |second: usize| 1.5 + 2.5 * (second / 1200) as f64;
    let spikes = |second: usize| match second {
        1500..1560 => 7.0,
        3300..3480 => 14.0,
        5400..5430 => 22.0,
        _ => 2.6,
    };
    let mut all = vec![
        Trace::even("h random walk", 16, TWO_HOURS, 0.1, walk),
        Trace::even("h sawtooth", 24, TWO_HOURS, 0.08, saw),
        Trace::even("h stairs", 36, TWO_HOURS, 0.05, stairs),
        Trace::even("h three spikes", 30, TWO_HOURS, 0.05, spikes),
        Trace::even("h flat 126 partitions", 126, TWO_HOURS, 0.05, |_| 38.0),
        Trace::even("h flat 7 partitions", 7, TWO_HOURS, 0.1, |_| 1.8),
        Trace::even("h step on 100 partitions", 100, TWO_HOURS, 0.05, between(25, 80, 27.0, 6.0)),
        Trace::even(
            "h short on-off",
            24,
            TWO_HOURS,
            0.05,
            |second| if second / 240 % 2 == 1 { 6.5 } else { 1.2 },
        ),
        Trace::even("h half-hour on-off", 12, TWO_HOURS, 0.05, |second| {
            if second / 1800 % 2 == 1 { 5.2 } else { 1.3 }
        }),
        Trace::even("h dumps each half hour", 24, TWO_HOURS, 0.05, |_| 2.2)
            .dump(1800, 0..24, 1200.0)
            .dump(3600, 0..24, 1200.0)
            .dump(5400, 0..24, 1200.0),
    ];
    all[2].target = 30.0;
    all[8].target = 120.0;
    all
}

fn scaled() -> Vec<Trace> {
    let step = |name: &str| Trace::even(name, 20, TWO_HOURS, 0.06, between(22, 68, 8.6, 2.1));
    let mut all = Vec::new();
    for factor in [0.01, 0.1, 10.0, 100.0] {
        all.push(step(&format!("h step, capacity x{factor}")).scaled(factor));
    }
    let mut wave = Trace::even("h wave, capacity x0.05", 48, TWO_HOURS, 0.1, |second| {
        11.0 - 9.0 * (second as f64 * std::f64::consts::TAU / 5400.0).cos()
    })
    .scaled(0.05);
    wave.target = 45.0;
    all.push(wave);
    let mut batches =
        Trace::even("h natural batches", 32, TWO_HOURS, 0.08, between(20, 50, 5.3, 0.9)).scaled(40.0);
    batches.busy_gain = 60.0;
    all.push(batches);
    let mut told = Trace::even("h age told", 24, TWO_HOURS, 0.06, between(40, 90, 7.3, 1.7)).scaled(3.0);
    told.tells_age = true;
    all.push(told);
    all
}

fn trouble() -> Vec<Trace> {
    let mut two_hot = vec![0.05; 12];
    two_hot[2] = 1.3 / 4.6;
    two_hot[9] = 1.4 / 4.6;
    let rest = (4.6 - 2.7) / 4.6 / 10.0;
    two_hot
        .iter_mut()
        .enumerate()
        .filter(|(id, _)| *id != 2 && *id != 9)
        .for_each(|(_, weight)| *weight = rest);
    let mut hot = Trace::weighted("h two hot partitions", &two_hot, TWO_HOURS, 0.05, |_| 4.6);
    hot.truths = vec![must("HotPartition", 0, TWO_HOURS, 180)];
    let mut sink = Trace::even("h sink cap under a ramp", 24, TWO_HOURS, 0.05, |second| {
        2.0 + 7.0 * (second as f64 / 3000.0).min(1.0)
    });
    sink.sink = vec![(0, 700.0)];
    sink.truths =
        vec![must("SinkSaturated", 2100, TWO_HOURS, 2400), may("AtPartitionCount", 2100, TWO_HOURS)];
    let mut faster = Trace::even("h capacity grows", 24, TWO_HOURS, 0.05, |_| 7.0);
    faster.drift = vec![(3000, 1.8)];
    let mut outage = Trace::even("h outage of 90 s", 32, TWO_HOURS, 0.05, |_| 9.0);
    outage.sink = vec![(3000, 0.0), (3090, 1e9)];
    outage.truths = vec![may("Stalled", 3000, 3090), may("AtPartitionCount", 3090, 3300)];
    let mut start = Trace::even("h start of 45 s", 24, TWO_HOURS, 0.05, between(35, 70, 6.2, 2.4));
    start.start_seconds = 45.0;
    let mut blind = Trace::even("h blind in a step", 24, TWO_HOURS, 0.05, between(35, 70, 6.2, 2.4));
    blind.incidents = vec![Incident::OffsetsUnknown { from: 2040, to: 2200 }];
    blind.truths = vec![must("LagUnknown", 2040, 2200, 10)];
    let mut stuck = Trace::even("h two stuck partitions", 24, TWO_HOURS, 0.05, |_| 4.4);
    stuck.incidents = vec![
        Incident::Stuck { partition: 3, from: 2000, to: 3500 },
        Incident::Stuck { partition: 4, from: 2300, to: 3500 },
    ];
    stuck.truths = vec![must("Stalled", 2000, 3500, 180)];
    let mut naps =
        Trace::even("h naps", 12, TWO_HOURS, 0.05, |second| if second % 2400 < 500 { 4.5 } else { 0.0 });
    (naps.min, naps.initial) = (0, 0);
    let mut rollout = Trace::even("h rollout in a step", 24, TWO_HOURS, 0.05, between(30, 60, 6.0, 3.0));
    rollout.incidents = vec![Incident::Rollout { at: 1750 }, Incident::Crash { at: 4500 }];
    vec![hot, sink, faster, outage, start, blind, stuck, naps, rollout]
}
