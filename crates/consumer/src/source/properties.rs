//! The librdkafka configuration: this product's defaults, then the user's properties, then what delivery rests on.

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::settings::{GroupProtocol, Kafka};

/// What a user may tune. Memory: librdkafka's defaults allow 64 MiB of prefetched records and fetches of 50 MiB, and each
/// record costs more than its bytes; the values here keep the whole process below 50 MiB at no cost of speed where a fetch
/// takes milliseconds. Where Kafka is far away, a larger `fetch.max.bytes` brings more for each round trip.
const DEFAULTS: &[(&str, &str)] = &[
    ("fetch.max.bytes", "1048576"),
    ("fetch.message.max.bytes", "524288"),
    ("queued.max.messages.kbytes", "2048"),
    ("queued.min.messages", "20000"),
    // The default of one second leaves holes in the stream whenever the small queue was full.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.error.backoff.ms", "200"),
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.keepalive.enable", "true"),
    // A killed consumer's partitions flow again after this time; brokers allow no less than 6 s by default.
    ("session.timeout.ms", "6000"),
    // A broker that is cut off is noticed when a request or a connection has no answer for so long, not after the minute and
    // the half minute of the defaults. What may take longer (joining a group, fetching) adds its own time to it.
    ("socket.timeout.ms", "10000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    // Members learn of a rebalance with their next heartbeat: this is most of what a hand-over takes when one joins or stops.
    ("heartbeat.interval.ms", "500"),
    ("topic.metadata.refresh.interval.ms", "15000"),
    ("statistics.interval.ms", "2000"),
    ("client.id", "analytics-consumer"),
];

/// What delivery rests on.
const FIXED: &[(&str, &str)] = &[
    // Offsets live in PostgreSQL; Kafka is told about them by hand, after the transaction.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // A position outside of the log must be seen and decided, never reset in silence.
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("enable.partition.eof", "false"),
    ("allow.auto.create.topics", "false"),
];

/// Keys that the consumer group protocol of KIP-848 forbids; there the broker decides about them.
const CLASSIC_ONLY: &[&str] =
    &["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms"];

/// Builds the configuration.
#[must_use]
pub fn client_config(kafka: &Kafka) -> ClientConfig {
    let new_protocol = kafka.group_protocol == GroupProtocol::Consumer;
    let mut config = ClientConfig::new();
    // Why a broker closed a connection is information to librdkafka; `Context::log` decides what is worth a line.
    config.set_log_level(RDKafkaLogLevel::Info);
    for (key, value) in DEFAULTS.iter().chain(FIXED) {
        if !(new_protocol && CLASSIC_ONLY.contains(key)) {
            config.set(*key, *value);
        }
    }
    for (key, value) in &kafka.client_properties {
        config.set(key, value);
    }
    config.set("bootstrap.servers", &kafka.brokers);
    config.set("group.id", &kafka.group_id);
    config.set("group.protocol", if new_protocol { "consumer" } else { "classic" });
    config
}

/// The configuration of a reader that looks something up: it joins no group, although it carries its name, so that the
/// group's permissions are enough for it; and it says where a partition ends.
#[must_use]
pub fn lookup_config(kafka: &Kafka) -> ClientConfig {
    let mut config = connection_config(kafka);
    config
        .set("group.id", &kafka.group_id)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("queued.max.messages.kbytes", "1024")
        .set("fetch.message.max.bytes", "65536")
        .set("fetch.wait.max.ms", "100");
    config
}

/// The configuration of a producer to the same Kafka: records are confirmed by all replicas, in order and once.
#[must_use]
pub fn producer_config(kafka: &Kafka) -> ClientConfig {
    let mut config = connection_config(kafka);
    config.set("enable.idempotence", "true").set("acks", "all");
    config
}

fn connection_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in &kafka.client_properties {
        // What is meant for reading (fetch sizes, the group protocol) has no meaning here.
        if ["security.", "sasl.", "ssl."].iter().any(|family| key.starts_with(family)) {
            config.set(key, value);
        }
    }
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", "analytics-consumer")
        .set("allow.auto.create.topics", "false")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.keepalive.enable", "true");
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{OnOffsetGap, StartFrom};

    fn kafka(properties: &[(&str, &str)]) -> Kafka {
        Kafka {
            brokers: "localhost:9092".into(),
            topic: "t".into(),
            group_id: "g".into(),
            start_from: StartFrom::Earliest,
            on_offset_gap: OnOffsetGap::Fail,
            group_protocol: GroupProtocol::Classic,
            client_properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn librdkafka_accepts_both_group_protocols() {
        for group_protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
            let config = client_config(&Kafka { group_protocol, ..kafka(&[]) });
            config.create_native_config().expect("every key and value is known to librdkafka");
            assert_eq!(config.get("enable.auto.commit"), Some("false"));
            let classic = group_protocol == GroupProtocol::Classic;
            assert_eq!(config.get("partition.assignment.strategy").is_some(), classic);
        }
    }

    #[test]
    fn librdkafka_accepts_the_properties_of_producers_and_lookups() {
        let kafka = kafka(&[("fetch.max.bytes", "1"), ("security.protocol", "PLAINTEXT")]);
        for config in [producer_config(&kafka), lookup_config(&kafka)] {
            config.create_native_config().expect("every key and value is known to librdkafka");
            assert_eq!(config.get("fetch.max.bytes"), None);
        }
    }

    #[test]
    fn a_user_may_tune_but_not_undo() {
        let config = client_config(&kafka(&[("fetch.max.bytes", "1048576")]));
        assert_eq!(config.get("fetch.max.bytes"), Some("1048576"));
        assert_eq!(config.get("auto.offset.reset"), Some("error"));
    }
}
