//! The CEL rules: what they refuse, and with which words.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use analytics_api::AnalyticsPipeline;
use serde_json::{Value, json};

fn minimal() -> Value {
    json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1",
        "kind": "AnalyticsPipeline",
        "metadata": {"name": "clicks", "namespace": "shop"},
        "spec": {
            "source": {"bootstrapServers": "kafka:9092", "topic": "clicks"},
            "sink": {"urlSecretRef": {"name": "db"}}
        }
    })
}

fn merged(patch: &Value) -> AnalyticsPipeline {
    let mut object = minimal();
    merge(&mut object, patch);
    serde_json::from_value(object).unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn refusals(pipeline: &AnalyticsPipeline) -> String {
    pipeline.validate_cel().err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn good_specifications_are_accepted() {
    let table = [
        json!({}),
        json!({"spec": {"source": {"bootstrapServers": "kafka-0.kafka.svc:9092,[fd00::1]:9093"}}}),
        json!({"spec": {"source": {"security": {"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512",
            "credentialsSecretRef": {"name": "kafka-user"}, "caSecretRef": {"name": "kafka-ca"}}}}}),
        json!({"spec": {"source": {"security": {"protocol": "SSL", "clientCertificateSecretRef": {"name": "kafka-client"}}}}}),
        json!({"spec": {"source": {"properties": {"fetch.max.bytes": "1048576"}}}}),
        json!({"spec": {"scaling": {"minReplicas": 0, "maxReplicas": 12}}}),
        json!({"spec": {"scaling": {"mode": "Fixed", "replicas": 3}}}),
        json!({"spec": {"sink": {"maxConnections": 6}, "scaling": {"minReplicas": 3}}}),
        json!({"spec": {"sink": {"maxConnections": 9, "partitioning": {"interval": "Day"}}, "scaling": {"minReplicas": 3}}}),
        json!({"spec": {"scaling": {"mode": "External", "replicas": 1}}}),
        json!({"spec": {"scaling": {"onUnknown": "Floor", "unknownFloorReplicas": 2}}}),
        json!({"spec": {"delivery": {"deduplication": {"mode": "Header", "name": "event-id"}}}}),
        json!({"spec": {"source": {"groupProtocol": "consumer", "properties": {"client.rack": "a"}}}}),
        json!({"spec": {"source": {"properties": {"session.timeout.ms": "9000"}}}}),
        json!({"spec": {"delivery": {"deadLetters": {"topic": "user-events.dlq"}}, "sink": {"table": "dead_letters"}}}),
        json!({"spec": {"telemetry": {"tracing": {"endpoint": "http://otel:4317", "sampleRatio": "1.0"}}}}),
        json!({"spec": {"consumer": {"env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]}}}),
    ];
    for patch in table {
        assert_eq!(refusals(&merged(&patch)), "", "{patch}");
    }
}

#[test]
fn bad_specifications_are_refused_with_the_way_out() {
    let table = [
        (json!({"metadata": {"name": "a".repeat(47)}}), "must be at most 46 characters"),
        (json!({"metadata": {"name": "with.dot"}}), "must begin with a lower-case letter"),
        (json!({"metadata": {"name": "1st"}}), "must begin with a lower-case letter"),
        (json!({"spec": {"source": {"bootstrapServers": "kafka"}}}), "`host:port` pairs separated by commas"),
        (
            json!({"spec": {"source": {"bootstrapServers": "a:1, b:2"}}}),
            "`host:port` pairs separated by commas",
        ),
        (json!({"spec": {"source": {"topic": "user events"}}}), "`topic` must hold only letters"),
        (json!({"spec": {"source": {"topic": ".."}}}), "`topic` must hold only letters"),
        (
            json!({"spec": {"source": {"properties": {"group.id": "x"}}}}),
            "use the fields of `source` instead",
        ),
        (
            json!({"spec": {"source": {"properties": {"sasl.password": "x"}}}}),
            "use the fields of `source` instead",
        ),
        (
            json!({"spec": {"source": {"properties": {"group.protocol": "consumer"}}}}),
            "use the fields of `source` instead",
        ),
        (
            json!({"spec": {"source": {"groupProtocol": "consumer", "properties": {"session.timeout.ms": "9000"}}}}),
            "when `groupProtocol` is consumer",
        ),
        (
            json!({"spec": {"source": {"properties": {"client.rack": "a;group.id=b"}}}}),
            "must not hold line breaks or `;`",
        ),
        (
            json!({"spec": {"source": {"properties": {"client.rack": "a\nb"}}}}),
            "must not hold line breaks or `;`",
        ),
        (
            json!({"spec": {"source": {"security": {"protocol": "SASL_SSL", "mechanism": "PLAIN"}}}}),
            "`credentialsSecretRef` must be set",
        ),
        (
            json!({"spec": {"source": {"security": {"protocol": "SASL_SSL", "credentialsSecretRef": {"name": "k"}}}}}),
            "`mechanism` must be set",
        ),
        (
            json!({"spec": {"source": {"security": {"credentialsSecretRef": {"name": "k"}}}}}),
            "`credentialsSecretRef` may not be set",
        ),
        (json!({"spec": {"source": {"security": {"mechanism": "PLAIN"}}}}), "`mechanism` may not be set"),
        (
            json!({"spec": {"source": {"security": {"caSecretRef": {"name": "k"}}}}}),
            "`caSecretRef` may not be set",
        ),
        (
            json!({"spec": {"source": {"security": {"clientCertificateSecretRef": {"name": "k"}}}}}),
            "`clientCertificateSecretRef` may not be set",
        ),
        (json!({"spec": {"sink": {"table": "Events"}}}), "`table` must begin with a lower-case letter"),
        (json!({"spec": {"sink": {"table": "pipeline_offsets"}}}), "not be pipeline_offsets"),
        (json!({"spec": {"sink": {"table": "dead_letters"}}}), "must differ from `sink.table`"),
        (
            json!({"spec": {"sink": {"table": "x"}, "delivery": {"deadLetters": {"table": "x"}}}}),
            "must differ from `sink.table`",
        ),
        (
            json!({"spec": {"delivery": {"deadLetters": {"table": "x", "topic": "x"}}}}),
            "either `table` or `topic`, not both",
        ),
        (
            json!({"spec": {"delivery": {"deadLetters": {"topic": "clicks"}}}}),
            "must differ from `source.topic`",
        ),
        (json!({"spec": {"delivery": {"deadLetters": {"topic": "a b"}}}}), "`topic` must hold only letters"),
        (
            json!({"spec": {"sink": {"maxConnections": 4}, "scaling": {"minReplicas": 3}}}),
            "at least two (three with `sink.partitioning`) for each of `scaling.minReplicas`",
        ),
        (
            json!({"spec": {"sink": {"maxConnections": 6, "partitioning": {"interval": "Day"}}, "scaling": {"minReplicas": 3}}}),
            "for each of `scaling.minReplicas`",
        ),
        (
            json!({"spec": {"sink": {"maxConnections": 6, "partitioning": {"interval": "Day"}}, "scaling": {"mode": "Fixed", "replicas": 3}}}),
            "for each of `scaling.replicas`",
        ),
        (
            json!({"spec": {"scaling": {"minReplicas": 3, "maxReplicas": 2}}}),
            "`minReplicas` must be less than or equal to `maxReplicas`",
        ),
        (json!({"spec": {"scaling": {"replicas": 2}}}), "`replicas` may not be set when `mode` is Lag"),
        (
            json!({"spec": {"scaling": {"mode": "Fixed"}}}),
            "`replicas` must be set when `mode` is Fixed or External",
        ),
        (json!({"spec": {"scaling": {"onUnknown": "Floor"}}}), "`unknownFloorReplicas` must be set"),
        (json!({"spec": {"scaling": {"unknownFloorReplicas": 1}}}), "`unknownFloorReplicas` may not be set"),
        (
            json!({"spec": {"delivery": {"deduplication": {"mode": "Field"}}}}),
            "`name` must be set when `mode` is Header or Field",
        ),
        (
            json!({"spec": {"delivery": {"deduplication": {"name": "id"}}}}),
            "`name` may not be set when `mode` is None or Content",
        ),
        (
            json!({"spec": {"delivery": {"maxEventBytes": 8_000_000}}}),
            "`batch.maxBytes` must be greater than or equal to `maxEventBytes`",
        ),
        (
            json!({"spec": {"consumer": {"env": [{"name": "KAFKA_TOPIC", "value": "x"}]}}}),
            "`env` must not name a setting of the consumer",
        ),
        (
            json!({"spec": {"consumer": {"podMetadata": {"labels": {"app.kubernetes.io/name": "x"}}}}}),
            "`labels` must not hold keys",
        ),
        (
            json!({"spec": {"consumer": {"podMetadata": {"annotations": {"analyticspipeline.dev/x": "x"}}}}}),
            "`annotations` must not hold keys",
        ),
        (
            json!({"spec": {"telemetry": {"tracing": {"endpoint": "otel:4317"}}}}),
            "`endpoint` must begin with http://",
        ),
        (
            json!({"spec": {"telemetry": {"tracing": {"endpoint": "http://otel:4317", "sampleRatio": "2"}}}}),
            "`sampleRatio` must be a decimal number from 0 to 1",
        ),
    ];
    for (patch, expected) in table {
        let refusals = refusals(&merged(&patch));
        assert!(refusals.contains(expected), "{patch}\nexpected: {expected}\ngot: {refusals}");
    }
}

/// Stored offsets belong to topic, group and table; changing one silently would lose or repeat events.
#[test]
fn topic_group_and_table_may_not_change() {
    let old = merged(&json!({}));
    let table = [
        (json!({"spec": {"source": {"topic": "other"}}}), "`topic` may not be changed"),
        (json!({"spec": {"source": {"groupId": "other"}}}), "`groupId` may not be changed"),
        (json!({"spec": {"sink": {"table": "other"}}}), "`table` may not be changed"),
    ];
    for (patch, expected) in table {
        let error = merged(&patch).validate_cel_update(&old).unwrap_err().to_string();
        assert!(error.contains(expected), "{patch}: {error}");
        assert!(error.contains("create another AnalyticsPipeline"), "{error}");
    }
    let moved = merged(&json!({"spec": {"source": {"bootstrapServers": "elsewhere:9092"}}}));
    assert!(moved.validate_cel_update(&old).is_ok(), "a cluster may move to another address");
}
