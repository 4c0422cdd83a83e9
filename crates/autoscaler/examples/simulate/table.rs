//! Tables for people.
#![expect(clippy::print_stdout, reason = "a table on the terminal is what this is for")]

use std::collections::BTreeMap;

use crate::lab::contest::{Contest, Goals};
use crate::lab::run::Outcome;

/// Column titles of a set.
pub fn head(set: &str) {
    println!("\n== {set} ==");
    println!(
        "a mark behind a figure: ! the goal is not met, ~ not met, but no baseline at our price does better"
    );
    println!(
        "{:<26} {:<5} | {:>6} {:>7} {:>7} {:<20} | {:>6} {:>6} {:>5}  | {:>4} {:>5} | {:>4} {:>5} | conditions",
        "trace",
        "group",
        "viol s",
        "oracle",
        "best",
        "(whose, its hours)",
        "hours",
        "oracle",
        "ratio",
        "chg",
        "flink",
        "p99",
        "moves"
    );
}

fn mark(good: bool) -> &'static str {
    if good { " " } else { "!" }
}

/// One trace under one protocol.
pub fn row(contest: &Contest) {
    let goals = contest.goals();
    let (ours, oracle, best) = (&contest.ours, &contest.oracle, contest.best());
    println!(
        "{:<26} {:<5} | {:>6.0} {:>6.0}{} {:>6.0}{} {:<20} | {:>6.1} {:>6.1} {:>5.2}{} | {:>4} {:>4}{} | {:>4.0} {:>5} | {}",
        contest.trace.name,
        &contest.protocol.name()[..5],
        ours.violation,
        oracle.violation,
        mark(goals.oracle),
        best.violation,
        if goals.best_baseline || !contest.best_at_its_price() { mark(goals.best_baseline) } else { "~" },
        format!("{} {:.0} h", best.scaler, best.replica_hours),
        ours.replica_hours,
        oracle.replica_hours,
        ours.replica_hours / oracle.replica_hours,
        mark(goals.hours),
        ours.changes,
        contest.yardstick_changes(),
        mark(goals.changes),
        ours.p99_age,
        ours.moves,
        notes(contest, goals),
    );
}

fn notes(contest: &Contest, goals: Goals) -> String {
    let mut notes: Vec<String> =
        contest.ours.false_conditions.iter().map(|note| format!("FALSE {note}")).collect();
    notes.extend(contest.ours.missed_conditions.iter().map(|note| format!("MISSED {note}")));
    if !goals.best_baseline {
        let rival = contest.best_at_our_price();
        let rival =
            rival.map_or("nobody".to_owned(), |rival| format!("{} {:.0}", rival.scaler, rival.violation));
        notes.push(format!("best at our price: {rival}"));
    }
    if goals.all() { "all met".to_owned() } else { notes.join(", ") }
}

/// All scalers on a trace.
pub fn baselines(contest: &Contest) {
    contest.baselines.iter().chain([&contest.oracle]).for_each(line);
}

fn line(outcome: &Outcome) {
    println!(
        "      {:<18} viol {:>6.0} excess {:>9.0} hours {:>6.1} chg {:>4} moves {:>5} rebalances {:>4} p99 {:>6.0} max {:>6.0} peak {}",
        outcome.scaler,
        outcome.violation,
        outcome.excess,
        outcome.replica_hours,
        outcome.changes,
        outcome.moves,
        outcome.rebalances,
        outcome.p99_age,
        outcome.max_age,
        outcome.peak
    );
}

/// Everything added up.
#[derive(Default)]
pub struct Summary {
    /// By scaler: violation, excess, hours, changes, moves.
    totals: BTreeMap<String, [f64; 5]>,
    runs: usize,
    met: [usize; 6],
    at_its_price: usize,
    false_conditions: usize,
    /// Relative errors of predicted drains.
    errors: Vec<f64>,
}

impl Summary {
    /// Adds a trace under one protocol.
    pub fn add(&mut self, contest: &Contest) {
        let goals = contest.goals();
        let cells =
            [goals.best_baseline, goals.oracle, goals.hours, goals.changes, goals.conditions, goals.all()];
        self.met.iter_mut().zip(cells).for_each(|(count, met)| *count += usize::from(met));
        self.runs += 1;
        self.at_its_price += usize::from(contest.best_at_its_price());
        self.false_conditions += contest.ours.false_conditions.len();
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
        }
    }

    /// Reports of conditions that were not true.
    pub fn false_conditions(&self) -> usize {
        self.false_conditions
    }

    /// Prints the totals and how many goals are met.
    pub fn print(&mut self) {
        println!("\n== in total, {} runs ==", self.runs);
        println!(
            "{:<18} {:>9} {:>13} {:>9} {:>8} {:>8}",
            "scaler", "viol s", "excess s·s", "hours", "changes", "moves"
        );
        let mut totals: Vec<_> = self.totals.iter().collect();
        totals.sort_by(|(_, one), (_, other)| one[0].total_cmp(&other[0]));
        for (scaler, [violation, excess, hours, changes, moves]) in totals {
            println!("{scaler:<18} {violation:>9.0} {excess:>13.0} {hours:>9.0} {changes:>8.0} {moves:>8.0}");
        }
        let names = [
            "violation <= best baseline",
            "violation <= oracle + 2 reactions",
            "hours <= 1.15 x oracle",
            "changes <= Flink fast + 2",
            "no false, no missed condition",
            "all of them",
        ];
        println!();
        for (name, met) in names.iter().zip(self.met) {
            println!("{name:<36} {met:>4} of {}", self.runs);
        }
        println!("{:<36} {:>4} of {}", "no baseline at our price is better", self.at_its_price, self.runs);
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
