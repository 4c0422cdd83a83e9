//! Which connections the pods of a pipeline may make and take.

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which connections the pods of a pipeline may make and take.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == 'Enabled' || !has(self.metricsFrom)").message(
        "`metricsFrom` may not be set when `mode` is Disabled: choose Enabled, or remove `metricsFrom`"
    ),
    validation = Rule::new("self.mode == 'Enabled' || !has(self.extraEgress)").message(
        "`extraEgress` may not be set when `mode` is Disabled: choose Enabled, or remove `extraEgress`"
    )
)]
pub struct NetworkAccess {
    /// Whether a NetworkPolicy is made: `Enabled` lets out what leads to names (DNS), to the ports of `bootstrapServers`, of the database URL and of the tracing endpoint, and lets in who reads metrics. Default: `Disabled`.
    #[serde(default)]
    pub mode: NetworkPolicyMode,

    /// Who may read metrics and health on port 9090, as in a NetworkPolicy; the controller always may. Unset: everyone. Example: `[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub metrics_from: Vec<NetworkPolicyPeer>,

    /// What else consumers may reach, as in a NetworkPolicy: brokers that advertise other ports than `bootstrapServers` names, for example, or a proxy. Unset: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub extra_egress: Vec<NetworkPolicyEgressRule>,
}

/// Whether a NetworkPolicy is made for the pods of a pipeline.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkPolicyMode {
    /// None is made, and one that was made is removed.
    #[default]
    Disabled,
    /// One is made; the network plugin of the cluster has to enforce it.
    Enabled,
}
