//! What Prometheus Operator needs to know about a pipeline: where to scrape it, and when to raise an alert. (no client
//! required)

use std::collections::BTreeMap;

use analytics_api::{AnalyticsPipeline, Telemetry, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::metadata::{self, Component};
use super::promql::narrowed;

/// The alerts that are about one pipeline; those about the controller belong to its chart.
const RULES: [&str; 2] = [
    include_str!("../../../../../grafana/alerts/consumers.yaml"),
    include_str!("../../../../../grafana/alerts/pipelines.yaml"),
];

/// Labels that the operator gives to the monitors of all pipelines.
type Labels = BTreeMap<String, String>;

/// A pipeline as far as it is watched, whether it can be run or not: what cannot be run needs its alerts most.
pub(crate) struct Watched<'a> {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) owner: OwnerReference,
    pub(crate) telemetry: &'a Telemetry,
}

impl<'a> Watched<'a> {
    /// `None` for one that the API server has not given a uid.
    pub(crate) fn new(pipeline: &'a AnalyticsPipeline) -> Option<Self> {
        Some(Self {
            name: pipeline.name_any(),
            namespace: pipeline.namespace().unwrap_or_default(),
            owner: pipeline.controller_owner_ref(&())?,
            telemetry: &pipeline.spec.telemetry,
        })
    }
}

/// The PodMonitor of a pipeline: its series carry the namespace, the pod and the pipeline.
pub(crate) fn pod_monitor(pipeline: &Watched<'_>, labels: &Labels) -> Value {
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

/// The PrometheusRule of a pipeline: the alerts of the repository, each about this pipeline only, with their runbooks below
/// `runbooks`, or as paths of the repository if that is empty.
///
/// # Errors
/// When the alerts of the repository cannot be read, which a test would have found.
pub(crate) fn prometheus_rule(
    pipeline: &Watched<'_>,
    labels: &Labels,
    runbooks: &str,
) -> Result<Value, serde_saphyr::Error> {
    let matchers = format!("namespace=\"{}\", pipeline=\"{}\"", pipeline.namespace, pipeline.name);
    let mut groups = Vec::new();
    for text in RULES {
        let mut file: Value = serde_saphyr::from_str(text)?;
        for group in file["groups"].as_array_mut().into_iter().flatten() {
            for rule in group["rules"].as_array_mut().into_iter().flatten() {
                let expression = narrowed(rule["expr"].as_str().unwrap_or_default(), &matchers);
                rule["expr"] = Value::String(expression);
                if let Some(Value::String(runbook)) = rule.pointer_mut("/annotations/runbook_url") {
                    *runbook = below(runbooks, runbook);
                }
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

fn below(base: &str, path: &str) -> String {
    let base = base.trim_end_matches('/');
    if base.is_empty() { path.to_owned() } else { format!("{base}/{path}") }
}

// A Prometheus chooses by the operator's labels and the pipeline's; neither must replace those by which objects are found.
fn object(pipeline: &Watched<'_>, labels: &Labels) -> Value {
    let mut labels = labels.clone();
    labels.extend(pipeline.telemetry.monitor_labels.clone());
    labels.extend(metadata::all(&pipeline.name, Component::Consumer));
    json!(ObjectMeta {
        name: Some(labels::consumer_name(&pipeline.name)),
        labels: Some(labels),
        ..metadata::owned(&pipeline.namespace, &pipeline.owner)
    })
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
        let pipeline = fixtures::pipeline(r#"{"telemetry": {"monitorLabels": {"release": "prometheus"}}}"#);
        let pipeline = Watched::new(&pipeline).unwrap();
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
        let pipeline = fixtures::pipeline("{}");
        let pipeline = Watched::new(&pipeline).unwrap();
        let rule = prometheus_rule(&pipeline, &Labels::new(), "").unwrap();
        let groups = rule["spec"]["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        let own = format!("pipeline=\"{}\"", pipeline.name);
        for rule in groups.iter().flat_map(|group| group["rules"].as_array().unwrap()) {
            assert!(rule["expr"].as_str().unwrap().contains(&own), "{rule}");
        }
    }

    /// A pager shows a link only if it is one.
    #[test]
    fn runbooks_are_found_below_the_address_that_the_operator_was_given() {
        let pipeline = fixtures::pipeline("{}");
        let pipeline = Watched::new(&pipeline).unwrap();
        for (base, expected) in [
            ("", "docs/runbooks/"),
            ("https://wiki.example/analytics", "https://wiki.example/analytics/docs/runbooks/"),
            ("https://wiki.example/", "https://wiki.example/docs/runbooks/"),
        ] {
            let rule = prometheus_rule(&pipeline, &Labels::new(), base).unwrap();
            let groups = rule["spec"]["groups"].as_array().unwrap().iter();
            let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
            for rule in rules.filter(|rule| rule.get("alert").is_some()) {
                let expected = format!("{expected}{}.md", rule["alert"].as_str().unwrap());
                assert_eq!(rule["annotations"]["runbook_url"], expected.as_str(), "{base}");
            }
        }
    }
}
