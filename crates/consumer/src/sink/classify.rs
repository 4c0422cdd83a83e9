//! What an error from PostgreSQL means for the batch: whose fault it is and whether waiting helps.
//!
//! Classes are those of PostgreSQL's "Error Codes" appendix. The rule that protects data: only an error that the
//! content of a record caused may make a dead letter; whatever the surroundings caused is retried without end. Nothing
//! here looks at words, which the server says in its own language.

use sqlx::postgres::PgDatabaseError;

use super::advice;

/// Columns that the consumer writes, as PostgreSQL knows them.
pub(super) const WRITTEN: [&str; 6] = ["event_type", "user_id", "service", "timestamp", "data", "event_key"];

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A key of the batch is already in the table.
    Duplicate,
    /// A value that PostgreSQL cannot hold; with its line in a COPY, counted from 1, where PostgreSQL said so.
    Record {
        /// Line of the COPY data.
        line: Option<usize>,
    },
    /// A rule of the table (a constraint, an index, a trigger) refuses a row. That is the record's fault if the rule lets
    /// others pass: one that refuses every row was made by mistake.
    Rule {
        /// Line of the COPY data.
        line: Option<usize>,
    },
    /// The surroundings, for now: connection, resources, locks, a server that is starting, stopping or read-only.
    Transient,
    /// The surroundings, until a person acts: password, permissions, a missing database or table, a sequence at its end.
    Configuration,
}

/// Those parts of an error that decide.
#[derive(Clone, Copy, Debug, Default)]
struct Said<'a> {
    code: &'a str,
    context: Option<&'a str>,
    detail: Option<&'a str>,
    column: Option<&'a str>,
    constraint: Option<&'a str>,
    routine: Option<&'a str>,
}

/// Classifies an error.
#[must_use]
pub fn fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => Fault::Configuration,
        error => said(error).map_or(Fault::Transient, |said| fault_of(&said)),
    }
}

fn said(error: &sqlx::Error) -> Option<Said<'_>> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    Some(Said {
        code: error.code(),
        context: error.r#where(),
        detail: error.detail(),
        column: error.column(),
        constraint: error.constraint(),
        routine: error.routine(),
    })
}

fn fault_of(said: &Said<'_>) -> Fault {
    let line = said.context.and_then(copy_line);
    let in_routine = |names: &[&str]| said.routine.is_some_and(|routine| names.contains(&routine));
    match said.code {
        "23505" => unique(said, line),
        "25006" => Fault::Transient,     // read-only: a replica after a failover
        "2200H" => Fault::Configuration, // a sequence has reached its end
        // Transaction ids have nearly run out; the code is also that of an index entry that is too large.
        "54000" if in_routine(&["GetNewTransactionId", "GetNewMultiXactId"]) => Fault::Configuration,
        // No partition takes the row. A check has a name.
        "23514" if said.constraint.is_none() && !in_function(said.context) => Fault::Configuration,
        // The width of a column, its type, the size of an index entry.
        "22001" | "22P03" | "54000" => Fault::Rule { line },
        code => match code.get(..2).unwrap_or_default() {
            "23" | "P0" => Fault::Rule { line },
            "22" | "54" if reads_value(said.context) => Fault::Record { line },
            // An expression of the table failed: in a check, an index, a generated column, a trigger.
            "22" | "54" => Fault::Rule { line },
            "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX" => Fault::Transient,
            _ => Fault::Configuration,
        },
    }
}

/// A unique index says which columns it has: `Key (event_key)=(…) already exists.` in any language. Without that (the role
/// may not read them) its name must do.
fn unique(said: &Said<'_>, line: Option<usize>) -> Fault {
    let columns = said.detail.and_then(key_columns);
    match columns {
        Some("event_key") => Fault::Duplicate,
        Some("id") => Fault::Configuration, // a sequence that is behind the ids of the table
        Some(_) => Fault::Rule { line },
        None if said.constraint.is_some_and(|name| name.ends_with("_pkey")) => Fault::Configuration,
        None => Fault::Duplicate,
    }
}

fn key_columns(detail: &str) -> Option<&str> {
    let (columns, _) = detail.split_once(")=(")?;
    columns.split_once('(').map(|(_, columns)| columns)
}

fn names_any(text: &str, names: &[&str]) -> bool {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
        .any(|word| names.contains(&word))
}

/// Whether a function of the database's owner was at work; the name of the language is the same in every language.
fn in_function(context: Option<&str>) -> bool {
    // The line of the COPY quotes the record, which may say anything.
    let mut lines = context.unwrap_or_default().lines();
    lines.any(|line| !line.starts_with("COPY ") && line.contains("PL/pgSQL"))
}

/// Whether PostgreSQL was reading a value that it was sent: a COPY names its column then, an insert its parameter. Where that is
/// said in another language it counts as a rule, which a row that passes confirms.
fn reads_value(context: Option<&str>) -> bool {
    context.unwrap_or_default().lines().any(|line| {
        line.starts_with("JSON data, ")
            || line.starts_with("unnamed portal ")
            || (line.starts_with("COPY ") && copy_names_column(line))
    })
}

