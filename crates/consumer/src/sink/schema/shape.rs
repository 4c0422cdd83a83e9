//! Whether tables have the columns that the consumer writes, and what to run where they have not.

use sqlx::PgConnection;

use super::{SchemaError, step};
use crate::settings::{TableName, quote};

/// Columns that the consumer writes, and the types in which it can.
pub(super) const EVENT_COLUMNS: &[(&str, &[&str])] = &[
    ("event_type", &["character varying", "text"]),
    ("user_id", &["uuid"]),
    ("service", &["character varying", "text"]),
    ("timestamp", &["timestamp with time zone"]),
    ("data", &["jsonb"]),
    ("event_key", &["uuid"]),
];
pub(super) const OFFSET_COLUMNS: &[(&str, &[&str])] = &[
    ("group_id", &["text"]),
    ("topic", &["text"]),
    ("partition", &["integer"]),
    ("next_offset", &["bigint"]),
    ("topic_id", &["text"]),
];
pub(super) const ROLLUP_COLUMNS: &[(&str, &[&str])] = &[
    ("hour", &["timestamp with time zone"]),
    ("service", &["text"]),
    ("partition", &["integer"]),
    ("events", &["bigint"]),
];
pub(super) const USER_COLUMNS: &[(&str, &[&str])] =
    &[("hour", &["timestamp with time zone"]), ("partition", &["integer"]), ("users", &["bigint"])];
pub(super) const DEAD_LETTER_COLUMNS: &[(&str, &[&str])] =
    &[("partition", &["integer"]), ("offset", &["bigint"]), ("reason", &["text"]), ("payload", &["bytea"])];

/// Checks the columns of one table.
///
/// # Errors
/// The first difference, with the statement that ends it.
pub(super) async fn check_columns(
    connection: &mut PgConnection,
    setting: &str,
    table: &str,
    expected: &[(&str, &[&str])],
) -> Result<(), SchemaError> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT attname::text, regexp_replace(format_type(atttypid, NULL), '\\(.*', '') FROM pg_attribute \
         WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
    )
    .bind(table)
    .fetch_all(connection)
    .await
    .map_err(step(format!("look up the columns of {table}")))?;
    if columns.is_empty() {
        return Err(SchemaError::Shape(format!(
            "table {table} does not exist; run `analytics-consumer migrate` with the same settings"
        )));
    }
    for (name, types) in expected {
        let found = columns.iter().find(|(column, _)| column == name).map(|(_, found)| found.as_str());
        if !found.is_some_and(|found| types.contains(&found)) {
            return Err(SchemaError::Shape(difference(setting, table, name, found, types[0])));
        }
    }
    Ok(())
}

fn difference(setting: &str, table: &str, name: &str, found: Option<&str>, needed: &str) -> String {
    let column = quote(name);
    let (is, way_out) = match found {
        None => ("is missing".to_owned(), format!("ALTER TABLE {table} ADD COLUMN {column} {needed}")),
        Some(found) => {
            let value = match found {
                // Without a zone it would be the time of whoever runs the statement.
                "timestamp without time zone" => format!("{column} AT TIME ZONE 'UTC'"),
                _ => format!("{column}::{needed}"),
            };
            let change = format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {needed} USING {value}");
            (
                format!("has type {found}"),
                format!("{change} (it writes the table anew and blocks it meanwhile)"),
            )
        }
    };
    format!(
        "table {table} exists with another shape: column {name} {is}, needed is {needed}; if it is a table of events, run: \
         {way_out}; if not, name another table with {setting}"
    )
}

/// The older service numbered its rows by `serial`, which ends at 2,147,483,647. Making that wider writes the table anew, so
/// it is for a person to choose the moment; until then everything works.
pub(super) async fn warn_of_narrow_id(
    connection: &mut PgConnection,
    table: &TableName,
) -> Result<(), SchemaError> {
    let quoted = table.quoted();
    let narrow: Option<(String, Option<String>)> = sqlx::query_as(
        "SELECT format_type(atttypid, NULL), pg_get_serial_sequence($1, 'id') FROM pg_attribute \
         WHERE attrelid = $1::regclass AND attname = 'id' AND NOT attisdropped \
         AND atttypid IN ('integer'::regtype, 'smallint'::regtype)",
    )
    .bind(&quoted)
    .fetch_optional(connection)
    .await
    .map_err(step(format!("look up the type of the ids of {quoted}")))?;
    if let Some((found, sequence)) = narrow {
        tracing::warn!("{}", widen(&quoted, &found, sequence.as_deref()));
    }
    Ok(())
}

fn widen(table: &str, found: &str, sequence: Option<&str>) -> String {
    let sequence = sequence.map(|name| format!("; ALTER SEQUENCE {name} AS bigint")).unwrap_or_default();
    format!(
        "Column id of {table} has type {found}: when its numbers run out no event can be stored any more. When the table may be \
         blocked for as long as it takes to write it anew, run: ALTER TABLE {table} ALTER COLUMN id TYPE bigint{sequence}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_column_is_named_with_the_statement_to_run() {
        let cases = [
            (
                ("user_id", Some("text"), "uuid"),
                "ALTER TABLE \"t\" ALTER COLUMN \"user_id\" TYPE uuid USING \"user_id\"::uuid",
            ),
            (
                ("timestamp", Some("timestamp without time zone"), "timestamp with time zone"),
                "TYPE timestamp with time zone USING \"timestamp\" AT TIME ZONE 'UTC'",
            ),
            (
                ("service", None, "character varying"),
                "ALTER TABLE \"t\" ADD COLUMN \"service\" character varying;",
            ),
        ];
        for ((column, found, needed), statement) in cases {
            let said = difference("DATABASE_TABLE", "\"t\"", column, found, needed);
            assert!(said.contains(statement) && said.ends_with("with DATABASE_TABLE"), "{said}");
        }
    }

    #[test]
    fn narrow_ids_are_told_with_the_statements_to_run() {
        let said = widen("\"events\"", "integer", Some("public.events_id_seq"));
        let statements = "run: ALTER TABLE \"events\" ALTER COLUMN id TYPE bigint; ALTER SEQUENCE public.events_id_seq AS bigint";
        assert!(said.ends_with(statements), "{said}");
        assert!(widen("\"e\"", "integer", None).ends_with("TYPE bigint"));
    }
}
