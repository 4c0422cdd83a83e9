//! Pipelines and Secrets for tests.

use std::sync::Arc;

use analytics_api::AnalyticsPipeline;
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::dereference::References;
use super::validate::{self, ValidatedPipeline};

/// A pipeline named `clicks` in `shop`, read from JSON as the API server would give it; `spec` is merged over a minimal one.
pub(crate) fn pipeline(spec: &str) -> AnalyticsPipeline {
    let mut object = json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1",
        "kind": "AnalyticsPipeline",
        "metadata": {"name": "clicks", "namespace": "shop", "uid": "uid-clicks", "generation": 1},
        "spec": {
            "source": {"bootstrapServers": "kafka:9092", "topic": "user-events"},
            "sink": {"urlSecretRef": {"name": "db"}}
        }
    });
    merge(&mut object["spec"], serde_json::from_str(spec).unwrap());
    serde_json::from_value(object).unwrap()
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}

/// Secrets with the given content.
pub(crate) fn secrets(secrets: &[(&str, &[(&str, &str)])]) -> References {
    let secrets = secrets
        .iter()
        .map(|(name, content)| {
            let content = content
                .iter()
                .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
                .collect();
            ((*name).to_owned(), Some(Arc::new(content)))
        })
        .collect();
    References { secrets }
}

/// Every Secret that the pipelines of these tests name.
pub(crate) fn references(_: &AnalyticsPipeline) -> References {
    let pem = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";
    secrets(&[
        ("db", &[("url", "postgres://writer:swordfish@db:5432/shop?sslmode=verify-full")]),
        ("login", &[("username", "reader"), ("password", "swordfish")]),
        ("ca", &[("ca.crt", pem)]),
        ("client", &[("tls.crt", pem), ("tls.key", pem)]),
    ])
}

/// A pipeline that has passed validation.
pub(crate) fn valid(spec: &str) -> ValidatedPipeline {
    let pipeline = pipeline(spec);
    validate::run(&pipeline, &references(&pipeline), &[], Some("analytics-pipeline:1.2.3")).unwrap()
}

/// A moment, in seconds since the epoch.
pub(crate) fn time(second: i64) -> Time {
    Time(jiff::Timestamp::from_second(second).unwrap())
}
