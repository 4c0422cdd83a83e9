//! What the figures are to be, and whether they are.

use crate::table::{Figures, Role, grouped, mebibytes};

/// One goal: what was to be reached, what was, and whether that is enough.
#[derive(Debug, PartialEq)]
pub(crate) struct Goal {
    text: String,
    met: bool,
}

impl Goal {
    /// The value is to be at least `least`.
    fn at_least(what: &str, least: f64, value: f64) -> Self {
        Self::new(what, "at least", least, value, value >= least)
    }

    /// The value is to be at most `most`.
    pub(crate) fn at_most(what: &str, most: f64, value: f64) -> Self {
        Self::new(what, "at most", most, value, value <= most)
    }

    fn new(what: &str, bound: &str, limit: f64, value: f64, met: bool) -> Self {
        let verdict = if met { "met " } else { "MISSED" };
        Self { text: format!("{verdict:6}  {what}: {bound} {limit}, is {value:.2}"), met }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Compares the runs with the goals of design.md §5, as far as there are runs for them.
pub(crate) fn judge(runs: &[Figures]) -> Vec<Goal> {
    let find = |role: Role| runs.iter().find(|run| run.role == role);
    let mut goals = Vec::new();
    if let (Some(floor), Some(consumer)) = (find(Role::Floor), find(Role::Consumer)) {
        goals.push(Goal::at_least("times the floor", 1.0, consumer.rate() / floor.rate()));
    }
    if let (Some(floor), Some(consumer)) = (find(Role::BacklogFloor), find(Role::Backlog)) {
        goals.push(Goal::at_least("times the floor of the backlog", 1.0, consumer.rate() / floor.rate()));
    }
    if let (Some(peer), Some(consumer)) = (find(Role::Peer), find(Role::Consumer)) {
        goals.push(Goal::at_least("times the peer that deduplicates", 2.0, consumer.rate() / peer.rate()));
    }
    if let (Some(without), Some(consumer)) = (find(Role::WithoutRollups), find(Role::Consumer)) {
        goals.push(Goal::at_least("times the speed without rollups", 0.9, consumer.rate() / without.rate()));
    }
    if let Some((consumer, seconds)) = find(Role::Consumer).and_then(|run| Some((run, run.cpu_seconds?))) {
        goals.push(Goal::at_most("CPU seconds per million", 2.5, consumer.per_million(seconds)));
    }
    let own = runs.iter().filter(|run| {
        matches!(
            run.role,
            Role::Consumer | Role::WithoutRollups | Role::Variant | Role::Backlog | Role::Growth(_)
        )
    });
    if let Some(peak) = own.filter_map(|run| run.peak_bytes).max() {
        goals.push(Goal::at_most("MiB of memory in any run", 50.0, mebibytes(peak)));
    }
    for run in runs {
        if let (Role::Growth(rows @ 1..), Some(empty)) = (run.role, find(Role::Growth(0))) {
            let what = format!("times the speed of an empty table with {} rows in it", grouped(rows));
            goals.push(Goal::at_least(&what, 0.8, run.rate() / empty.rate()));
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(role: Role, seconds: f64) -> Figures {
        Figures { role, seconds, records: 1_000_000, ..Figures::default() }
    }

    #[test]
    fn runs_are_compared_by_their_roles() {
        let consumer =
            Figures { cpu_seconds: Some(2.0), peak_bytes: Some(51 << 20), ..run(Role::Consumer, 8.0) };
        let others = [Role::Floor, Role::Peer, Role::Growth(0), Role::Growth(10_000_000)];
        let mut runs: Vec<_> =
            others.iter().zip([10.0, 14.0, 8.0, 9.0]).map(|(role, seconds)| run(*role, seconds)).collect();
        runs.push(consumer);
        let met: Vec<bool> = judge(&runs).iter().map(|goal| goal.met).collect();
        // Floor 1.25, peer 1.75, CPU 2.0, memory 51, growth 0.89.
        assert_eq!(met, [true, false, true, false, true]);
        assert!(judge(&runs)[1].to_string().contains("is 1.75"), "{}", judge(&runs)[1]);
    }

    #[test]
    fn what_was_not_run_is_not_judged() {
        assert_eq!(judge(&[run(Role::Floor, 1.0)]), []);
    }
}