/// `COPY events, line 7, column data`, perhaps with the value after it; a table's name may hold anything.
fn copy_names_column(line: &str) -> bool {
    let after = line
        .rsplit_once(", line ")
        .map(|(_, after)| after.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    after.is_some_and(|after| after.starts_with(", column "))
}

/// Whether the refusal of one row alone tells nothing about whose fault it is: a person's own code raised it (`RAISE` in
/// PL/pgSQL), or it is about a column that the consumer does not write, which others fill from the record or not at all.
#[must_use]
pub(super) fn is_inconclusive(error: &sqlx::Error) -> bool {
    said(error).is_some_and(|said| tells_nothing_alone(&said))
}

fn tells_nothing_alone(said: &Said<'_>) -> bool {
    match said.code {
        // A column that a sequence fills may be narrower than the sequence.
        "22003" => said.routine.is_some_and(|routine| ["int82", "int84"].contains(&routine)),
        "23502" => said.column.is_some_and(|column| !WRITTEN.contains(&column)),
        "23505" => said.detail.and_then(key_columns).is_some_and(|columns| !names_any(columns, &WRITTEN)),
        "23514" => said.constraint.is_none(),
        code => code.starts_with("P0"),
    }
}

/// Whether a statement took too long: the server ended it, or the connection was given up because nothing moved on it.
#[must_use]
pub(super) fn took_too_long(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::TimedOut,
        error => has_code(error, |code| code == "57014"),
    }
}

fn has_code(error: &sqlx::Error, is: impl Fn(&str) -> bool) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| is(&code))
}

/// Whether somebody else held a lock for longer than `lock_timeout`.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    has_code(error, |code| code == "55P03")
}

/// Whose fault a failed attempt was, as a metric label: `resources` when the server has run out of disk, memory or
/// connections (class 53), `transient` for all else that passes by itself, `configuration` where a person must act.
#[must_use]
pub fn fault_label(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(|error| error.code());
    label_of(fault(error), code.as_deref().unwrap_or_default())
}

fn label_of(fault: Fault, code: &str) -> &'static str {
    match fault {
        Fault::Transient if code.starts_with("53") => "resources",
        Fault::Transient => "transient",
        // What a rule refuses is the surroundings' fault when it refuses everything, or it would be a dead letter.
        _ => "configuration",
    }
}

