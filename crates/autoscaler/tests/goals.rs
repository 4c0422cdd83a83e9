//! The law against its goals on some of the laboratory's traces, so that a change for the worse is noticed without
//! the whole simulation (`make simulate`). What is met there must be met here; see docs/autoscaling.md for the rest.

#[path = "../examples/simulate/lab/mod.rs"]
#[allow(dead_code, reason = "the laboratory serves the simulator first; these tests need a part of it")]
mod lab;

use std::sync::LazyLock;

use lab::contest::{Cell, Contest, FLINK_FAST, GOALS, contest};
use lab::group::Protocol;
use lab::run::{Outcome, run};
use lab::scaler::Ours;
use lab::trace::Trace;

/// One of each kind: constant, stepping, noisy and bursting loads, a backlog, a hot partition, limits of the database,
/// faults, and the life of pods.
const NAMES: [&str; 16] = [
    "flat 4.7",
    "step x5",
    "diurnal noisy",
    "bursts each minute",
    "dump on three",
    "hot partition",
    "sink cap",
    "outage",
    "stuck partition",
    "rollout in a spike",
    "sleep and wake",
    "natural batches, wave",
    "slow start",
    "soak",
    "zipf",
    "on-off 10 min",
];

static CONTESTS: LazyLock<Vec<Contest>> = LazyLock::new(|| {
    let traces: Vec<Trace> =
        lab::tuning::tuning().into_iter().filter(|trace| NAMES.contains(&trace.name.as_str())).collect();
    assert_eq!(traces.len(), NAMES.len(), "a trace of this test is no longer in the tuning set");
    // Each protocol in a thread of its own; what comes of them does not depend on that.
    std::thread::scope(|scope| {
        let all = |protocol| traces.iter().map(|trace| contest(trace, protocol)).collect::<Vec<_>>();
        let threads: Vec<_> =
            Protocol::ALL.into_iter().map(|protocol| scope.spawn(move || all(protocol))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
});

#[test]
fn every_goal_is_met_or_physically_out_of_reach() {
    let mut lost = Vec::new();
    for contest in CONTESTS.iter() {
        for (goal, cell) in GOALS.iter().zip(contest.goals()) {
            if cell == Cell::NotMet {
                let (trace, ours) = (&contest.trace.name, &contest.ours);
                lost.push(format!(
                    "{trace} ({}): {goal}: violation {} s (residue {} s, oracle {} s, best {} s), {:.2} x the oracle's hours, {} changes, {:?} {:?}",
                    contest.protocol.name(),
                    ours.violation,
                    contest.residue,
                    contest.oracle.violation,
                    contest.best().violation,
                    contest.hours_ratio(),
                    ours.changes,
                    ours.false_conditions,
                    ours.missed_conditions,
                ));
            }
        }
    }
    assert!(lost.is_empty(), "goals no longer met:\n{}", lost.join("\n"));
}

#[test]
fn in_total_nobody_violates_less_for_the_same_money() {
    let total = |part: fn(&Outcome) -> f64, of: fn(&Contest, usize) -> &Outcome, index: usize| -> f64 {
        CONTESTS.iter().map(|contest| part(of(contest, index))).sum()
    };
    let baseline: fn(&Contest, usize) -> &Outcome = |contest, index| &contest.baselines[index];
    let ours: fn(&Contest, usize) -> &Outcome = |contest, _| &contest.ours;
    let violation: fn(&Outcome) -> f64 = |outcome| outcome.violation;
    let hours: fn(&Outcome) -> f64 = |outcome| outcome.replica_hours;
    for (index, outcome) in CONTESTS[0].baselines.iter().enumerate() {
        let (theirs, cost) = (total(violation, baseline, index), total(hours, baseline, index));
        let (mine, price) = (total(violation, ours, 0), total(hours, ours, 0));
        let name = &outcome.scaler;
        assert!(
            mine < theirs || price < cost,
            "{name}: {theirs} s for {cost} h, ours {mine} s for {price} h"
        );
        if name == FLINK_FAST {
            assert!(price < 0.6 * cost, "{name}: {cost} h, ours {price} h");
        }
    }
}

/// The goal of `make soak` on a real cluster: what a step took too many of is given back at once, and then nothing changes.
#[test]
fn a_constant_load_that_meets_one_consumer_is_worth_two_changes() {
    for contest in CONTESTS.iter().filter(|contest| contest.trace.name == "soak") {
        assert_eq!(contest.ours.changes, 2, "{}", contest.protocol.name());
    }
}

#[test]
fn equal_worlds_give_equal_decisions() {
    let trace = &CONTESTS[0].trace;
    let digest = || {
        let mut ours = Ours::new(trace, Protocol::Eager);
        run(trace, Protocol::Eager, &mut ours, trace.initial);
        ours.digest
    };
    assert_eq!(digest(), digest());
}
