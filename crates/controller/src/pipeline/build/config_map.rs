//! The ConfigMap: the consumer's settings that are no secret, as its environment wants them.

use std::collections::BTreeMap;

use analytics_api::{
    DeadLetters, DeduplicationMode, GroupProtocol, LogFormat, OnOffsetGap, Partitioning, RollupUsers,
    Rollups, StartFrom, Tombstones, labels,
};
use k8s_openapi::api::core::v1::ConfigMap;

use super::METRICS_PORT;
use super::container::{
    DATABASE_CA_FILE, DATABASE_CERTIFICATE_FILE, DATABASE_KEY_FILE, KAFKA_CA_FILE, KAFKA_CERTIFICATE_FILE,
    KAFKA_KEY_FILE,
};
use super::metadata::{self, Component};
use crate::pipeline::policy::WRITERS_PER_REPLICA;
use crate::pipeline::validate::ValidatedPipeline;

pub(super) fn build(pipeline: &ValidatedPipeline) -> ConfigMap {
    let mut data = BTreeMap::new();
    for (name, value) in source(pipeline).into_iter().chain(sink(pipeline)).chain(rest(pipeline)) {
        data.insert(name.to_owned(), value);
    }
    ConfigMap {
        metadata: metadata::object(pipeline, labels::consumer_name(&pipeline.name), Component::Consumer),
        data: Some(data),
        ..ConfigMap::default()
    }
}

type Settings = Vec<(&'static str, String)>;

fn source(pipeline: &ValidatedPipeline) -> Settings {
    let (source, security) = (&pipeline.spec.source, &pipeline.spec.source.security);
    let mut settings = vec![
        ("KAFKA_BROKERS", source.bootstrap_servers.clone()),
        ("KAFKA_TOPIC", source.topic.clone()),
        ("KAFKA_GROUP_ID", source.group_id.clone()),
        ("KAFKA_START_FROM", start_from(source.start_from).to_owned()),
        ("KAFKA_ON_OFFSET_GAP", on_offset_gap(source.on_offset_gap).to_owned()),
        ("KAFKA_SECURITY_PROTOCOL", security.protocol.as_str().to_owned()),
    ];
    // A consumer of a version that does not know the setting refuses it, and may be pinned by `consumer.image`.
    if source.group_protocol == GroupProtocol::Consumer {
        settings.push(("KAFKA_GROUP_PROTOCOL", "consumer".to_owned()));
    }
    if let Some(mechanism) = security.mechanism {
        settings.push(("KAFKA_SASL_MECHANISM", mechanism.as_str().to_owned()));
    }
    if security.ca_secret_ref.is_some() {
        settings.push(("KAFKA_SSL_CA_FILE", KAFKA_CA_FILE.to_owned()));
    }
    if security.client_certificate_secret_ref.is_some() {
        settings.push(("KAFKA_SSL_CERTIFICATE_FILE", KAFKA_CERTIFICATE_FILE.to_owned()));
        settings.push(("KAFKA_SSL_KEY_FILE", KAFKA_KEY_FILE.to_owned()));
    }
    if !source.properties.is_empty() {
        let lines: Vec<_> = source.properties.iter().map(|(name, value)| format!("{name}={value}")).collect();
        settings.push(("KAFKA_PROPERTIES", lines.join("\n")));
    }
    settings
}

fn sink(pipeline: &ValidatedPipeline) -> Settings {
    let (sink, delivery) = (&pipeline.spec.sink, &pipeline.spec.delivery);
    let mut settings = vec![
        ("DATABASE_TABLE", sink.table.clone()),
        ("DATABASE_CONNECTIONS", WRITERS_PER_REPLICA.to_string()),
        // The migration Job does the work; consumers only make sure that it was done.
        ("DATABASE_MIGRATIONS", "check".to_owned()),
        ("DEDUPLICATION_MODE", deduplication(delivery.deduplication.mode).to_owned()),
        ("TOMBSTONES", tombstones(delivery.tombstones).to_owned()),
        ("BATCH_MAX_EVENTS", delivery.batch.max_events.to_string()),
        ("BATCH_MAX_BYTES", delivery.batch.max_bytes.to_string()),
        ("EVENT_MAX_BYTES", delivery.max_event_bytes.to_string()),
        ("ROLLUPS", switch(sink.rollups == Rollups::Enabled).to_owned()),
        ("ROLLUP_USERS", switch(sink.rollup_users == RollupUsers::Enabled).to_owned()),
    ];
    settings.extend(dead_letters(&delivery.dead_letters));
    settings.extend(sink.partitioning.iter().flat_map(partitioning));
    if let Some(name) = &delivery.deduplication.name {
        settings.push(("DEDUPLICATION_NAME", name.clone()));
    }
    if sink.ca_secret_ref.is_some() {
        settings.push(("DATABASE_CA_FILE", DATABASE_CA_FILE.to_owned()));
    }
    if sink.client_certificate_secret_ref.is_some() {
        settings.push(("DATABASE_CERTIFICATE_FILE", DATABASE_CERTIFICATE_FILE.to_owned()));
        settings.push(("DATABASE_KEY_FILE", DATABASE_KEY_FILE.to_owned()));
    }
    settings
}

fn dead_letters(place: &DeadLetters) -> Settings {
    let table = place.table_name().map(|table| ("DEAD_LETTER_TABLE", table.to_owned()));
    table.into_iter().chain(place.topic.clone().map(|topic| ("DEAD_LETTER_TOPIC", topic))).collect()
}

fn partitioning(partitioning: &Partitioning) -> Settings {
    let always = [
        ("DATABASE_PARTITIONING", partitioning.interval.as_setting().to_owned()),
        ("DATABASE_PARTITIONS_AHEAD", partitioning.ahead.to_string()),
    ];
    let retain = partitioning.retain_days.map(|days| ("DATABASE_RETAIN_DAYS", days.to_string()));
    always.into_iter().chain(retain).collect()
}

fn rest(pipeline: &ValidatedPipeline) -> Settings {
    let consumer = &pipeline.spec.consumer;
    let mut settings = vec![
        ("METRICS_PORT", METRICS_PORT.to_string()),
        ("SHUTDOWN_TIMEOUT_SECONDS", consumer.shutdown_timeout_seconds.to_string()),
        ("LOG_LEVEL", consumer.log_level.clone()),
        ("LOG_FORMAT", log_format(consumer.log_format).to_owned()),
    ];
    if let Some(tracing) = &pipeline.spec.telemetry.tracing {
        settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", tracing.endpoint.clone()));
        settings.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()));
        settings.push(("OTEL_TRACES_SAMPLER_ARG", tracing.sample_ratio.clone()));
        let attributes =
            format!("k8s.namespace.name={},analytics.pipeline={}", pipeline.namespace, pipeline.name);
        settings.push(("OTEL_RESOURCE_ATTRIBUTES", attributes));
    }
    settings
}

