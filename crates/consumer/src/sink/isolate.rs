//! Finds the rows that PostgreSQL refuses, and stores all others, in one transaction.
//!
//! What a piece of the rows is refused for is undone to a savepoint and the piece is halved; what is accepted stays. So
//! rows that only contradict each other are told apart, and the number of statements grows with the logarithm of the
//! batch for each refused row. Deferred constraints are checked at once here, or they would be heard of at the commit only.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use sqlx::{Executor, PgConnection};

use super::classify::{Fault, describe, fault, is_inconclusive};
use super::transaction::{Course, answer};
use super::{Statements, rows};
use crate::batch::Batch;

/// Where so many rows are refused and none has passed, the rest of the batch is not tried: each try uses up an id.
const MOST_IN_VAIN: usize = 500;

const BEGIN: &str = "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT piece";
const KEEP: &str = "RELEASE SAVEPOINT piece; SAVEPOINT piece";
const UNDO: &str = "ROLLBACK TO SAVEPOINT piece";

/// A row that was refused when it came alone.
struct Refusal {
    row: usize,
    code: String,
    detail: String,
    /// Whether the record is at fault whatever becomes of others.
    is_certain: bool,
    /// Whether this refusal alone tells nothing.
    is_inconclusive: bool,
    /// Whether nothing had passed by then: the rule may have been another one.
    is_early: bool,
    error: sqlx::Error,
}

impl Refusal {
    fn new(row: usize, error: sqlx::Error, is_early: bool) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        Self {
            row,
            code: code.unwrap_or_default().into_owned(),
            detail: describe(&error),
            is_certain: matches!(fault(&error), Fault::Record { .. }),
            is_inconclusive: is_inconclusive(&error),
            is_early,
            error,
        }
    }
}

/// What one look at rows has found.
#[derive(Default)]
struct Findings {
    stored: HashSet<[u8; 16]>,
    refused: Vec<Refusal>,
}

impl Findings {
    /// Whether so many rows were refused for the same reason, and none passed, that it is hardly the records' fault.
    fn are_in_vain(&self, next: &Refusal) -> bool {
        let alike = |other: &&Refusal| other.code == next.code && !other.is_certain;
        self.stored.is_empty()
            && !next.is_certain
            && self.refused.len() >= MOST_IN_VAIN
            && self.refused.iter().filter(alike).count() >= MOST_IN_VAIN
    }

    /// Takes out the rows that a rule refused before any row passed, if one has passed since. While nothing passes this
    /// transaction holds no lock on the table, and the rule may have been mended meanwhile: they are to be tried again.
    fn take_doubtful(&mut self) -> Vec<Range<usize>> {
        if self.stored.is_empty() {
            return Vec::new();
        }
        let doubtful = self.refused.extract_if(.., |refusal| refusal.is_early && !refusal.is_certain);
        doubtful.map(|refusal| refusal.row..refusal.row + 1).collect()
    }
}

/// Inserts all rows but those that PostgreSQL refuses, which become dead letters of the batch, and returns the keys that
/// are new. What is found is found for good, also where the transaction fails later.
///
/// # Errors
/// The surroundings' error; or the refusal, where it seems to be the surroundings' fault: nothing passes.
pub(super) async fn insert(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &mut Batch,
    course: &mut Course,
) -> Result<HashSet<[u8; 16]>, sqlx::Error> {
    answer(connection.execute(BEGIN)).await?;
    let all = batch.rows().len();
    let start = course.start % all.max(1);
    // The last is tried first: the row that is known to be refused, what follows it, what precedes it.
    let parts = [0..start, start + 1..all, start..start + 1];
    let mut ranges: Vec<_> =
        parts.into_iter().flat_map(|part| course.piece.ranges(part, rows::INSERT_ROWS).rev()).collect();
    let mut findings = Findings::default();
    loop {
        let result = sift(connection, statements, batch, ranges, &mut findings).await;
        if result.is_ok() {
            let doubtful = findings.take_doubtful();
            if !doubtful.is_empty() {
                ranges = doubtful;
                continue;
            }
        }
        let guilty = guilty(&mut findings, result.is_ok(), &mut course.doubted);
        let refused = guilty.into_iter().map(|refusal| (refusal.row, refusal.detail)).collect();
        let twins = batch.refuse_rows(refused);
        result?;
        if let Some(innocent) = findings.refused.pop() {
            return Err(innocent.error);
        }
        if twins.is_empty() {
            return Ok(findings.stored);
        }
        ranges = twins.into_iter().map(|twin| twin..twin + 1).collect();
    }
}

