//! Tables for people.
#![expect(clippy::print_stdout, reason = "a table on the terminal is what this is for")]

use std::collections::BTreeMap;

use crate::lab::contest::{Cell, Contest, GOALS};
use crate::lab::run::Outcome;

/// Column titles of a set's goal table.
pub fn head(set: &str) {
    println!("\n== goals, {set} ==");
    println!(
        "goals: + met, = not met and physically so (see docs/autoscaling.md), ! not met; in this order:"
    );
    GOALS.iter().enumerate().for_each(|(index, goal)| println!("  {} {goal}", index + 1));
    println!(
        "{:<27} {:<5} | {:>6} {:>7} {:>7} {:>6} {:<19} | {:>9} {:>5} | {:>6} {:>5} | {:>3} {:>5} {:>5} | goals",
        "trace",
        "group",
        "viol s",
        "residue",
        "oracle",
        "best",
        "(whose, hours)",
        "excess",
        "p99",
        "hours",
        "ratio",
        "chg",
        "flink",
        "moves"
    );
}

/// One trace under one protocol, ours and all others.
pub fn scalers(contest: &Contest) {
    println!("\n{} ({})", contest.trace.name, contest.protocol.name());
    [&contest.ours]
        .into_iter()
        .chain(&contest.baselines)
        .chain([&contest.oracle])
        .for_each(|outcome| line(outcome, contest));
}

fn line(outcome: &Outcome, contest: &Contest) {
    println!(
        "  {:<18} viol {:>6.0} excess {:>9.0} p99 {:>6.0} hours {:>6.1} (x{:>5.2}) changes {:>4} moves {:>5} false {} missed {}",
        outcome.scaler,
        outcome.violation,
        outcome.excess,
        outcome.p99_age,
        outcome.replica_hours,
        outcome.replica_hours / contest.oracle.replica_hours,
        outcome.changes,
        outcome.moves,
        outcome.false_conditions.len(),
        outcome.missed_conditions.len(),
    );
}

fn mark(cell: Cell) -> char {
    match cell {
        Cell::Met => '+',
        Cell::Physical => '=',
        Cell::NotMet => '!',
    }
}

/// A trace's row of the goal table.
pub fn row(contest: &Contest) {
    let (ours, oracle, best) = (&contest.ours, &contest.oracle, contest.best());
    println!(
        "{:<27} {:<5} | {:>6.0} {:>7.0} {:>7.0} {:>6.0} {:<19} | {:>9.0} {:>5.0} | {:>6.1} {:>5.2} | {:>3} {:>5} {:>5} | {} {}",
        contest.trace.name,
        &contest.protocol.name()[..5],
        ours.violation,
        contest.residue,
        oracle.violation,
        best.violation,
        format!("{} {:.0} h", best.scaler, best.replica_hours),
        ours.excess,
        ours.p99_age,
        ours.replica_hours,
        contest.hours_ratio(),
        ours.changes,
        contest.yardstick_changes(),
        ours.moves,
        contest.goals().map(mark).iter().collect::<String>(),
        notes(ours),
    );
}

fn notes(ours: &Outcome) -> String {
    let told = ours.false_conditions.iter().map(|note| format!("FALSE {note}"));
    let missed = ours.missed_conditions.iter().map(|note| format!("MISSED {note}"));
    told.chain(missed).collect::<Vec<_>>().join(", ")
}

/// Everything of a set added up.
#[derive(Default)]
pub struct Summary {
    /// By scaler: violation, excess, hours, changes, moves, worst 99th percentile of the lag.
    totals: BTreeMap<String, [f64; 6]>,
    runs: usize,
    /// By goal: met, physical, not met.
    cells: [[usize; 3]; GOALS.len()],
    clean: usize,
    wrong: usize,
    /// Relative errors of predicted drains.
    errors: Vec<f64>,
}

impl Summary {
    /// Adds a trace under one protocol.
    pub fn add(&mut self, contest: &Contest) {
        let goals = contest.goals();
        for (count, cell) in self.cells.iter_mut().zip(goals) {
            count[match cell {
                Cell::Met => 0,
                Cell::Physical => 1,
                Cell::NotMet => 2,
            }] += 1;
        }
        self.runs += 1;
        self.wrong += contest.ours.false_conditions.len() + contest.ours.missed_conditions.len();
        self.clean += usize::from(goals.iter().all(|cell| *cell == Cell::Met));
        let drains = contest.ours.drains.iter();
        self.errors.extend(drains.map(|(predicted, actual)| (actual - predicted).abs() / actual.max(1.0)));
        let oracle = Outcome { scaler: "oracle (fixed)".to_owned(), ..contest.oracle.clone() };
        for outcome in contest.baselines.iter().chain([&contest.ours, &oracle]) {
            let totals = self.totals.entry(outcome.scaler.clone()).or_default();
            let figures = [
                outcome.violation,
                outcome.excess,
                outcome.replica_hours,
                outcome.changes as f64,
                outcome.moves as f64,
            ];
            totals.iter_mut().zip(figures).for_each(|(total, figure)| *total += figure);
            totals[5] = totals[5].max(outcome.p99_age);
        }
    }

    /// Conditions reported falsely or missed.
    pub fn wrong_conditions(&self) -> usize {
        self.wrong
    }

    /// Cells that are not met for no physical reason.
    fn not_met(&self) -> usize {
        self.cells.iter().map(|[_, _, not_met]| not_met).sum()
    }

    /// Prints the totals and how many goals are met.
    pub fn print(&mut self, set: &str) {
        println!("\n== in total, {set}, {} runs ==", self.runs);
        println!(
            "{:<18} {:>9} {:>13} {:>8} {:>8} {:>8} {:>10}",
            "scaler", "viol s", "excess s·s", "hours", "changes", "moves", "worst p99"
        );
        let mut totals: Vec<_> = self.totals.iter().collect();
        totals.sort_by(|(_, one), (_, other)| one[0].total_cmp(&other[0]));
        for (scaler, [violation, excess, hours, changes, moves, p99]) in totals {
            println!(
                "{scaler:<18} {violation:>9.0} {excess:>13.0} {hours:>8.0} {changes:>8.0} {moves:>8.0} {p99:>10.0}"
            );
        }
        println!("\n{:<34} {:>5} {:>9} {:>8}", "goal", "met", "physical", "not met");
        for (goal, [met, physical, not_met]) in GOALS.iter().zip(self.cells) {
            println!("{goal:<34} {met:>5} {physical:>9} {not_met:>8}");
        }
        println!(
            "runs with every goal met: {} of {}; cells not met: {}",
            self.clean,
            self.runs,
            self.not_met()
        );
        self.errors.sort_by(f64::total_cmp);
        let at =
            |share: f64| self.errors.get((self.errors.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        println!(
            "predicted drains: {} compared, error median {:.0} %, p90 {:.0} %",
            self.errors.len(),
            100.0 * at(0.5),
            100.0 * at(0.9)
        );
    }
}