/// The line number in an error context such as
/// `JSON data, line 1: {…` + newline + `COPY events, line 7, column data`.
fn copy_line(context: &str) -> Option<usize> {
    let copy = context.lines().rev().find(|line| line.starts_with("COPY "))?;
    let (_, after) = copy.rsplit_once(", line ")?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The error as one line for a person, with the server's detail and hint; never with connection parameters.
#[must_use]
pub fn describe(error: &sqlx::Error) -> String {
    let Some(database) =
        error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
    else {
        return advice::with_words_on_certificates(&error.to_string());
    };
    let mut text = format!("{} (SQLSTATE {})", database.message(), database.code());
    let is_advised =
        fault(error) == Fault::Configuration || (is_inconclusive(error) && database.code() != "23514");
    let advice = is_advised.then(|| advice::of_database(database)).flatten();
    for part in [database.detail(), database.hint(), advice.as_deref()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Fault = Fault::Record { line: None };
    const RULE: Fault = Fault::Rule { line: None };

    fn of_code(code: &str) -> Fault {
        fault_of(&Said { code, constraint: Some("named"), ..Said::default() })
    }

    #[test]
    fn only_the_content_of_a_record_is_the_records_fault() {
        let cases = [
            ("22P02", RULE),
            ("54001", RULE),
            ("22001", RULE),
            ("22P03", RULE),
            ("23503", RULE),
            ("23514", RULE),
            ("23P01", RULE),
            ("54000", RULE),
            ("P0001", RULE),
            ("2200H", Fault::Configuration),
            ("40P01", Fault::Transient),
            ("40001", Fault::Transient),
            ("53100", Fault::Transient),
            ("53300", Fault::Transient),
            ("57P01", Fault::Transient),
            ("57P03", Fault::Transient),
            ("25006", Fault::Transient),
            ("25P03", Fault::Transient),
            ("55P03", Fault::Transient),
            ("58030", Fault::Transient),
            ("08006", Fault::Transient),
            ("28P01", Fault::Configuration),
            ("3D000", Fault::Configuration),
            ("42501", Fault::Configuration),
            ("42P01", Fault::Configuration),
            ("42703", Fault::Configuration),
        ];
        for (code, expected) in cases {
            assert_eq!(of_code(code), expected, "{code}");
        }
    }

    /// The same codes, by what else the error says: whose fault, and whether one row alone tells it.
    #[test]
    fn what_the_consumer_does_not_write_is_never_the_records_fault_alone() {
        const FUNCTION: &str = "PL/pgSQL function f() line 3 at assignment";
        const CERTAIN: bool = true;
        let said = |code| Said { code, constraint: Some("named"), ..Said::default() };
        let cases = [
            (Said { column: Some("tenant"), ..said("23502") }, RULE, !CERTAIN),
            (Said { column: Some("service"), ..said("23502") }, RULE, CERTAIN),
            (said("23502"), RULE, CERTAIN),
            (said("23514"), RULE, CERTAIN),
            (Said { constraint: None, ..said("23514") }, Fault::Configuration, !CERTAIN),
            (Said { constraint: None, context: Some(FUNCTION), ..said("23514") }, RULE, !CERTAIN),
            (Said { routine: Some("GetNewTransactionId"), ..said("54000") }, Fault::Configuration, CERTAIN),
            (Said { routine: Some("_bt_check_third_page"), ..said("54000") }, RULE, CERTAIN),
            (Said { routine: Some("int84"), ..said("22003") }, RULE, !CERTAIN),
            (Said { context: Some(FUNCTION), ..said("22P02") }, RULE, CERTAIN),
            (said("P0001"), RULE, !CERTAIN),
        ];
        for (said, expected, is_certain) in cases {
            assert_eq!((fault_of(&said), !tells_nothing_alone(&said)), (expected, is_certain), "{said:?}");
        }
    }

    /// A number that no column of this type holds, and an expression of the table that fails on what the column holds.
    #[test]
    fn what_was_sent_is_told_from_what_is_made_of_it() {
        let cases = [
            ("COPY events, line 7, column data", Fault::Record { line: Some(7) }),
            (
                "JSON data, line 1: {\"a\":...\nCOPY events, line 7, column data",
                Fault::Record { line: Some(7) },
            ),
            ("COPY odd, line 3 name, line 12, column user_id: \"x\"", Fault::Record { line: Some(12) }),
            ("JSON data, line 1: {\"a\":...", RECORD),
            ("unnamed portal parameter $5", RECORD),
            ("COPY events, line 7", Fault::Rule { line: Some(7) }),
            ("COPY odd, column x, line 7", Fault::Rule { line: Some(7) }),
            ("", RULE),
        ];
        for (context, expected) in cases {
            for code in ["22P02", "22003", "22P05", "54001"] {
                let said = Said { code, context: Some(context), ..Said::default() };
                assert_eq!(fault_of(&said), expected, "{code} {context}");
            }
        }
    }

    #[test]
    fn what_takes_too_long_is_told_by_the_server_or_by_the_connection() {
        let of_kind = |kind: std::io::ErrorKind| sqlx::Error::Io(kind.into());
        assert!(took_too_long(&of_kind(std::io::ErrorKind::TimedOut)));
        assert!(!took_too_long(&of_kind(std::io::ErrorKind::ConnectionReset)));
        assert!(!took_too_long(&sqlx::Error::RowNotFound));
    }

    #[test]
    fn only_the_index_on_the_event_key_tells_duplicates() {
        let cases = [
            (Some("Key (event_key)=(0192fae5) already exists."), "events_event_key_key", Fault::Duplicate),
            (Some("Schlüssel »(event_key)=(0192fae5)« existiert bereits."), "any", Fault::Duplicate),
            (Some("Key (id)=(7) already exists."), "events_pkey", Fault::Configuration),
            (Some("Key (created_at)=(2024-11-09) already exists."), "any", RULE),
            (Some("Key (user_id, \"timestamp\")=(1, 2) already exists."), "any", RULE),
            (Some("Key (event_key, service)=(1, 2) already exists."), "any", RULE),
            (Some("Key ((data ->> 'order'::text))=(a)=(b) already exists."), "any", RULE),
            (None, "events_pkey", Fault::Configuration),
            (None, "events_event_key_key", Fault::Duplicate),
        ];
        for (detail, name, expected) in cases {
            let said = Said { code: "23505", detail, constraint: Some(name), ..Said::default() };
            assert_eq!(fault_of(&said), expected, "{detail:?}");
        }
    }

    #[test]
    fn a_server_that_has_run_out_of_something_has_a_label_of_its_own() {
        for (code, label) in [
            ("53100", "resources"),
            ("53300", "resources"),
            ("40P01", "transient"),
            ("28P01", "configuration"),
            ("23514", "configuration"),
        ] {
            assert_eq!(label_of(of_code(code), code), label, "{code}");
        }
    }

    #[test]
    fn the_line_is_that_of_the_copy_not_that_of_the_json() {
        let cases = [
            ("COPY events, line 5000", Some(5000)),
            ("JSON data, line 1: {\"a\":...\nCOPY events, line 7, column data", Some(7)),
            ("COPY odd, line 3 name, line 12, column \"user_id\"", Some(12)),
            ("unnamed portal with parameters", None),
            ("JSON data, line 1: x", None),
        ];
        for (context, expected) in cases {
            assert_eq!(copy_line(context), expected, "{context}");
        }
    }
}
