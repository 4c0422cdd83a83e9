//! The root of the resource.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{AnalyticsPipelineStatus, Consumer, Delivery, NetworkAccess, Scaling, Sink, Source, Telemetry};

/// Longest name that a pipeline may have: the migration Job adds `-migrate-` and eight digits, and 63 is the limit of a label.
pub const MAX_NAME_LENGTH: usize = 46;

/// A flow of events from a Kafka topic into a PostgreSQL table, each event stored exactly once, with consumers scaled by lag.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "analyticspipeline.dev",
    version = "v1alpha1",
    kind = "AnalyticsPipeline",
    plural = "analyticspipelines",
    shortname = "apl",
    category = "analytics",
    namespaced,
    cel,
    derive = "PartialEq",
    status = "AnalyticsPipelineStatus",
    doc = "A flow of events from a Kafka topic into a PostgreSQL table, each event stored exactly once, with consumers scaled by lag.",
    scale(
        spec_replicas_path = ".spec.scaling.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "True when the pipeline does its work"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas", description = "Consumer pods that exist"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag.events", description = "Events that wait in the topic"),
    printcolumn(
        name = "Lag-seconds",
        type_ = "integer",
        json_path = ".status.lag.seconds",
        description = "Seconds that the oldest of these events has waited"
    ),
    printcolumn(
        name = "Rate",
        type_ = "integer",
        json_path = ".status.rates.processed",
        description = "Events stored per second"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why Ready is what it is"
    ),
    printcolumn(name = "Topic", type_ = "string", priority = 1, json_path = ".spec.source.topic"),
    printcolumn(name = "Group", type_ = "string", priority = 1, json_path = ".spec.source.groupId"),
    printcolumn(name = "Table", type_ = "string", priority = 1, json_path = ".spec.sink.table"),
    validation = Rule::new("self.metadata.name.size() <= 46").message(
        "`metadata.name` must be at most 46 characters: the names of the objects made from it are up to 17 characters longer, and Kubernetes allows 63"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "`metadata.name` must begin with a lower-case letter and hold only lower-case letters, digits and `-` (no dots): a Service is named after it"
    )
)]
#[x_kube(
    validation = Rule::new(
        "has(self.delivery.deadLetters.topic) || self.sink.table != (has(self.delivery.deadLetters.table) ? self.delivery.deadLetters.table : 'dead_letters')"
    ).message(
        "`delivery.deadLetters.table` (`dead_letters` if unset) must differ from `sink.table`: dead letters have columns of their own"
    ),
    validation = Rule::new(
        "!has(self.delivery.deadLetters.topic) || self.delivery.deadLetters.topic != self.source.topic"
    ).message(
        "`delivery.deadLetters.topic` must differ from `source.topic`: dead letters would be read again as events, without end"
    ),
    validation = Rule::new(
        "self.scaling.mode != 'Lag' || self.scaling.minReplicas * (has(self.sink.partitioning) ? 3 : 2) <= self.sink.maxConnections"
    ).message(
        "`sink.maxConnections` must be at least two (three with `sink.partitioning`) for each of `scaling.minReplicas`: every consumer keeps two connections, and opens a third to look after partitions; raise `sink.maxConnections` or lower `scaling.minReplicas`"
    ),
    validation = Rule::new(
        "self.scaling.mode == 'Lag' || !has(self.scaling.replicas) || self.scaling.replicas * (has(self.sink.partitioning) ? 3 : 2) <= self.sink.maxConnections"
    ).message(
        "`sink.maxConnections` must be at least two (three with `sink.partitioning`) for each of `scaling.replicas`: every consumer keeps two connections, and opens a third to look after partitions; raise `sink.maxConnections` or lower `scaling.replicas`"
    ),
    validation = Rule::new(
        "!has(self.scaling.schedules) || self.scaling.schedules.all(s, s.minReplicas * (has(self.sink.partitioning) ? 3 : 2) <= self.sink.maxConnections)"
    ).message(
        "`sink.maxConnections` must be at least two (three with `sink.partitioning`) for each of `minReplicas` of every schedule: every consumer keeps two connections, and opens a third to look after partitions; raise `sink.maxConnections` or lower `minReplicas` in `scaling.schedules`"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct AnalyticsPipelineSpec {
    /// Where events come from: a Kafka topic.
    pub source: Source,
    /// Where events go to: a PostgreSQL table.
    pub sink: Sink,
    /// How events are delivered: deduplication, dead letters and batches. Unset: content deduplication, dead letters in a table.
    #[serde(default)]
    pub delivery: Delivery,
    /// How many consumers run. Unset: one consumer at least, one per partition at most, by lag.
    #[serde(default)]
    pub scaling: Scaling,
    /// How consumer pods look: image, resources, placement, logging. Unset: the controller's own image and small requests.
    #[serde(default)]
    pub consumer: Consumer,
    /// What consumers report beyond metrics and logs. Unset: no traces, and a PodMonitor and a PrometheusRule where Prometheus Operator is.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Which connections the pods may make and take. Unset: no NetworkPolicy is made.
    #[serde(default)]
    pub network_policy: NetworkAccess,
    /// Stops all consumers when true; offsets and data stay, and false goes on where it stopped. Default: false.
    #[serde(default)]
    pub suspend: bool,
}
