//! How consumer pods look.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use litemap::LiteMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::{SECRET_NAME_MESSAGE, SECRET_NAME_RULE};

/// How consumer pods look.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consumer {
    /// Image of the consumers. Unset: the image that the controller was told to use, normally its own. Example: `registry.example.com/analytics-pipeline:1.2.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new(r"self.matches('^[^\\s]+$')").message(
        "`image` must not hold white space, for example registry.example.com/analytics-pipeline:1.2.3"
    ))]
    pub image: Option<String>,

    /// When the node pulls the image: `Always`, `IfNotPresent` or `Never`. Unset: the rule of Kubernetes (`Always` for the tag `latest`, else `IfNotPresent`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets with the credentials of the image registry. Unset: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<ImagePullSecret>,

    /// Requests and limits of each consumer. Unset: 100m CPU and 256Mi memory requested, memory limited to as much.
    #[serde(default)]
    pub resources: Resources,

    /// Labels that a node must have. Example: `{"disk": "ssd"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map_schema")]
    pub node_selector: BTreeMap<String, String>,

    /// Rules that attract pods to nodes and pods or keep them apart, as in a pod. Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,

    /// Taints of nodes that consumers put up with, as in a pod. Unset: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// How consumers spread over nodes and zones, as in a pod; without a `labelSelector` the consumers of this pipeline are counted. Unset: evenly over both where possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,

    /// Priority class of the pods. Unset: the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,

    /// Further environment variables, as in a container, for example proxies. Names that the pipeline sets itself are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new(
            "self.all(e, !['KAFKA_', 'DATABASE_', 'DEDUPLICATION_', 'DEAD_LETTER', 'BATCH_', 'EVENT_', 'METRICS_PORT', 'TOMBSTONES', 'SHUTDOWN_TIMEOUT', 'LOG_LEVEL', 'LOG_FORMAT', 'CONSUMER_', 'ROLLUP'].exists(p, e.name.startsWith(p)))"
        ).message(
            "`env` must not name a setting of the consumer (KAFKA_, DATABASE_, DEDUPLICATION_, DEAD_LETTER, BATCH_, EVENT_, CONSUMER_, ROLLUP, METRICS_PORT, TOMBSTONES, SHUTDOWN_TIMEOUT, LOG_LEVEL, LOG_FORMAT): use the field of the pipeline instead"
        )
    )]
    pub env: Vec<EnvVar>,

    /// Which log lines are written: `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,librdkafka=debug`. Default: `info`.
    #[serde(default = "default_log_level")]
    #[schemars(length(min = 1, max = 255))]
    pub log_level: String,

    /// Form of the log lines: `Text` or `Json`. Default: `Text`.
    #[serde(default)]
    pub log_format: LogFormat,

    /// Longest time that a stopping consumer may take to finish its batch, in seconds. Default: 20.
    #[serde(default = "default_shutdown_timeout_seconds")]
    #[schemars(range(min = 1, max = 600))]
    pub shutdown_timeout_seconds: i32,

    /// Further labels and annotations of the pods. Unset: none.
    #[serde(default)]
    pub pod_metadata: PodMetadata,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            resources: Resources::default(),
            node_selector: BTreeMap::new(),
            affinity: None,
            tolerations: Vec::new(),
            topology_spread_constraints: None,
            priority_class_name: None,
            env: Vec::new(),
            log_level: default_log_level(),
            log_format: LogFormat::default(),
            shutdown_timeout_seconds: default_shutdown_timeout_seconds(),
            pod_metadata: PodMetadata::default(),
        }
    }
}

fn default_log_level() -> String {
    "info".to_owned()
}

const fn default_shutdown_timeout_seconds() -> i32 {
    20
}

/// When the node pulls the image.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// Before each start.
    Always,
    /// When the node does not have it.
    IfNotPresent,
    /// Never: it must be there.
    Never,
}

impl ImagePullPolicy {
    /// The name that Kubernetes uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// A Secret with the credentials of an image registry.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagePullSecret {
    /// Name of the Secret, in the namespace of the pipeline.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_NAME_RULE).message(SECRET_NAME_MESSAGE))]
    pub name: String,
}

/// Amounts by resource. There are two or three; a B-tree's node has room for eleven, in each of thousands of pipelines.
pub type Quantities = LiteMap<String, IntOrString>;

/// Requests and limits of each consumer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside. Default: `{"cpu": "100m", "memory": "256Mi"}`.
    #[serde(default = "default_requests")]
    #[schemars(schema_with = "quantities_schema")]
    pub requests: Quantities,
    /// What a consumer may use at most; no CPU limit is advised, because throttling shows up as lag. Default: `{"memory": "256Mi"}`.
    #[serde(default = "default_limits")]
    #[schemars(schema_with = "quantities_schema")]
    pub limits: Quantities,
}

impl Default for Resources {
    fn default() -> Self {
        Self { requests: default_requests(), limits: default_limits() }
    }
}

fn default_requests() -> Quantities {
    Quantities::from_iter([
        ("cpu".to_owned(), IntOrString::String("100m".to_owned())),
        ("memory".to_owned(), IntOrString::String("256Mi".to_owned())),
    ])
}

fn default_limits() -> Quantities {
    Quantities::from_iter([("memory".to_owned(), IntOrString::String("256Mi".to_owned()))])
}

// Quantities may be written as numbers (`cpu: 1`) or strings (`cpu: 500m`), as in a pod.
fn quantities_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
        }
    })
}

pub(crate) fn string_map_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 1024 }
    })
}

/// Form of the log lines.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object in a line.
    Json,
}

/// Further labels and annotations of the pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMetadata {
    /// Further labels. Keys of `app.kubernetes.io/` are refused: the pipeline sets them. Example: `{"team": "growth"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map_schema")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('app.kubernetes.io/') && !k.startsWith('analyticspipeline.dev/'))").message(
        "`labels` must not hold keys that begin with app.kubernetes.io/ or analyticspipeline.dev/: the pipeline sets these itself"
    ))]
    pub labels: BTreeMap<String, String>,
    /// Further annotations. Keys of `analyticspipeline.dev/` are refused: the pipeline sets them. Example: `{"sidecar.istio.io/inject": "false"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "string_map_schema")]
    #[x_kube(validation = Rule::new("self.all(k, !k.startsWith('analyticspipeline.dev/'))").message(
        "`annotations` must not hold keys that begin with analyticspipeline.dev/: the pipeline sets these itself"
    ))]
    pub annotations: BTreeMap<String, String>,
}
