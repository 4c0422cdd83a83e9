//! The traces on which the law was tuned. The held-out ones are in `held_out`.

use super::trace::{Incident, Trace, Truth};

const MINUTE: usize = 60;
const TWO_HOURS: usize = 120 * MINUTE;
const PARTITIONS: usize = 24;

/// A condition that must be reported within so many seconds.
pub fn must(condition: &'static str, from: usize, to: usize, within: usize) -> Truth {
    Truth { condition, from, to, within: Some(within) }
}

/// A condition that may be reported.
pub fn may(condition: &'static str, from: usize, to: usize) -> Truth {
    Truth { condition, from, to, within: None }
}

/// `inside` from one minute to another, `outside` else.
pub fn between(from: usize, to: usize, inside: f64, outside: f64) -> impl Fn(usize) -> f64 {
    move |second| if (from * MINUTE..to * MINUTE).contains(&second) { inside } else { outside }
}

/// The traces used for tuning.
pub fn tuning() -> Vec<Trace> {
    let mut all = flat();
    all.extend(shapes());
    all.extend(skewed());
    all.extend(limits());
    all.extend(faults());
    all.extend(lifecycle());
    all
}

fn even(name: &str, noise: f64, load: impl Fn(usize) -> f64) -> Trace {
    Trace::even(name, PARTITIONS, TWO_HOURS, noise, load)
}

fn flat() -> Vec<Trace> {
    let loads = [0.5, 0.9, 1.7, 2.8, 3.6, 4.7, 5.6, 7.4, 10.9, 19.0].into_iter();
    let mut all: Vec<Trace> = loads.map(|load| even(&format!("flat {load}"), 0.05, move |_| load)).collect();
    for (load, initial) in [(0.7, 2), (3.6, 8), (7.4, 24)] {
        let mut surplus = even(&format!("surplus {load} of {initial}"), 0.05, move |_| load);
        surplus.initial = initial;
        all.push(surplus);
    }
    all
}

fn shapes() -> Vec<Trace> {
    let mut bursts = even("bursts each minute", 0.05, |second| if second % 60 >= 50 { 15.0 } else { 1.0 });
    bursts.initial = 4;
    let wave = |second: usize| 8.0 + 6.0 * (second as f64 * std::f64::consts::TAU / TWO_HOURS as f64).sin();
    vec![
        even("step x5", 0.05, between(30, 75, 9.6, 1.8)),
        even("spike 90 s", 0.05, |second| if (2400..2490).contains(&second) { 9.6 } else { 1.8 }),
        even("ramp", 0.05, |second| 1.8 + 16.0 * (second as f64 / 3600.0).min(1.0)),
        even("diurnal", 0.05, wave),
        even("diurnal noisy", 0.3, wave),
        even("on-off 10 min", 0.05, |second| if second / 600 % 2 == 1 { 7.0 } else { 0.5 }),
        bursts,
        even("dump", 0.05, |_| 2.8).dump(2400, 0..PARTITIONS, 2500.0),
        even("dump on three", 0.05, |_| 2.8).dump(2400, 0..3, 15_000.0),
        even("noisy flat", 0.3, |_| 5.3),
    ]
}

fn skewed() -> Vec<Trace> {
    let zipf: Vec<f64> = (1..=PARTITIONS).map(|rank| 1.0 / rank as f64).collect();
    let sum: f64 = zipf.iter().sum();
    let zipf: Vec<f64> = zipf.iter().map(|weight| weight / sum).collect();
    let one = |share: f64| {
        let rest = (1.0 - share) / (PARTITIONS - 1) as f64;
        let mut weights = vec![rest; PARTITIONS];
        weights[7] = share;
        weights
    };
    let hot = between(30, 75, 4.5, 4.5);
    let mut infeasible = Trace::weighted("hot partition", &one(1.5 / 4.5), TWO_HOURS, 0.05, hot);
    infeasible.truths = vec![must("HotPartition", 0, TWO_HOURS, 180)];
    let mut three = [0.12; 18];
    [1, 6, 12].iter().for_each(|partition| three[*partition] = 1.35);
    let total: f64 = three.iter().sum();
    let shares: Vec<f64> = three.iter().map(|load| load / total).collect();
    let mut several = Trace::weighted("three hot partitions", &shares, TWO_HOURS, 0.05, move |_| total);
    several.truths = vec![must("HotPartition", 0, TWO_HOURS, 180)];
    vec![
        several,
        Trace::weighted("zipf", &zipf, TWO_HOURS, 0.05, |_| 2.6),
        Trace::weighted("zipf step", &zipf, TWO_HOURS, 0.05, between(30, 75, 3.2, 1.2)),
        Trace::weighted("one fast partition", &one(0.6 / 3.0), TWO_HOURS, 0.05, |_| 3.0),
        infeasible,
    ]
}

