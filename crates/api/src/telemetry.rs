//! What consumers report beyond metrics and logs.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What consumers report beyond metrics and logs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Where traces go to. Unset: no traces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
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
