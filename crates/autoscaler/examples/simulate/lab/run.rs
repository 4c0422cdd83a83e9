//! One scaler in one world, and what came of it.

use super::group::Protocol;
use super::reading::read;
use super::scaler::Scaler;
use super::trace::Trace;
use super::world::World;

/// A condition may linger for so long after it has ceased to be true.
const LINGER_SECONDS: usize = 150;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub scaler: String,
    /// Seconds in which the oldest event was older than the objective.
    pub violation: f64,
    /// By how much, added up over time (s·s).
    pub excess: f64,
    /// 99th percentile and maximum of the age of the oldest event, in seconds.
    pub p99_age: f64,
    pub max_age: f64,
    /// Replicas asked for, added up over time.
    pub replica_hours: f64,
    /// Changes of the replica count.
    pub changes: usize,
    /// Partitions that changed hands, and rebalances.
    pub moves: u64,
    pub rebalances: u64,
    /// Most replicas at any time.
    pub peak: u32,
    /// Reports of conditions that were not true, and true ones that were not reported in time.
    pub false_conditions: Vec<String>,
    pub missed_conditions: Vec<String>,
    /// Predicted and actual seconds of the drains that were compared.
    pub drains: Vec<(f64, f64)>,
    /// The seconds at which it read, ascending.
    pub readings: Vec<usize>,
    /// Age and replicas at every second.
    pub ages: Vec<f32>,
    pub replicas: Vec<u16>,
    /// Log of changes with the reasons given.
    pub log: Vec<String>,
}

impl Outcome {
    /// The first changes of the replica count with their seconds.
    pub fn course(&self) -> String {
        let changes = self.replicas.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]);
        let told: Vec<String> =
            changes.take(20).map(|(second, pair)| format!("{}:{}", second + 1, pair[1])).collect();
        told.join(" ")
    }
}

/// Runs `scaler` in the world of `trace`, beginning with `initial` replicas.
pub fn run(trace: &Trace, protocol: Protocol, scaler: &mut dyn Scaler, initial: u32) -> Outcome {
    let mut world = World::new(trace, protocol, initial);
    let mut outcome = Outcome { scaler: scaler.name(), peak: initial, ..Outcome::default() };
    let mut reports = Reports::default();
    let interval = scaler.interval();
    // Nobody reads at the very moment at which a load begins.
    let mut due = interval - (trace.seed % interval.min(60) as u64) as usize;
    let mut last = 0;
    for second in 0..trace.seconds() {
        world.tick();
        if second == due {
            outcome.readings.push(second);
            let observation = read(&mut world, (second - last) as f64);
            last = second;
            let desired = scaler.replicas(&observation);
            if let Some(decision) = scaler.decision() {
                let names = decision.conditions.iter().map(autoscaler::Condition::name);
                reports.take(trace, world.second, names, &mut outcome);
                outcome.drains.extend(
                    decision.drain_outcome.map(|drain| (drain.predicted_seconds, drain.actual_seconds)),
                );
                if desired != world.spec {
                    outcome.log.push(format!("{second:>6} {}", decision.explanation));
                }
            }
            if desired != world.spec {
                outcome.changes += 1;
                outcome.peak = outcome.peak.max(desired);
                world.set_replicas(desired);
            }
            due = second + scaler.pause(second);
        }
        outcome.ages.push(world.age() as f32);
        outcome.replicas.push(world.spec as u16);
    }
    reports.end(trace, &mut outcome);
    (outcome.moves, outcome.rebalances) = (world.moves, world.rebalances);
    measure(trace, &mut outcome);
    outcome
}

fn measure(trace: &Trace, outcome: &mut Outcome) {
    let over = outcome.ages.iter().map(|age| (f64::from(*age) - trace.target).max(0.0));
    outcome.violation = over.clone().filter(|excess| *excess > 0.0).count() as f64;
    outcome.excess = over.sum();
    let mut sorted = outcome.ages.clone();
    sorted.sort_by(f32::total_cmp);
    outcome.p99_age = f64::from(sorted[sorted.len() * 99 / 100]);
    outcome.max_age = f64::from(sorted.last().copied().unwrap_or(0.0));
    outcome.replica_hours =
        outcome.replicas.iter().map(|replicas| f64::from(*replicas)).sum::<f64>() / 3600.0;
}

/// Which conditions were reported when.
#[derive(Default)]
struct Reports {
    first: Vec<(String, Vec<usize>)>,
}

impl Reports {
    fn take<'a>(
        &mut self,
        trace: &Trace,
        second: usize,
        names: impl Iterator<Item = &'a str>,
        outcome: &mut Outcome,
    ) {
        for name in names {
            let truths = trace.truths.iter().filter(|truth| truth.condition == name);
            let holds = |from: usize, to: usize| (from..to + LINGER_SECONDS).contains(&second);
            if !truths.clone().any(|truth| holds(truth.from, truth.to)) {
                let known = outcome.false_conditions.iter().any(|known| known.starts_with(name));
                if !known {
                    outcome.false_conditions.push(format!("{name} at {second} s"));
                }
            }
            match self.first.iter_mut().find(|(known, _)| known == name) {
                Some((_, seconds)) => seconds.push(second),
                None => self.first.push((name.to_owned(), vec![second])),
            }
        }
    }

    fn end(&self, trace: &Trace, outcome: &mut Outcome) {
        for truth in &trace.truths {
            let Some(within) = truth.within else {
                continue;
            };
            let deadline = truth.from + within;
            let reported = self.first.iter().any(|(name, seconds)| {
                name == truth.condition
                    && seconds.iter().any(|second| (truth.from..=deadline).contains(second))
            });
            if !reported {
                outcome.missed_conditions.push(format!("{} from {} s", truth.condition, truth.from));
            }
        }
    }
}
