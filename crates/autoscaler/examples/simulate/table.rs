//! Tables for people.
#![expect(clippy::print_stdout, reason = "a table on the terminal is what this is for")]

use crate::lab::contest::Contest;
use crate::lab::run::Outcome;

/// Column titles.
pub fn head() {
    println!(
        "{:<26} {:<5} | {:>6} {:>6} {:>6} {:<15} | {:>6} {:>6} {:>5} | {:>4} {:>5} | {:>5} | conditions",
        "trace",
        "mode",
        "viol",
        "oracle",
        "best",
        "(who)",
        "hours",
        "oracle",
        "ratio",
        "evts",
        "flink",
        "p99"
    );
}

fn mark(good: bool) -> &'static str {
    if good { " " } else { "!" }
}

/// One trace under one protocol.
pub fn row(contest: &Contest) {
    let goals = contest.goals();
    let (ours, oracle, best) = (&contest.ours, &contest.oracle, contest.best());
    let mut notes = ours.false_conditions.iter().map(|note| format!("FALSE {note}")).collect::<Vec<_>>();
    notes.extend(ours.missed_conditions.iter().map(|note| format!("MISSED {note}")));
    if !goals.best_baseline {
        let rival = contest
            .best_at_our_price()
            .map_or("nobody".to_owned(), |rival| format!("{} {:.0}", rival.scaler, rival.violation));
        notes.push(format!("best at this price: {rival}"));
    }
    println!(
        "{:<26} {:<5} | {:>6.0}{}{:>6.0}{}{:>6.0} {:<15} | {:>6.1} {:>6.1} {:>5.2}{}| {:>4} {:>4}{}| {:>5.0} | {}",
        contest.trace.name,
        &contest.protocol.name()[..5],
        ours.violation,
        if goals.best_baseline || !contest.best_at_its_price() { mark(goals.best_baseline) } else { "~" },
        oracle.violation,
        mark(goals.oracle),
        best.violation,
        format!("{} {:.0}h", best.scaler.replace("KEDA", "K").replace("Flink", "F"), best.replica_hours),
        ours.replica_hours,
        oracle.replica_hours,
        ours.replica_hours / oracle.replica_hours,
        mark(goals.hours),
        ours.changes,
        contest.yardstick_changes(),
        mark(goals.changes),
        ours.p99_age,
        if goals.all() { "all met".to_owned() } else { notes.join(", ") },
    );
}

/// All scalers on a trace.
pub fn baselines(contest: &Contest) {
    for outcome in contest.baselines.iter().chain([&contest.oracle]) {
        line(outcome);
    }
}

fn line(outcome: &Outcome) {
    println!(
        "      {:<18} viol {:>6.0} hours {:>6.1} events {:>4} moves {:>5} p99 {:>6.0} peak {}",
        outcome.scaler,
        outcome.violation,
        outcome.replica_hours,
        outcome.changes,
        outcome.moves,
        outcome.p99_age,
        outcome.peak
    );
}
