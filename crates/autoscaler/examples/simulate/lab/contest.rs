//! All scalers in one trace: ours, the baselines, the oracle; and whether the goals hold.

use super::flink::{Flink, FlinkOptions};
use super::group::Protocol;
use super::keda::Keda;
use super::others::{CloudRun, Druid, Numaflow};
use super::residue::residue;
use super::run::{Outcome, run};
use super::scaler::{Fixed, Ours, Scaler};
use super::trace::Trace;

/// Name of the baseline whose scale events are the yardstick.
pub const FLINK_FAST: &str = "Flink fast";
/// Violations that differ by no more than a reading's interval …
const SAME_SECONDS: f64 = 5.0;
/// … or by this share count as equal.
const SAME_SHARE: f64 = 0.01;

/// Replica-hours that the goal allows, as a multiple of the oracle's.
const MOST_HOURS: f64 = 1.15;

/// So much more excess counts as equal.
const SAME_EXCESS: f64 = 1.1;

fn same(violation: f64) -> f64 {
    violation + SAME_SECONDS.max(SAME_SHARE * violation)
}

/// What came of a trace under one protocol.
#[derive(Debug)]
pub struct Contest {
    pub trace: Trace,
    pub protocol: Protocol,
    pub ours: Outcome,
    pub baselines: Vec<Outcome>,
    pub oracle: Outcome,
    /// Seconds of violation that no reaction could have prevented.
    pub residue: f64,
}

/// Runs everything on a trace.
pub fn contest(trace: &Trace, protocol: Protocol) -> Contest {
    let ours = run(trace, protocol, &mut Ours::new(trace, protocol), trace.initial);
    let baselines = baselines(trace)
        .iter_mut()
        .map(|scaler| run(trace, protocol, scaler.as_mut(), trace.initial))
        .collect();
    let residue = residue(trace, protocol, &ours);
    Contest { trace: trace.clone(), protocol, ours, baselines, oracle: oracle(trace, protocol), residue }
}

/// All baselines with the settings that suit the trace: thresholds are given in seconds of one replica's work,
/// as if the user had measured it.
pub fn baselines(trace: &Trace) -> Vec<Box<dyn Scaler>> {
    let most = trace.max.unwrap_or(u32::MAX).min(trace.arrivals.len() as u32);
    let mut all: Vec<Box<dyn Scaler>> = Vec::new();
    for seconds in [1.0, 5.0, 10.0, 30.0] {
        for even in [false, true] {
            let label = format!("{seconds:.0} s");
            all.push(Box::new(Keda::new(&label, seconds * trace.capacity, even, trace.min, most)));
        }
    }
    all.push(Box::new(Flink::new("Flink default", FlinkOptions::DEFAULT, trace.min, most)));
    all.push(Box::new(Flink::new(FLINK_FAST, FlinkOptions::FAST, trace.min, most)));
    all.push(Box::new(Numaflow::new(trace.min, most)));
    all.push(Box::new(CloudRun::new(30.0 * trace.capacity, trace.min, most)));
    all.push(Box::new(Druid::new(trace.min, most)));
    all
}

/// The least constant number of replicas that does as well as any constant number: by the seconds of violation
/// first, then by how much is violated. It knows the whole trace beforehand and has its pods from the first second
/// on, but no luck: of several worlds (who gets which partitions, how fast pods are) the worst counts.
pub fn oracle(trace: &Trace, protocol: Protocol) -> Outcome {
    let partitions = trace.arrivals.len() as u32;
    let most = trace.max.unwrap_or(u32::MAX).min(partitions);
    let mut levels: Vec<u32> = (1..=partitions).map(|share| partitions.div_ceil(share)).collect();
    levels.sort_unstable();
    levels.dedup();
    levels.retain(|level| *level <= most);
    let outcomes: Vec<Outcome> = levels.iter().map(|level| unlucky(trace, protocol, *level)).collect();
    let least = outcomes.iter().map(|outcome| outcome.violation).fold(f64::INFINITY, f64::min);
    let good = || outcomes.iter().filter(|outcome| outcome.violation <= same(least));
    let excess = good().map(|outcome| outcome.excess).fold(f64::INFINITY, f64::min);
    let allowed = excess * SAME_EXCESS + trace.target * SAME_SECONDS;
    good().find(|outcome| outcome.excess <= allowed).cloned().unwrap_or_default()
}

fn unlucky(trace: &Trace, protocol: Protocol, replicas: u32) -> Outcome {
    let world = |seed: u64| {
        let trace = Trace { seed: trace.seed ^ seed, ..trace.clone() };
        run(&trace, protocol, &mut Fixed(replicas), replicas)
    };
    let worse = |one: &Outcome, other: &Outcome| one.violation.total_cmp(&other.violation);
    // Where all partitions are alike, it makes no difference who gets which.
    let seeds = if trace.is_even() { &[0][..] } else { &[0, 0xA5A5, 0x1234_5678] };
    seeds.iter().copied().map(world).max_by(worse).unwrap_or_default()
}

/// Whether a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    Met,
    /// Not met, and nobody who began with as many replicas as ours could have met it: see [`residue`].
    Physical,
    NotMet,
}

impl Cell {
    fn of(met: bool, physical: bool) -> Self {
        match (met, physical) {
            (true, _) => Self::Met,
            (false, true) => Self::Physical,
            (false, false) => Self::NotMet,
        }
    }
}

/// The goals of one trace and protocol, in the order of [`GOALS`].
pub type Goals = [Cell; 6];

/// What the goals are.
pub const GOALS: [&str; 6] = [
    "violation <= best baseline's",
    "violation <= oracle's + residue",
    "hours <= 1.15 x oracle's",
    "changes <= Flink fast's + 2",
    "no false condition",
    "no condition missed",
];

impl Contest {
    /// The baseline with the shortest violation; among equals the one with the fewest replica-hours.
    pub fn best(&self) -> &Outcome {
        let shorter = |one: &&Outcome, other: &&Outcome| {
            one.violation.total_cmp(&other.violation).then(one.replica_hours.total_cmp(&other.replica_hours))
        };
        self.baselines.iter().min_by(shorter).unwrap_or(&self.oracle)
    }

    /// Our replica-hours as a multiple of the oracle's.
    pub fn hours_ratio(&self) -> f64 {
        self.ours.replica_hours / self.oracle.replica_hours
    }

    /// Scale events of Flink fast.
    pub fn yardstick_changes(&self) -> usize {
        self.baselines
            .iter()
            .find(|outcome| outcome.scaler == FLINK_FAST)
            .map_or(0, |outcome| outcome.changes)
    }

    /// Which goals hold. Violations that differ by less than a reading's interval or a hundredth count as equal.
    pub fn goals(&self) -> Goals {
        let ours = &self.ours;
        let within = |violation: f64| ours.violation <= same(violation);
        let physical = within(self.residue);
        let met = |met: bool| Cell::of(met, false);
        [
            Cell::of(within(self.best().violation), physical),
            met(within(self.oracle.violation.max(self.residue))),
            met(self.hours_ratio() <= MOST_HOURS),
            met(ours.changes <= self.yardstick_changes() + 2),
            met(ours.false_conditions.is_empty()),
            met(ours.missed_conditions.is_empty()),
        ]
    }
}
