//! From environment variables to [`Settings`]: pure, so that every bad value is a case in a table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use analytics_runtime::telemetry::LogFormat;

use crate::partitioning::{Interval, Policy};

use super::table::SETTINGS;
use super::{
    BatchLimits, Database, DeadLetters, Deduplication, GroupProtocol, Kafka, Migrations, OnOffsetGap,
    Settings, StartFrom, TableName, Tombstones,
};

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

/// librdkafka properties that exactly-once delivery, security or this program's own settings rest on.
const RESERVED_PROPERTIES: &[&str] = &[
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
];

/// Families of librdkafka properties of which the same is true: none of them may weaken what the settings ask for.
const RESERVED_FAMILIES: &[&str] = &["security.", "sasl.", "ssl.", "plugin."];

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

fn kafka(values: &Values<'_>) -> Result<Kafka, SettingsError> {
    Ok(Kafka {
        brokers: brokers(values)?,
        topic: values.required("KAFKA_TOPIC")?,
        group_id: values.required("KAFKA_GROUP_ID")?,
        start_from: values.choice(
            "KAFKA_START_FROM",
            &[("earliest", StartFrom::Earliest), ("latest", StartFrom::Latest)],
        )?,
        on_offset_gap: values.choice(
            "KAFKA_ON_OFFSET_GAP",
            &[
                ("fail", OnOffsetGap::Fail),
                ("earliest", OnOffsetGap::Earliest),
                ("latest", OnOffsetGap::Latest),
            ],
        )?,
        group_protocol: group_protocol(values)?,
        client_properties: client_properties(values)?,
    })
}

/// Properties of the classic protocol, which librdkafka refuses with the other one; there the broker decides about them.
const CLASSIC_PROPERTIES: &[&str] = &["session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"];

fn group_protocol(values: &Values<'_>) -> Result<GroupProtocol, SettingsError> {
    let choices = [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
    let protocol = values.choice("KAFKA_GROUP_PROTOCOL", &choices)?;
    let properties = user_properties(values)?;
    let classic = CLASSIC_PROPERTIES.iter().find(|property| properties.contains_key(**property));
    match (protocol, classic) {
        (GroupProtocol::Consumer, Some(property)) => Err(SettingsError::Malformed(
            "KAFKA_PROPERTIES",
            format!(
                "`{property}` has no meaning when KAFKA_GROUP_PROTOCOL is consumer: the broker decides about it"
            ),
        )),
        _ => Ok(protocol),
    }
}

fn brokers(values: &Values<'_>) -> Result<String, SettingsError> {
    let text = values.required("KAFKA_BROKERS")?;
    for broker in text.split(',').map(str::trim) {
        let port = broker.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
        if !matches!(port, Some((false, Ok(port))) if port > 0) {
            let message =
                format!("`{broker}` is not `host:port`; write for example kafka-1:9092,kafka-2:9092");
            return Err(SettingsError::Malformed("KAFKA_BROKERS", message));
        }
    }
    Ok(text)
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

/// Security settings and pass-through properties in librdkafka's own names.
fn client_properties(values: &Values<'_>) -> Result<BTreeMap<String, String>, SettingsError> {
    let mut properties = user_properties(values)?;
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            properties.insert(key.to_owned(), value);
        }
    };
    let protocols = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
    let protocol = values.one_of("KAFKA_SECURITY_PROTOCOL", &protocols)?.unwrap_or("PLAINTEXT");
    let mechanism = values.one_of("KAFKA_SASL_MECHANISM", &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])?;
    if protocol.starts_with("SASL") {
        for (name, there) in [
            ("KAFKA_SASL_MECHANISM", mechanism.is_some()),
            ("KAFKA_SASL_USERNAME", values.text("KAFKA_SASL_USERNAME").is_some()),
            ("KAFKA_SASL_PASSWORD", values.text("KAFKA_SASL_PASSWORD").is_some()),
        ] {
            if !there {
                return Err(SettingsError::Malformed(
                    name,
                    format!("must be set when KAFKA_SECURITY_PROTOCOL is {protocol}"),
                ));
            }
        }
        set("sasl.mechanism", mechanism.map(str::to_owned));
        set("sasl.username", values.text("KAFKA_SASL_USERNAME"));
        set("sasl.password", values.text("KAFKA_SASL_PASSWORD"));
    }
    set("security.protocol", Some(protocol.to_owned()));
    for (name, key) in [
        ("KAFKA_SSL_CA_FILE", "ssl.ca.location"),
        ("KAFKA_SSL_CERTIFICATE_FILE", "ssl.certificate.location"),
        ("KAFKA_SSL_KEY_FILE", "ssl.key.location"),
    ] {
        set(key, values.file(name)?.map(|path| path.display().to_string()));
    }
    Ok(properties)
}

