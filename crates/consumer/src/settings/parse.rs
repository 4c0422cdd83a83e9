//! From environment variables to [`Settings`]: pure, so that every bad value is a case in a table.

mod kafka;
mod values;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use analytics_runtime::telemetry::LogFormat;

use crate::partitioning::{Interval, Policy};

use super::table::SETTINGS;
use super::{BatchLimits, Database, DeadLetters, Deduplication, Migrations, Settings, TableName, Tombstones};
use kafka::kafka;
use values::Values;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A required setting is not there.
    #[error("{0} is not set: {1}")]
    Missing(&'static str, &'static str),
    /// The value cannot be understood.
    #[error("{0}: {1}")]
    Malformed(&'static str, String),
    /// A variable of this program's families that it does not know.
    #[error("{0} is not a setting of the consumer{1}; see `analytics-consumer --help`")]
    Unknown(String, String),
}

/// Variables that begin like this belong to the consumer; an unknown one is a typing error worth stopping for.
const OWN_FAMILIES: &[&str] =
    &["KAFKA_", "DATABASE_", "DEDUPLICATION_", "DEAD_LETTER_", "BATCH_", "EVENT_", "ROLLUP"];

/// Reads the settings out of `variables`.
pub(super) fn settings(variables: &BTreeMap<String, String>) -> Result<Settings, SettingsError> {
    refuse_unknown(variables)?;
    let values = Values(variables);
    Ok(Settings {
        metrics_port: values.number("METRICS_PORT", 0, u64::from(u16::MAX))? as u16,
        kafka: kafka(&values)?,
        database: Database {
            url: database_url(&values)?,
            table: events_table(&values)?,
            dead_letters: dead_letters(&values)?,
            partitioning: partitioning(&values)?,
            connections: values.number("DATABASE_CONNECTIONS", 1, 64)? as usize,
            migrations: values.choice(
                "DATABASE_MIGRATIONS",
                &[("apply", Migrations::Apply), ("check", Migrations::Check)],
            )?,
            ca_file: values.file("DATABASE_CA_FILE")?,
            client_certificate: client_certificate(&values)?,
            rollups: values.switch("ROLLUPS")?,
            rollup_users: values.switch("ROLLUPS")? && values.switch("ROLLUP_USERS")?,
        },
        deduplication: deduplication(&values)?,
        tombstones: values
            .choice("TOMBSTONES", &[("dead-letter", Tombstones::DeadLetter), ("skip", Tombstones::Skip)])?,
        batch: BatchLimits {
            max_events: values.number("BATCH_MAX_EVENTS", 1, 1_000_000)? as usize,
            max_bytes: values.number("BATCH_MAX_BYTES", 1024, 268_435_456)? as usize,
        },
        event_max_bytes: values.number("EVENT_MAX_BYTES", 1, 268_435_456)? as usize,
        shutdown_timeout_seconds: values.number("SHUTDOWN_TIMEOUT_SECONDS", 1, 3600)?,
        log_level: values.text("LOG_LEVEL").unwrap_or_default(),
        log_format: values.choice("LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?,
        instance: values.text("CONSUMER_INSTANCE").unwrap_or_else(|| host_name(variables)),
    })
}

fn database_url(values: &Values<'_>) -> Result<String, SettingsError> {
    let url = values.required("DATABASE_URL")?;
    // The value is a secret: the message must not repeat it.
    if sqlx::postgres::PgConnectOptions::from_str(&url).is_err()
        || !(url.starts_with("postgres://") || url.starts_with("postgresql://"))
    {
        let message = "the value is not a PostgreSQL URL; write postgres://user:password@host:5432/database \
                       (special characters in the password percent-encoded)";
        return Err(SettingsError::Malformed("DATABASE_URL", message.to_owned()));
    }
    Ok(url)
}

/// A certificate without its key proves nothing, and a key without its certificate neither.
fn client_certificate(values: &Values<'_>) -> Result<Option<(PathBuf, PathBuf)>, SettingsError> {
    const NAMES: [&str; 2] = ["DATABASE_CERTIFICATE_FILE", "DATABASE_KEY_FILE"];
    let missing = |name, other| {
        Err(SettingsError::Malformed(
            name,
            format!("must be set when {other} is: one is of no use without the other"),
        ))
    };
    match (values.file(NAMES[0])?, values.file(NAMES[1])?) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (None, None) => Ok(None),
        (None, Some(_)) => missing(NAMES[0], NAMES[1]),
        (Some(_), None) => missing(NAMES[1], NAMES[0]),
    }
}

