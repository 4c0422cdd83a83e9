//! What no reaction can prevent.
//!
//! A baseline that has had too many replicas all along violates the objective for a shorter time than anything that
//! had the right number when the trouble began. How much of a violation is due to that is measured, not argued: from
//! the moment at which it could first be known, the replicas are set to the best constant number, by somebody who
//! knows the rest of the trace. What is violated even then is physical: pods start, groups rebalance, work has
//! gathered meanwhile.

use autoscaler::Observation;

use super::group::Protocol;
use super::reading::EPOCH;
use super::run::{Outcome, run};
use super::scaler::{OUR_INTERVAL, Scaler};
use super::trace::Trace;

/// Events younger than this are no wait.
const NO_WAIT_SECONDS: f32 = 3.0;

/// Follows recorded replicas, and then has one number for good.
struct Hindsight<'a> {
    followed: &'a Outcome,
    from: usize,
    replicas: u32,
}

impl Scaler for Hindsight<'_> {
    fn name(&self) -> String {
        "hindsight".to_owned()
    }

    fn interval(&self) -> usize {
        OUR_INTERVAL
    }

    /// Reads whenever ours did, so that the world is the same until then, bit for bit.
    fn pause(&self, second: usize) -> usize {
        let later = self.followed.readings.partition_point(|reading| *reading <= second);
        self.followed.readings.get(later).map_or(OUR_INTERVAL, |reading| reading - second)
    }

    fn replicas(&mut self, observation: &Observation) -> u32 {
        let second = ((observation.time - EPOCH) as usize).saturating_sub(1);
        let recorded = self.followed.replicas.get(second).filter(|_| second < self.from);
        recorded.map_or(self.replicas, |replicas| u32::from(*replicas))
    }
}

/// Seconds of violation if, from the second reading on after the cause of `ours` (an interval after it at the latest), there
/// had been the best number of replicas. The second, because one reading cannot tell a dump from a step.
pub fn residue(trace: &Trace, protocol: Protocol, ours: &Outcome) -> f64 {
    let Some(cause) = cause(trace, ours) else {
        return ours.violation;
    };
    let most = trace.max.unwrap_or(u32::MAX).min(trace.arrivals.len() as u32);
    let mut levels: Vec<u32> =
        (1..=most).map(|share| trace.arrivals.len().div_ceil(share as usize) as u32).collect();
    levels.push(most);
    levels.retain(|level| *level <= most);
    levels.sort_unstable();
    levels.dedup();
    let second = ours.readings.iter().filter(|reading| **reading >= cause).nth(1);
    let from = second.map_or(cause + OUR_INTERVAL, |second| (cause + OUR_INTERVAL).min(*second));
    let violation = |replicas: u32| {
        let mut hindsight = Hindsight { followed: ours, from, replicas };
        run(trace, protocol, &mut hindsight, trace.initial).violation
    };
    levels.into_iter().map(violation).fold(f64::INFINITY, f64::min)
}

/// When it could first be known what becomes a violation: when events began to wait, or, if more replicas could not
/// have done more then (the database is at its limit, nobody can read the lag, a partition is stuck), when they could.
fn cause(trace: &Trace, ours: &Outcome) -> Option<usize> {
    let violated = |age: &f32| f64::from(*age) > trace.target;
    let first = ours.ages.iter().position(violated)?;
    let last = ours.ages.iter().rposition(violated)?;
    let began = ours.ages[..first].iter().rposition(|age| *age <= NO_WAIT_SECONDS).map_or(0, |calm| calm + 1);
    let helps = |second: usize| trace.more_would_help(second, u32::from(ours.replicas[second]));
    let helped = (began + 1..=last).rfind(|second| helps(*second) && !helps(second - 1));
    helped.or_else(|| helps(began).then_some(began))
}
