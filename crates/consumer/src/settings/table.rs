//! The table of all settings.

/// One setting: what it is called, what it is when unset, what it means.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the environment variable.
    pub name: &'static str,
    /// Value when unset; `None` where unset has a meaning of its own or the setting is required.
    pub default: Option<&'static str>,
    /// Whether the consumer refuses to start without it.
    pub required: bool,
    /// What it means, in one or two sentences.
    pub help: &'static str,
}

const fn with_default(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default: Some(default), required: false, help }
}

const fn optional(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: None, required: false, help }
}

const fn required(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: None, required: true, help }
}

/// All settings, in the order in which help shows them.
pub const SETTINGS: &[Setting] = &[
    with_default(
        "METRICS_PORT",
        "9090",
        "TCP port of /health, /livez, /readyz and /metrics; 0 picks a free one.",
    ),
    required("KAFKA_BROKERS", "Kafka bootstrap servers, `host:port` separated by commas."),
    with_default("KAFKA_TOPIC", "user-events", "Topic to read."),
    with_default(
        "KAFKA_GROUP_ID",
        "analytics-service",
        "Consumer group; it also names this pipeline's rows in pipeline_offsets.",
    ),
    with_default(
        "KAFKA_START_FROM",
        "earliest",
        "Where to begin when no offset is stored and the group has committed none: earliest or latest.",
    ),
    with_default(
        "KAFKA_ON_OFFSET_GAP",
        "fail",
        "What to do when the stored offset (or, where none is stored, the committed one) is no longer, or not yet, in the log: fail, earliest or latest. With fail the partition waits and /readyz says why.",
    ),
    with_default(
        "KAFKA_GROUP_PROTOCOL",
        "classic",
        "How the group shares out partitions: classic (cooperative-sticky; every broker) or consumer (KIP-848: the broker decides; Kafka 4.0 and later). With consumer the session timeout is the broker's, group.consumer.session.timeout.ms.",
    ),
    with_default("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."),
    optional("KAFKA_SASL_MECHANISM", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; needed with a SASL protocol."),
    optional("KAFKA_SASL_USERNAME", "User name for SASL."),
    optional("KAFKA_SASL_PASSWORD", "Password for SASL; never logged."),
    optional(
        "KAFKA_SSL_CA_FILE",
        "PEM file of the authority that signed the brokers' certificates; unset means the system's.",
    ),
    optional("KAFKA_SSL_CERTIFICATE_FILE", "PEM file of the client certificate, for mutual TLS."),
    optional("KAFKA_SSL_KEY_FILE", "PEM file of the client certificate's key."),
    optional(
        "KAFKA_PROPERTIES",
        "Further librdkafka properties, `key=value` separated by newlines or semicolons. Properties that delivery rests on are refused.",
    ),
    required(
        "DATABASE_URL",
        "postgres://user:password@host:port/database, with ?sslmode=… as libpq has it; never logged.",
    ),
    with_default(
        "DATABASE_TABLE",
        "events",
        "Table of the events, `table` or `schema.table`; pipeline_offsets is made in the same schema.",
    ),
    with_default(
        "DATABASE_PARTITIONING",
        "none",
        "Partitions of the events table by the time of the event: none, day, week or month (UTC). They are made as they are needed. A plain table that is there already has to be replaced by hand; the refusal says how.",
    ),
    optional(
        "DATABASE_RETAIN_DAYS",
        "Days, 1 to 36500, after which a partition is dropped with all its events; unset keeps them for ever. Needs DATABASE_PARTITIONING.",
    ),
    with_default(
        "DATABASE_PARTITIONS_AHEAD",
        "3",
        "How many partitions are made ahead of the present one, 1 to 60. Events further in the future wait in the default partition.",
    ),
    with_default(
        "DATABASE_CONNECTIONS",
        "2",
        "Writer connections of this process, 1 to 64; partitions are shared out among them.",
    ),
    with_default(
        "DATABASE_MIGRATIONS",
        "apply",
        "apply: bring the schema up to date at start; check: wait until somebody else has.",
    ),
    optional(
        "DATABASE_CA_FILE",
        "PEM file of the authority that signed the server's certificate, for sslmode=verify-ca and verify-full.",
    ),
    optional(
        "DATABASE_CERTIFICATE_FILE",
        "PEM file of the client certificate, for servers that ask for one.",
    ),
    optional("DATABASE_KEY_FILE", "PEM file of the client certificate's key."),
    with_default(
        "DEDUPLICATION_MODE",
        "content",
        "none, content (equal payloads are one event), header or field (equal values of DEDUPLICATION_NAME are one event).",
    ),
    optional(
        "DEDUPLICATION_NAME",
        "Name of the record header or of the top-level JSON field that identifies an event, for header and field.",
    ),
    with_default(
        "DEAD_LETTER_TABLE",
        "dead_letters",
        "Table of the records that cannot be stored, `table` or `schema.table`. It may not be set beside DEAD_LETTER_TOPIC.",
    ),
    optional(
        "DEAD_LETTER_TOPIC",
        "Topic of the same Kafka for the records that cannot be stored, instead of a table; it must exist and not be KAFKA_TOPIC. Each record is confirmed by all replicas before the offset moves.",
    ),
    with_default(
        "TOMBSTONES",
        "dead-letter",
        "What happens to a record without a value: dead-letter or skip.",
    ),
    with_default(
        "ROLLUPS",
        "enabled",
        "enabled: each transaction also counts what it stored, by hour, type and service, which is what the dashboards read (a few per cent of throughput); disabled: no rollups.",
    ),
    with_default(
        "ROLLUP_USERS",
        "disabled",
        "enabled: also count distinct users by hour, exactly; costs a row and an index entry per user and hour. Needs ROLLUPS.",
    ),
    with_default("BATCH_MAX_EVENTS", "10000", "Most events in one transaction, 1 to 1000000."),
    with_default(
        "BATCH_MAX_BYTES",
        "4194304",
        "Most bytes of record data in one transaction, 1024 to 268435456; one larger record still goes alone.",
    ),
    with_default(
        "EVENT_MAX_BYTES",
        "1048576",
        "Largest record value in bytes; a larger one is a dead letter.",
    ),
    with_default(
        "SHUTDOWN_TIMEOUT_SECONDS",
        "20",
        "Seconds that a clean stop may take, 1 to 3600; keep it below the grace period of the pod.",
    ),
    with_default(
        "LOG_LEVEL",
        "info",
        "Log filter: error, warn, info, debug, trace, or a list such as `info,librdkafka=debug`.",
    ),
    with_default("LOG_FORMAT", "text", "text or json."),
    optional("CONSUMER_INSTANCE", "Name of this process in pipeline_offsets; unset means the host name."),
];
