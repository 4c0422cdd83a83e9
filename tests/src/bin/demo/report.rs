//! The final table, and whether its numbers add up.

use std::fmt::Write;

use anyhow::{Result, ensure};
use testbed::generator::Counts;

/// What was sent and what has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Exactly what was sent.
    pub(crate) produced: Counts,
    /// Rows in the table.
    pub(crate) rows: i64,
    /// Different event keys among them.
    pub(crate) distinct_keys: i64,
    /// Rows in the table of dead letters.
    pub(crate) dead_letters: i64,
    /// What is still to be read; `None` if it could not be found out.
    pub(crate) lag: Option<i64>,
    /// From the first event sent to the last one stored.
    pub(crate) seconds: f64,
    /// Most events stored in one second.
    pub(crate) peak: f64,
    /// Every change of the number of consumers.
    pub(crate) scales: Vec<Scale>,
}

/// From this moment on so many consumers were wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Seconds after the first event.
    pub(crate) seconds: u64,
    /// How many.
    pub(crate) replicas: i32,
}

/// The outcome, judged.
#[derive(Debug)]
pub(crate) struct Report {
    outcome: Outcome,
    problems: Vec<String>,
}

impl Report {
    pub(crate) fn new(outcome: Outcome) -> Self {
        let problems = problems(&outcome);
        Self { outcome, problems }
    }

    pub(crate) fn table(&self) -> String {
        let outcome = &self.outcome;
        let sent = &outcome.produced;
        let count = |number: i64| grouped(number.unsigned_abs());
        let lines = [
            ("produced", grouped(sent.produced()), "records, 7 event types".to_owned()),
            ("distinct", grouped(sent.distinct), "good events among them".to_owned()),
            ("stored", count(outcome.rows), "rows in the table".to_owned()),
            (
                "duplicates removed",
                count(removed(outcome)),
                format!("of {} sent twice", grouped(sent.duplicates)),
            ),
            (
                "dead letters",
                count(outcome.dead_letters),
                format!("of {} malformed, in {} ways", grouped(sent.malformed_total()), sent.malformed.len()),
            ),
            (
                "time",
                format!("{:.1} s", outcome.seconds),
                format!(
                    "at most {} events/s (consumers are held back, see above)",
                    grouped(outcome.peak as u64)
                ),
            ),
            ("scale steps", steps(&outcome.scales).to_string(), journey(&outcome.scales)),
        ];
        let mut table = String::from("\n");
        for (name, value, remark) in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "  {name:<20}{value:>10}  {remark}");
        }
        for problem in &self.problems {
            let _ = writeln!(table, "  WRONG: {problem}");
        }
        if self.problems.is_empty() {
            table.push_str("\n  Every distinct event is in the table exactly once, every malformed one is a dead letter.\n");
        }
        table
    }

    /// An error when the numbers do not add up.
    pub(crate) fn verdict(&self) -> Result<()> {
        ensure!(self.problems.is_empty(), "the numbers do not add up: {}", self.problems.join("; "));
        Ok(())
    }
}

/// Records that were read and became neither a row nor a dead letter.
fn removed(outcome: &Outcome) -> i64 {
    outcome.produced.produced().cast_signed() - outcome.lag.unwrap_or(0) - outcome.rows - outcome.dead_letters
}

fn problems(outcome: &Outcome) -> Vec<String> {
    let sent = &outcome.produced;
    let pairs = [
        ("rows in the table", outcome.rows, "distinct events", sent.distinct),
        ("different event keys", outcome.distinct_keys, "distinct events", sent.distinct),
        ("dead letters", outcome.dead_letters, "malformed records", sent.malformed_total()),
        ("records removed as duplicates", removed(outcome), "duplicates", sent.duplicates),
    ];
    let mut problems: Vec<String> = pairs
        .into_iter()
        .filter(|(_, found, _, expected)| *found != expected.cast_signed())
        .map(|(what, found, than, expected)| format!("{found} {what}, but {expected} {than} were sent"))
        .collect();
    match outcome.lag {
        Some(0) => {}
        Some(lag) => problems.push(format!("{lag} records have not been read")),
        None => problems.push("the lag is not known".to_owned()),
    }
    problems
}

fn steps(scales: &[Scale]) -> usize {
    scales.len().saturating_sub(1)
}

fn journey(scales: &[Scale]) -> String {
    let stops: Vec<String> =
        scales.iter().map(|scale| format!("{} at {} s", scale.replicas, scale.seconds)).collect();
    stops.join(" → ")
}

/// A number with its thousands set apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use testbed::generator::Malformation;

    fn outcome() -> Outcome {
        let malformed = [(Malformation::BadJson, 3), (Malformation::Tombstone, 2)].into();
        Outcome {
            produced: Counts { distinct: 900, duplicates: 95, malformed, ..Counts::default() },
            rows: 900,
            distinct_keys: 900,
            dead_letters: 5,
            lag: Some(0),
            seconds: 20.0,
            peak: 1234.0,
            scales: vec![
                Scale { seconds: 0, replicas: 1 },
                Scale { seconds: 4, replicas: 4 },
                Scale { seconds: 60, replicas: 1 },
            ],
        }
    }

    #[test]
    fn numbers_that_add_up_are_good() {
        let report = Report::new(outcome());
        report.verdict().unwrap();
        let table = report.table();
        assert!(table.contains("exactly once"), "{table}");
        assert!(table.contains("1 at 0 s → 4 at 4 s → 1 at 60 s"), "{table}");
    }

    #[test]
    fn each_number_that_is_off_is_named() {
        let cases: [(Outcome, &str); 6] = [
            (Outcome { rows: 899, ..outcome() }, "899 rows in the table, but 900 distinct events"),
            (Outcome { rows: 901, ..outcome() }, "901 rows in the table"),
            (Outcome { distinct_keys: 890, ..outcome() }, "890 different event keys"),
            (Outcome { dead_letters: 4, ..outcome() }, "4 dead letters, but 5 malformed records"),
            (Outcome { lag: Some(7), ..outcome() }, "7 records have not been read"),
            (Outcome { lag: None, ..outcome() }, "the lag is not known"),
        ];
        for (outcome, wanted) in cases {
            let report = Report::new(outcome);
            let error = report.verdict().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
            assert!(report.table().contains("WRONG"), "{}", report.table());
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
