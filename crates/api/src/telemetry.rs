//! What consumers report beyond metrics and logs.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What consumers report beyond metrics and logs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Where traces go to. Unset: no traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,

    /// A PodMonitor, by which Prometheus Operator finds the consumers: Auto makes one as soon as that kind exists in the cluster. Default: `Auto`.
    #[serde(default)]
    pub pod_monitor: Automatic,

    /// A PrometheusRule with the alerts about this pipeline: Auto makes one as soon as that kind exists in the cluster. Default: `Auto`.
    #[serde(default)]
    pub prometheus_rule: Automatic,

    /// Labels of both, by which a Prometheus chooses what it reads. Example: `release: kube-prometheus-stack`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::consumer::string_map_schema")]
    pub monitor_labels: BTreeMap<String, String>,
}

/// Whether something is made where it can be.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Automatic {
    /// It is made as soon as its kind exists in the cluster.
    #[default]
    Auto,
    /// It is never made, and removed if it was.
    Disabled,
}

/// Where traces go to and how many of them.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// Address of an OTLP receiver (gRPC). Example: `http://otel-collector.observability:4317`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')").message(
        "`endpoint` must begin with http:// or https://, for example http://otel-collector:4317"
    ))]
    pub endpoint: String,
    /// Share of traces that are kept, a decimal number from 0 to 1 as a string. Default: `"0.01"`.
    #[serde(default = "default_sample_ratio")]
    #[schemars(length(min = 1, max = 12))]
    #[x_kube(validation = Rule::new(r"self.matches('^(0(\\.[0-9]+)?|1(\\.0+)?)$')").message(
        "`sampleRatio` must be a decimal number from 0 to 1, for example \"0.01\""
    ))]
    pub sample_ratio: String,
}

fn default_sample_ratio() -> String {
    "0.01".to_owned()
}
