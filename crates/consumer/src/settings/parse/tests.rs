//! Every bad value is a case in a table.

use super::*;

const MINIMUM: &[(&str, &str)] =
    &[("KAFKA_BROKERS", "kafka:9092"), ("DATABASE_URL", "postgres://u:secret-word@db:5432/analytics")];

fn parse(extra: &[(&str, &str)]) -> Result<Settings, String> {
    let variables =
        MINIMUM.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
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
        (&[("KAFKA_TOPC", "x")], "KAFKA_TOPC is not a setting of the consumer (did you mean KAFKA_TOPIC?)"),
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
        (&[("KAFKA_GROUP_PROTOCOL", "new")], "KAFKA_GROUP_PROTOCOL: `new` is not one of classic, consumer"),
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
            &[("DATABASE_CERTIFICATE_FILE", "Cargo.toml")],
            "DATABASE_KEY_FILE: must be set when DATABASE_CERTIFICATE_FILE is",
        ),
        (
            &[("DATABASE_KEY_FILE", "Cargo.toml")],
            "DATABASE_CERTIFICATE_FILE: must be set when DATABASE_KEY_FILE is",
        ),
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
    let chosen = parse(&[("DATABASE_PARTITIONING", "week"), ("DATABASE_RETAIN_DAYS", "30")]).expect("valid");
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