async fn sift(
    connection: &mut PgConnection,
    statements: &Statements,
    batch: &Batch,
    mut ranges: Vec<Range<usize>>,
    findings: &mut Findings,
) -> Result<(), sqlx::Error> {
    while let Some(range) = ranges.pop() {
        let error = match answer(rows::insert(connection, statements, batch, range.clone())).await {
            Ok(keys) => {
                findings.stored.extend(keys);
                answer(connection.execute(KEEP)).await?;
                continue;
            }
            Err(error) => error,
        };
        if matches!(fault(&error), Fault::Transient | Fault::Configuration) {
            return Err(error);
        }
        answer(connection.execute(UNDO)).await?;
        if range.len() > 1 {
            let middle = range.start + range.len() / 2;
            ranges.push(middle..range.end);
            ranges.push(range.start..middle);
            continue;
        }
        let refusal = Refusal::new(range.start, error, findings.stored.is_empty());
        if findings.are_in_vain(&refusal) {
            return Err(refusal.error);
        }
        findings.refused.push(refusal);
    }
    Ok(())
}

/// Takes those refusals that are the records' fault out of the findings. `complete` says whether all rows were tried.
///
/// A value that cannot be held is the record's fault. A rule that refuses a row may be a mistake of whoever made it: that
/// some rows pass speaks for the rule. Where none does, one row that is refused for a reason of its own is believed to be at
/// fault, unless that reason tells nothing alone; but only once: `doubted` has the reasons for which that was done since a row
/// passed last. Otherwise a mistake would make a dead letter of each event of a quiet topic.
fn guilty(findings: &mut Findings, complete: bool, doubted: &mut Vec<String>) -> Vec<Refusal> {
    let refused = std::mem::take(&mut findings.refused);
    let passed = !findings.stored.is_empty();
    if passed {
        doubted.clear();
    }
    let mut alike: BTreeMap<String, usize> = BTreeMap::new();
    for refusal in refused.iter().filter(|refusal| !refusal.is_certain) {
        *alike.entry(refusal.code.clone()).or_default() += 1;
    }
    let is_alone = |refusal: &Refusal| {
        complete
            && !refusal.is_inconclusive
            && alike.get(&refusal.code) == Some(&1)
            && !doubted.contains(&refusal.code)
    };
    let is_guilty =
        |refusal: &Refusal| refusal.is_certain || if passed { !refusal.is_early } else { is_alone(refusal) };
    let (guilty, innocent): (Vec<_>, Vec<_>) = refused.into_iter().partition(is_guilty);
    if !passed {
        doubted
            .extend(guilty.iter().filter(|refusal| !refusal.is_certain).map(|refusal| refusal.code.clone()));
    }
    findings.refused = innocent;
    guilty
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str) -> Refusal {
        Refusal {
            row: 0,
            code: code.to_owned(),
            detail: String::new(),
            is_certain: code.starts_with("22"),
            is_inconclusive: code.starts_with("P0"),
            is_early: false,
            error: sqlx::Error::RowNotFound,
        }
    }

    #[test]
    fn a_rule_that_refuses_everything_is_no_records_fault() {
        type Codes = &'static [&'static str];
        // What was refused, whether anything passed, whether all was tried: which become dead letters.
        let cases: &[(Codes, bool, bool, Codes)] = &[
            (&[], false, true, &[]),
            (&["23514"], false, true, &["23514"]),
            (&["23514"], false, false, &[]),
            (&["23514", "23514"], false, true, &[]),
            (&["23514", "23514"], true, true, &["23514", "23514"]),
            (&["23514", "23514"], true, false, &["23514", "23514"]),
            (&["23514", "23503"], false, true, &["23514", "23503"]),
            (&["23514", "22P02"], false, false, &["22P02"]),
            (&["22P02", "22P02"], false, true, &["22P02", "22P02"]),
            (&["P0001"], false, true, &[]),
            (&["P0001"], true, true, &["P0001"]),
            (&["P0001", "23514"], false, true, &["23514"]),
            (&["23514", "23514", "23503"], false, true, &["23503"]),
            (&["23514", "23514", "22P02"], false, true, &["22P02"]),
        ];
        for (refused, passed, complete, expected) in cases {
            let stored = if *passed { HashSet::from([[0; 16]]) } else { HashSet::new() };
            let refused = refused.iter().map(|code| refusal(code)).collect();
            let mut findings = Findings { stored, refused };
            let before = findings.refused.len();
            let guilty = guilty(&mut findings, *complete, &mut Vec::new());
            let codes: Vec<_> = guilty.iter().map(|refusal| refusal.code.as_str()).collect();
            assert_eq!(codes, *expected, "{passed} {complete}");
            assert_eq!(guilty.len() + findings.refused.len(), before, "none is forgotten");
        }
    }

    /// The events of a quiet topic come one by one.
    #[test]
    fn a_rule_that_refuses_one_row_after_the_other_is_believed_once() {
        let mut doubted = Vec::new();
        let mut refused = |code, stored: &[[u8; 16]]| {
            let stored = stored.iter().copied().collect();
            let mut findings = Findings { stored, refused: vec![refusal(code)] };
            guilty(&mut findings, true, &mut doubted).len()
        };
        assert_eq!(refused("23514", &[]), 1);
        assert_eq!(refused("23514", &[]), 0, "it may refuse everything");
        assert_eq!(refused("23503", &[]), 1, "another rule");
        assert_eq!((refused("22P02", &[]), refused("22P02", &[])), (1, 1), "no rule");
        assert_eq!(refused("23514", &[[0; 16]]), 1, "another passes");
        assert_eq!(refused("23514", &[]), 1);
    }

    #[test]
    fn one_reason_for_hundreds_of_rows_and_nothing_that_passes_is_enough() {
        let refused = |code: &str| (0..MOST_IN_VAIN).map(|_| refusal(code)).collect();
        let findings = Findings { stored: HashSet::new(), refused: refused("23514") };
        assert!(findings.are_in_vain(&refusal("23514")) && !findings.are_in_vain(&refusal("23503")));
        let certain = Findings { stored: HashSet::new(), refused: refused("22P02") };
        assert!(!certain.are_in_vain(&refusal("22P02")), "each of these is a dead letter");
        let mut mixed: Vec<_> = refused("23514");
        mixed.push(refusal("22P02"));
        let mixed = Findings { stored: HashSet::new(), refused: mixed };
        assert!(mixed.are_in_vain(&refusal("23514")), "whatever else is refused");
        let passing = Findings { stored: HashSet::from([[0; 16]]), refused: refused("23514") };
        assert!(!passing.are_in_vain(&refusal("23514")));
    }
    /// Somebody mended the rule while the rows were being tried.
    #[test]
    fn what_a_rule_refused_before_anything_passed_is_tried_again() {
        let early = |row, code| Refusal { row, is_early: true, ..refusal(code) };
        let refused = || vec![early(0, "23514"), early(3, "22P02"), refusal("23514")];
        let mut nothing = Findings { stored: HashSet::new(), refused: refused() };
        assert!(nothing.take_doubtful().is_empty(), "nothing has passed yet");
        let mut findings = Findings { stored: HashSet::from([[0; 16]]), refused: refused() };
        // The connection is lost before they are tried again.
        let codes = guilty(&mut findings, false, &mut Vec::new());
        assert_eq!(codes.iter().map(|refusal| refusal.row).collect::<Vec<_>>(), [3, 0]);
        let mut findings = Findings { stored: HashSet::from([[0; 16]]), refused: refused() };
        assert_eq!(findings.take_doubtful(), vec![0..1]);
        assert_eq!(findings.refused.len(), 2);
    }
}
