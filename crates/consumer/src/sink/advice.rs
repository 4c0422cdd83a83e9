//! The way out of what only a person can mend.

use sqlx::postgres::PgDatabaseError;

use crate::settings::quote;

/// What to do about an error that is no record's fault, where that can be said exactly.
pub(super) fn of_database(error: &PgDatabaseError) -> Option<String> {
    let table = || match (error.schema(), error.table()) {
        (Some(schema), Some(table)) => format!("{}.{}", quote(schema), quote(table)),
        _ => "…".to_owned(),
    };
    match error.code() {
        "2200H" | "22003" => Some(
            "ids have run out: make room with ALTER TABLE … ALTER COLUMN id TYPE bigint and ALTER SEQUENCE … AS bigint".to_owned(),
        ),
        "23502" => error.column().map(|column| {
            format!(
                "the consumer does not write this column: ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL, or give it a default",
                table(),
                quote(column)
            )
        }),
        "23505" => Some(format!(
            "the consumer does not write this column: if a sequence fills it, put that behind what is there, as in \
             SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))",
            table = table()
        )),
        "23514" => Some(format!("no partition takes the row: CREATE TABLE … PARTITION OF {} DEFAULT", table())),
        _ => None,
    }
}

/// What the TLS library says of a certificate, and what to do about it.
const CERTIFICATES: [(&str, &str); 3] = [
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

/// The text, with advice before it where it is about a certificate.
pub(super) fn with_words_on_certificates(text: &str) -> String {
    let advice = CERTIFICATES.iter().find(|(words, _)| text.contains(words)).map(|(_, advice)| advice);
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
            let said = with_words_on_certificates(text);
            assert!(said.contains(words), "{said}");
        }
    }
}
