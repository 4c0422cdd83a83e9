//! What Prometheus Operator needs to know about a pipeline: where to scrape it, and when to raise an alert. (no client
//! required)

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::metadata::{self, Component};
use super::promql::narrowed;
use crate::pipeline::validate::ValidatedPipeline;

/// The alerts that are about one pipeline; those about the controller belong to its chart.
const RULES: [&str; 2] = [
    include_str!("../../../../../grafana/alerts/consumers.yaml"),
    include_str!("../../../../../grafana/alerts/pipelines.yaml"),
];

/// Labels that the operator gives to the monitors of all pipelines.
type Labels = BTreeMap<String, String>;

/// The PodMonitor of a pipeline: its series carry the namespace, the pod and the pipeline.
pub(crate) fn pod_monitor(pipeline: &ValidatedPipeline, labels: &Labels) -> Value {
    json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": object(pipeline, labels),
        "spec": {
            "selector": metadata::consumers(&pipeline.name),
            "podMetricsEndpoints": [{
                "port": "metrics",
                "interval": "15s",
                "relabelings": [{"targetLabel": "pipeline", "replacement": pipeline.name}],
            }],
        },
    })
}

/// The PrometheusRule of a pipeline: the alerts of the repository, each about this pipeline only.
///
/// # Errors
/// When the alerts of the repository cannot be read, which a test would have found.
pub(crate) fn prometheus_rule(
    pipeline: &ValidatedPipeline,
    labels: &Labels,
) -> Result<Value, serde_saphyr::Error> {
    let matchers = format!("namespace=\"{}\", pipeline=\"{}\"", pipeline.namespace, pipeline.name);
    let mut groups = Vec::new();
    for text in RULES {
        let mut file: Value = serde_saphyr::from_str(text)?;
        for group in file["groups"].as_array_mut().into_iter().flatten() {
            for rule in group["rules"].as_array_mut().into_iter().flatten() {
                let expression = narrowed(rule["expr"].as_str().unwrap_or_default(), &matchers);
                rule["expr"] = Value::String(expression);
            }
            groups.push(group.take());
        }
    }
    Ok(json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": object(pipeline, labels),
        "spec": {"groups": groups},
    }))
}

// A Prometheus chooses by the operator's labels and the pipeline's; neither must replace those by which objects are found.
fn object(pipeline: &ValidatedPipeline, labels: &Labels) -> Value {
    let name = analytics_api::labels::consumer_name(&pipeline.name);
    let mut metadata = metadata::object(pipeline, name, Component::Consumer);
    let mut labels = labels.clone();
    labels.extend(pipeline.spec.telemetry.monitor_labels.clone());
    labels.extend(metadata.labels.take().unwrap_or_default());
    metadata.labels = Some(labels);
    json!(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pipelines_monitor_finds_its_consumers_and_names_it() {
        let pipeline = fixtures::valid(r#"{"telemetry": {"monitorLabels": {"release": "prometheus"}}}"#);
        let of_operator =
            labels(&[("release", "other"), ("team", "a"), ("app.kubernetes.io/instance", "stranger")]);
        let monitor = pod_monitor(&pipeline, &of_operator);
        let found = &monitor["metadata"]["labels"];
        assert_eq!(found["release"], "prometheus", "the pipeline's own label wins");
        assert_eq!(
            (&found["team"], &found["app.kubernetes.io/instance"]),
            (&json!("a"), &json!(pipeline.name))
        );
        assert_eq!(monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"], pipeline.name);
        let relabeling = &monitor["spec"]["podMetricsEndpoints"][0]["relabelings"][0];
        assert_eq!(
            (&relabeling["targetLabel"], &relabeling["replacement"]),
            (&json!("pipeline"), &json!(pipeline.name))
        );
        assert_eq!(monitor["metadata"]["ownerReferences"][0]["kind"], "AnalyticsPipeline");
    }

    #[test]
    fn a_pipelines_alerts_are_about_this_pipeline_only() {
        let pipeline = fixtures::valid("{}");
        let rule = prometheus_rule(&pipeline, &Labels::new()).unwrap();
        let groups = rule["spec"]["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        let own = format!("pipeline=\"{}\"", pipeline.name);
        for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
            assert!(rule["expr"].as_str().unwrap().contains(&own), "{rule}");
        }
    }
}