fn user_properties(values: &Values<'_>) -> Result<BTreeMap<String, String>, SettingsError> {
    let mut properties = BTreeMap::new();
    let text = values.text("KAFKA_PROPERTIES").unwrap_or_default();
    for line in text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
        let malformed = |message: String| SettingsError::Malformed("KAFKA_PROPERTIES", message);
        let Some((key, value)) = line.split_once('=') else {
            return Err(malformed(format!("`{line}` is not `key=value`")));
        };
        let key = key.trim();
        if RESERVED_PROPERTIES.contains(&key)
            || RESERVED_FAMILIES.iter().any(|family| key.starts_with(family))
        {
            return Err(malformed(format!(
                "`{key}` may not be set here: delivery or security rests on it, or it has a setting of its own"
            )));
        }
        properties.insert(key.to_owned(), value.trim().to_owned());
    }
    Ok(properties)
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

/// Typed access to the variables, with the table's defaults; an empty value counts as unset.
struct Values<'a>(&'a BTreeMap<String, String>);

impl Values<'_> {
    fn given(&self, name: &'static str) -> Option<String> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    fn text(&self, name: &'static str) -> Option<String> {
        self.given(name)
            .or_else(|| SETTINGS.iter().find(|setting| setting.name == name)?.default.map(str::to_owned))
    }

    fn required(&self, name: &'static str) -> Result<String, SettingsError> {
        let help = SETTINGS.iter().find(|setting| setting.name == name).map_or("", |setting| setting.help);
        self.text(name).ok_or(SettingsError::Missing(name, help))
    }

    fn number(&self, name: &'static str, min: u64, max: u64) -> Result<u64, SettingsError> {
        let text = self.required(name)?;
        text.parse::<u64>().ok().filter(|number| (min..=max).contains(number)).ok_or_else(|| {
            SettingsError::Malformed(name, format!("`{text}` is not a whole number from {min} to {max}"))
        })
    }

    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<T, SettingsError> {
        let text = self.required(name)?;
        choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(&text)).map(|(_, value)| *value).ok_or_else(
            || {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                SettingsError::Malformed(name, format!("`{text}` is not one of {}", words.join(", ")))
            },
        )
    }

    fn switch(&self, name: &'static str) -> Result<bool, SettingsError> {
        self.choice(name, &[("enabled", true), ("disabled", false)])
    }

    fn one_of(
        &self,
        name: &'static str,
        words: &[&'static str],
    ) -> Result<Option<&'static str>, SettingsError> {
        if self.text(name).is_none() {
            return Ok(None);
        }
        let choices: Vec<(&str, &'static str)> = words.iter().map(|word| (*word, *word)).collect();
        self.choice(name, &choices).map(Some)
    }

    fn table(&self, name: &'static str) -> Result<TableName, SettingsError> {
        TableName::parse(&self.required(name)?).map_err(|message| SettingsError::Malformed(name, message))
    }

    fn file(&self, name: &'static str) -> Result<Option<PathBuf>, SettingsError> {
        let Some(path) = self.text(name).map(PathBuf::from) else { return Ok(None) };
        match std::fs::File::open(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) => Err(SettingsError::Malformed(
                name,
                format!("cannot read the file `{}`: {error}", path.display()),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMUM: &[(&str, &str)] =
        &[("KAFKA_BROKERS", "kafka:9092"), ("DATABASE_URL", "postgres://u:secret-word@db:5432/analytics")];

    fn parse(extra: &[(&str, &str)]) -> Result<Settings, String> {
        let variables = MINIMUM
            .iter()
            .chain(extra)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        settings(&variables).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_table() {
        let settings = parse(&[]).expect("the minimum is enough");
        assert_eq!(settings.metrics_port, 9090);
        assert_eq!(settings.kafka.topic, "user-events");
        assert_eq!(settings.kafka.group_id, "analytics-service");
        assert_eq!(settings.database.table.quoted(), "\"events\"");
        assert_eq!(settings.deduplication, Deduplication::Content);
        assert_eq!(settings.database.dead_letters.table().map(TableName::name), Some("dead_letters"));
        assert_eq!(settings.batch.max_events, 10_000);
    }

    #[test]
    fn bad_values_are_named_with_the_way_out() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[("KAFKA_BROKERS", "")], "KAFKA_BROKERS is not set"),
            (&[("KAFKA_BROKERS", "kafka")], "KAFKA_BROKERS: `kafka` is not `host:port`"),
            (&[("KAFKA_BROKERS", "a:9092,b:x")], "KAFKA_BROKERS: `b:x` is not `host:port`"),
            (&[("METRICS_PORT", "http")], "METRICS_PORT: `http` is not a whole number from 0 to 65535"),
            (&[("METRICS_PORT", "70000")], "METRICS_PORT: `70000` is not a whole number from 0 to 65535"),
            (&[("KAFKA_START_FROM", "middle")], "KAFKA_START_FROM: `middle` is not one of earliest, latest"),
            (
                &[("KAFKA_TOPC", "x")],
                "KAFKA_TOPC is not a setting of the consumer (did you mean KAFKA_TOPIC?)",
            ),
            (&[("BATCH_MAX_EVENTS", "0")], "BATCH_MAX_EVENTS: `0` is not a whole number from 1 to 1000000"),
            (&[("DATABASE_TABLE", "a.b.c")], "DATABASE_TABLE: `a.b.c` has more than one dot"),
            (
                &[("DATABASE_TABLE", "t23456789_123456789_123456789_123456789_123456789")],
                "DATABASE_TABLE: the table's name",
            ),
            (
                &[("DEAD_LETTER_TOPIC", "dlq"), ("DEAD_LETTER_TABLE", "dead_letters")],
                "DEAD_LETTER_TOPIC: may not be set beside DEAD_LETTER_TABLE",
            ),
            (
                &[("DEAD_LETTER_TOPIC", "user-events")],
                "DEAD_LETTER_TOPIC: `user-events` is the topic that is read",
            ),
            (&[("DEAD_LETTER_TOPIC", "a b")], "DEAD_LETTER_TOPIC: `a b` is not a topic name"),
            (&[("ROLLUPS", "on")], "ROLLUPS: `on` is not one of enabled, disabled"),
            (&[("DATABASE_RETAIN_DAYS", "30")], "DATABASE_RETAIN_DAYS: needs DATABASE_PARTITIONING"),
            (
                &[("DATABASE_PARTITIONING", "day"), ("DATABASE_RETAIN_DAYS", "0")],
                "DATABASE_RETAIN_DAYS: `0` is not a whole number from 1 to 36500",
            ),
            (
                &[("DATABASE_PARTITIONING", "hour")],
                "DATABASE_PARTITIONING: `hour` is not one of none, day, week, month",
            ),
            (&[("DEDUPLICATION_MODE", "header")], "DEDUPLICATION_NAME: must name the header"),
            (&[("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")], "KAFKA_SASL_MECHANISM: must be set when"),
            (
                &[("KAFKA_PROPERTIES", "isolation.level=read_uncommitted")],
                "KAFKA_PROPERTIES: `isolation.level` may not be set",
            ),
            (
                &[("KAFKA_PROPERTIES", "ssl.endpoint.identification.algorithm=none")],
                "KAFKA_PROPERTIES: `ssl.endpoint.identification.algorithm` may not be set",
            ),
            (
                &[("KAFKA_GROUP_PROTOCOL", "new")],
                "KAFKA_GROUP_PROTOCOL: `new` is not one of classic, consumer",
            ),
            (
                &[("KAFKA_GROUP_PROTOCOL", "consumer"), ("KAFKA_PROPERTIES", "session.timeout.ms=9000")],
                "KAFKA_PROPERTIES: `session.timeout.ms` has no meaning when",
            ),
            (
                &[("KAFKA_PROPERTIES", "group.protocol=consumer")],
                "KAFKA_PROPERTIES: `group.protocol` may not be set",
            ),
            (&[("KAFKA_PROPERTIES", "nonsense")], "KAFKA_PROPERTIES: `nonsense` is not `key=value`"),
            (&[("DATABASE_CA_FILE", "/does/not/exist.pem")], "DATABASE_CA_FILE: cannot read the file"),
            (
                &[("DATABASE_URL", "mysql://u:secret-word@db/x")],
                "DATABASE_URL: the value is not a PostgreSQL URL",
            ),
        ];
        for (extra, expected) in cases {
            let message = parse(extra).err().unwrap_or_else(|| panic!("{extra:?} was accepted"));
            assert!(message.starts_with(expected), "{extra:?}: {message}");
            assert!(!message.contains("secret-word"), "{message}");
            assert!(!message.contains('\n'), "one line: {message}");
        }
    }

    #[test]
    fn kubernetes_service_links_are_not_typing_errors() {
        let links = [
            ("KAFKA_SERVICE_HOST", "198.19.0.7"),
            ("KAFKA_PORT", "tcp://198.19.0.7:9092"),
            ("KAFKA_PORT_9092_TCP_ADDR", "198.19.0.7"),
            ("DATABASE_SERVICE_PORT_SQL", "5432"),
        ];
        assert!(parse(&links).is_ok());
    }

    #[test]
    fn security_settings_reach_librdkafka_under_its_names() {
        let settings = parse(&[
            ("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
            ("KAFKA_SASL_MECHANISM", "scram-sha-512"),
            ("KAFKA_SASL_USERNAME", "user"),
            ("KAFKA_SASL_PASSWORD", "p"),
            ("KAFKA_PROPERTIES", "fetch.max.bytes=1048576; client.id = x"),
        ])
        .expect("valid");
        let properties = &settings.kafka.client_properties;
        assert_eq!(properties.get("sasl.mechanism").map(String::as_str), Some("SCRAM-SHA-512"));
        assert_eq!(properties.get("fetch.max.bytes").map(String::as_str), Some("1048576"));
        assert_eq!(properties.get("client.id").map(String::as_str), Some("x"));
    }

    #[test]
    fn a_table_is_partitioned_by_choice() {
        assert!(parse(&[]).expect("valid").database.partitioning.is_none());
        let chosen =
            parse(&[("DATABASE_PARTITIONING", "week"), ("DATABASE_RETAIN_DAYS", "30")]).expect("valid");
        let expected = Policy { interval: Interval::Week, retain_days: Some(30), ahead: 3 };
        assert_eq!(chosen.database.partitioning, Some(expected));
    }

    #[test]
    fn dead_letters_go_to_a_topic_when_one_is_named() {
        let settings =
            parse(&[("DEAD_LETTER_TOPIC", "user-events.dlq"), ("DEAD_LETTER_TABLE", "")]).expect("valid");
        assert_eq!(settings.database.dead_letters, DeadLetters::Topic("user-events.dlq".to_owned()));
    }

    #[test]
    fn table_names_are_quoted_not_pasted() {
        let table = TableName::parse("odd schema.ev\"ents").expect("legal in PostgreSQL");
        assert_eq!(table.quoted(), "\"odd schema\".\"ev\"\"ents\"");
        assert_eq!(table.sibling("pipeline_offsets"), "\"odd schema\".\"pipeline_offsets\"");
    }
}
