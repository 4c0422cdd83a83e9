//! What an error from PostgreSQL means for the batch: whose fault it is and whether waiting helps.
//!
//! Classes are those of PostgreSQL's "Error Codes" appendix. The rule that protects data: only an error that the
//! content of a record caused may make a dead letter; whatever the surroundings caused is retried without end.

use sqlx::postgres::PgDatabaseError;

/// What an error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A key of the batch is already in the table.
    Duplicate,
    /// The content of a record; with its line in a COPY, counted from 1, where PostgreSQL said so.
    Record {
        /// Line of the COPY data.
        line: Option<usize>,
    },
    /// The surroundings, for now: connection, resources, locks, a server that is starting, stopping or read-only.
    Transient,
    /// The surroundings, until a person acts: password, permissions, a missing database or table.
    Configuration,
}

/// Classifies an error.
#[must_use]
pub fn fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(database) => match database.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => fault_of_code(error.code(), error.r#where()),
            None => Fault::Transient,
        },
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => Fault::Configuration,
        _ => Fault::Transient,
    }
}

fn fault_of_code(code: &str, context: Option<&str>) -> Fault {
    match code {
        "23505" => Fault::Duplicate,
        "25006" => Fault::Transient, // read-only: a replica after a failover
        _ => match code.get(..2).unwrap_or_default() {
            "22" | "23" | "54" => Fault::Record { line: context.and_then(copy_line) },
            "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX" => Fault::Transient,
            _ => Fault::Configuration,
        },
    }
}

/// Whether somebody else held a lock for longer than `lock_timeout`.
#[must_use]
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("55P03")
}

/// Whose fault a failed attempt was, as a metric label: `resources` when the server has run out of disk, memory or
/// connections (class 53), else `configuration` or `transient`.
#[must_use]
pub fn fault_label(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(|error| error.code());
    label_of(fault(error), code.as_deref().unwrap_or_default())
}

fn label_of(fault: Fault, code: &str) -> &'static str {
    match fault {
        Fault::Configuration => "configuration",
        _ if code.starts_with("53") => "resources",
        _ => "transient",
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
        return with_advice(&error.to_string());
    };
    let mut text = format!("{} (SQLSTATE {})", database.message(), database.code());
    for part in [database.detail(), database.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(part);
    }
    text
}

/// What the TLS library says of a certificate, and what to do about it.
const ADVICE: [(&str, &str); 3] = [
    (
        "UnknownIssuer",
        "the server's certificate is signed by an authority that is not trusted here: name it in DATABASE_CA_FILE (in a pipeline: sink.caSecretRef)",
    ),
    ("certificate expired", "the server's certificate has expired: renew it"),
    (
        "certificate not valid for name",
        "the server's certificate is for other host names: connect by one of them, or add this one to the certificate",
    ),
];

fn with_advice(text: &str) -> String {
    let advice = ADVICE.iter().find(|(words, _)| text.contains(words)).map(|(_, advice)| advice);
    advice.map_or_else(|| text.to_owned(), |advice| format!("{advice} ({text})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_with_the_way_out() {
        for (text, words) in [
            (
                "invalid peer certificate: UnknownIssuer",
                "sink.caSecretRef) (invalid peer certificate: UnknownIssuer)",
            ),
            ("invalid peer certificate: certificate expired: now is", "renew it (invalid peer"),
            ("invalid peer certificate: certificate not valid for name \"db\"", "connect by one of them"),
            ("connection reset by peer", "connection reset by peer"),
        ] {
            let said = with_advice(text);
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn only_the_content_of_a_record_is_the_records_fault() {
        let cases = [
            ("23505", Fault::Duplicate),
            ("22P02", Fault::Record { line: None }),
            ("22003", Fault::Record { line: None }),
            ("22P05", Fault::Record { line: None }),
            ("23514", Fault::Record { line: None }),
            ("54001", Fault::Record { line: None }),
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
            assert_eq!(fault_of_code(code, None), expected, "{code}");
        }
    }

    #[test]
    fn a_server_that_has_run_out_of_something_has_a_label_of_its_own() {
        for (code, label) in [
            ("53100", "resources"),
            ("53300", "resources"),
            ("40P01", "transient"),
            ("28P01", "configuration"),
        ] {
            assert_eq!(label_of(fault_of_code(code, None), code), label, "{code}");
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