const fn start_from(value: StartFrom) -> &'static str {
    match value {
        StartFrom::Earliest => "earliest",
        StartFrom::Latest => "latest",
    }
}

const fn on_offset_gap(value: OnOffsetGap) -> &'static str {
    match value {
        OnOffsetGap::Fail => "fail",
        OnOffsetGap::Earliest => "earliest",
        OnOffsetGap::Latest => "latest",
    }
}

const fn deduplication(value: DeduplicationMode) -> &'static str {
    match value {
        DeduplicationMode::None => "none",
        DeduplicationMode::Content => "content",
        DeduplicationMode::Header => "header",
        DeduplicationMode::Field => "field",
    }
}

const fn tombstones(value: Tombstones) -> &'static str {
    match value {
        Tombstones::DeadLetter => "dead-letter",
        Tombstones::Skip => "skip",
    }
}

const fn switch(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

const fn log_format(value: LogFormat) -> &'static str {
    match value {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    #[test]
    fn partitions_are_told_only_where_there_are_any() {
        for (spec, expected) in [
            ("{}", [None, None, None]),
            (r#"{"sink": {"partitioning": {"interval": "Week"}}}"#, [Some("week"), None, Some("3")]),
            (
                r#"{"sink": {"partitioning": {"interval": "Day", "retainDays": 30, "ahead": 7}}}"#,
                [Some("day"), Some("30"), Some("7")],
            ),
        ] {
            let settings = build(&fixtures::valid(spec)).data.unwrap_or_default();
            let names = ["DATABASE_PARTITIONING", "DATABASE_RETAIN_DAYS", "DATABASE_PARTITIONS_AHEAD"];
            assert_eq!(names.map(|name| settings.get(name).map(String::as_str)), expected, "{spec}");
        }
    }

    #[test]
    fn dead_letters_go_to_one_place() {
        for (spec, table, topic) in [
            ("{}", Some("dead_letters"), None),
            (r#"{"delivery": {"deadLetters": {"table": "dead"}}}"#, Some("dead"), None),
            (r#"{"delivery": {"deadLetters": {"topic": "user-events.dlq"}}}"#, None, Some("user-events.dlq")),
        ] {
            let settings = build(&fixtures::valid(spec)).data.unwrap_or_default();
            let value = |name: &str| settings.get(name).map(String::as_str);
            assert_eq!((value("DEAD_LETTER_TABLE"), value("DEAD_LETTER_TOPIC")), (table, topic), "{spec}");
        }
    }
}