fn limits() -> Vec<Trace> {
    let mut cap = even("sink cap", 0.05, between(30, 70, 9.6, 2.8));
    cap.sink = vec![(0, 600.0)];
    cap.truths = vec![must("SinkSaturated", 1800, 7200, 420), may("AtPartitionCount", 1800, 5400)];
    let mut drop = even("sink drops", 0.05, |_| 4.6);
    drop.sink = vec![(2400, 300.0), (3600, 1e9)];
    drop.truths = vec![must("SinkSaturated", 2400, 3900, 420), may("AtPartitionCount", 2400, 4200)];
    let mut drift = even("capacity drifts", 0.05, |_| 4.6);
    drift.drift = vec![(2400, 0.6), (4800, 1.0)];
    let mut bounded = even("at maximum", 0.05, between(30, 60, 9.6, 2.8));
    bounded.max = Some(6);
    bounded.truths = vec![must("AtMaximum", 1800, 7200, 180)];
    let mut outage = even("outage", 0.05, |_| 4.6);
    outage.sink = vec![(2400, 0.0), (2700, 1e9)];
    outage.truths = vec![must("Stalled", 2400, 2700, 150), may("AtPartitionCount", 2700, 3000)];
    let mut during = even("outage during step", 0.05, between(30, 75, 9.6, 1.8));
    during.sink = vec![(1860, 0.0), (2160, 1e9)];
    during.truths = vec![must("Stalled", 1860, 2160, 150), may("AtPartitionCount", 1860, 2700)];
    vec![cap, drop, drift, bounded, outage, during]
}

fn faults() -> Vec<Trace> {
    let step = |name: &str| even(name, 0.05, between(30, 75, 9.6, 1.8));
    let mut missing = step("partition missing");
    missing.incidents = vec![Incident::PartitionUnknown { partition: 5, from: 1700, to: 2300 }];
    missing.truths = vec![must("LagUnknown", 1700, 2300, 10)];
    let mut blind = even("offsets unknown", 0.05, |_| 6.4);
    blind.incidents = vec![Incident::OffsetsUnknown { from: 2400, to: 3000 }];
    blind.truths = vec![must("LagUnknown", 2400, 3000, 10)];
    let mut unmeasured = step("consumers unmeasured");
    unmeasured.incidents = vec![Incident::Unmeasured { from: 1200, to: 4000 }];
    let mut poison = even("stuck partition", 0.05, |_| 3.3);
    poison.incidents = vec![Incident::Stuck { partition: 11, from: 2400, to: 4200 }];
    poison.truths = vec![must("Stalled", 2400, 4200, 180)];
    let mut slow = even("slow message", 0.05, |_| 3.3);
    slow.incidents = vec![Incident::Stuck { partition: 11, from: 2400, to: 2460 }];
    let mut crashes = even("crash every 5 min", 0.05, |_| 4.6);
    crashes.incidents = (2..23).map(|turn| Incident::Crash { at: turn * 300 }).collect();
    let mut stale = step("commits every 5 s");
    stale.commit_seconds = 5;
    vec![missing, blind, unmeasured, poison, slow, crashes, stale]
}

fn lifecycle() -> Vec<Trace> {
    let step = |name: &str| even(name, 0.05, between(30, 75, 9.6, 1.8));
    let mut slow = step("slow start");
    slow.start_seconds = 120.0;
    let mut rollout = even("rollout in a spike", 0.05, between(30, 45, 8.6, 2.8));
    rollout.incidents = vec![Incident::Rollout { at: 1830 }];
    let mut more = even("more partitions", 0.05, |_| 7.4);
    for partition in 12..PARTITIONS {
        more.arrivals[partition][..3600].fill(0.0);
    }
    more.incidents = vec![Incident::Partitions { at: 3600, count: 12 }];
    let mut anew = even("topic made anew", 0.05, |_| 4.3);
    anew.incidents = vec![Incident::Recreated { at: 3600 }];
    anew.truths = vec![may("LagUnknown", 3600, 3620)];
    let mut wake = even("sleep and wake", 0.05, between(30, 60, 6.0, 0.0));
    wake.min = 0;
    wake.initial = 0;
    let mut naps = even("short jobs", 0.05, |second| if second % 1800 < 120 { 3.0 } else { 0.0 });
    naps.min = 0;
    naps.initial = 1;
    let mut cold = even("cold start", 0.05, |_| 9.0);
    cold.initial = 1;
    // What `make soak` does on a real cluster, with the short windows of its pipeline.
    let mut soak = Trace::even("soak", 16, TWO_HOURS, 0.02, |second| if second < 180 { 0.0 } else { 3.0 });
    (soak.target, soak.stabilization_seconds, soak.cooldown_seconds) = (20.0, 20.0, 10.0);
    let trickle = even("trickle", 0.05, |_| 0.02);
    let mut batching = step("natural batches");
    batching.busy_gain = 40.0;
    let mut surplus = even("natural batches, surplus", 0.05, |_| 1.4);
    (surplus.busy_gain, surplus.initial) = (40.0, 4);
    let mut wave = even("natural batches, wave", 0.1, |second| {
        5.0 - 4.5 * (second as f64 * std::f64::consts::TAU / 3600.0).cos()
    });
    wave.busy_gain = 40.0;
    vec![batching, surplus, wave, slow, rollout, more, anew, wake, naps, cold, soak, trickle]
}