/// Tables are named after this one, and PostgreSQL cuts longer names without a word.
fn events_table(values: &Values<'_>) -> Result<TableName, SettingsError> {
    const LONGEST: usize = 48;
    let table = values.table("DATABASE_TABLE")?;
    if table.name().len() > LONGEST {
        let message =
            format!("the table's name may have {LONGEST} bytes, because the rollups are named after it");
        return Err(SettingsError::Malformed("DATABASE_TABLE", message));
    }
    Ok(table)
}

fn partitioning(values: &Values<'_>) -> Result<Option<Policy>, SettingsError> {
    const RETAIN: &str = "DATABASE_RETAIN_DAYS";
    let interval = values.choice(
        "DATABASE_PARTITIONING",
        &[
            ("none", None),
            ("day", Some(Interval::Day)),
            ("week", Some(Interval::Week)),
            ("month", Some(Interval::Month)),
        ],
    )?;
    let retain_days = match values.given(RETAIN) {
        Some(_) => Some(values.number(RETAIN, 1, 36_500)? as u32),
        None => None,
    };
    let ahead = values.number("DATABASE_PARTITIONS_AHEAD", 1, 60)? as u32;
    match (interval, retain_days) {
        (Some(interval), _) => Ok(Some(Policy { interval, retain_days, ahead })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(SettingsError::Malformed(
            RETAIN,
            "needs DATABASE_PARTITIONING: whole partitions are dropped, and a plain table has none"
                .to_owned(),
        )),
    }
}

fn dead_letters(values: &Values<'_>) -> Result<DeadLetters, SettingsError> {
    const TOPIC: &str = "DEAD_LETTER_TOPIC";
    let malformed = |message: String| Err(SettingsError::Malformed(TOPIC, message));
    let Some(topic) = values.text(TOPIC) else {
        return values.table("DEAD_LETTER_TABLE").map(DeadLetters::Table);
    };
    if values.given("DEAD_LETTER_TABLE").is_some() {
        return malformed("may not be set beside DEAD_LETTER_TABLE; remove one of the two".to_owned());
    }
    if !is_topic_name(&topic) {
        return malformed(format!(
            "`{topic}` is not a topic name; write 1 to 249 letters, digits, `.`, `_` and `-`"
        ));
    }
    if topic == values.required("KAFKA_TOPIC")? {
        return malformed(format!(
            "`{topic}` is the topic that is read, and its dead letters would be read again; name another one"
        ));
    }
    Ok(DeadLetters::Topic(topic))
}

fn is_topic_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".."
}

fn deduplication(values: &Values<'_>) -> Result<Deduplication, SettingsError> {
    let name = values.text("DEDUPLICATION_NAME");
    let named = |what: &str| {
        name.clone().ok_or_else(|| {
            SettingsError::Malformed(
                "DEDUPLICATION_NAME",
                format!("must name the {what} when DEDUPLICATION_MODE is `{what}`"),
            )
        })
    };
    match values.choice("DEDUPLICATION_MODE", &[("none", 0), ("content", 1), ("header", 2), ("field", 3)])? {
        0 => Ok(Deduplication::None),
        1 => Ok(Deduplication::Content),
        2 => Ok(Deduplication::Header(named("header")?)),
        _ => Ok(Deduplication::Field(named("field")?)),
    }
}

/// Kubernetes adds such variables for each Service unless told not to; they are not somebody's typing errors.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT") && (value.starts_with("tcp://") || value.starts_with("udp://")))
        || ["_TCP_PROTO", "_TCP_PORT", "_TCP_ADDR", "_UDP_PROTO", "_UDP_PORT", "_UDP_ADDR"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}

fn refuse_unknown(variables: &BTreeMap<String, String>) -> Result<(), SettingsError> {
    for (name, value) in variables {
        let ours = OWN_FAMILIES.iter().any(|family| name.starts_with(family));
        let known = SETTINGS.iter().any(|setting| setting.name == name);
        if ours && !known && !is_service_link(name, value) {
            let nearest = SETTINGS.iter().map(|setting| (distance(setting.name, name), setting.name)).min();
            let hint = match nearest {
                Some((distance, near)) if distance <= 4 => format!(" (did you mean {near}?)"),
                _ => String::new(),
            };
            return Err(SettingsError::Unknown(name.clone(), hint));
        }
    }
    Ok(())
}

/// Levenshtein distance, for suggesting what was probably meant.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let substitution = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn host_name(variables: &BTreeMap<String, String>) -> String {
    variables
        .get("HOSTNAME")
        .cloned()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("process-{}", std::process::id()))
}

#[cfg(test)]
mod tests;
