//! How many consumers run.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many consumers run.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas").message(
        "`minReplicas` must be less than or equal to `maxReplicas`"
    ),
    validation = Rule::new("self.mode != 'Lag' || !has(self.replicas)").message(
        "`replicas` may not be set when `mode` is Lag, because lag decides: set `mode` to Fixed (a number of your own) or External (another autoscaler writes it), or remove `replicas`"
    ),
    validation = Rule::new("self.mode == 'Lag' || has(self.replicas)").message(
        "`replicas` must be set when `mode` is Fixed or External (for External it is the number to begin with, 1 for example)"
    )
)]
pub struct Scaling {
    /// Who decides the number of consumers: `Lag` (the operator, by lag), `Fixed` (the number in `replicas`), `External` (another autoscaler, through the scale subresource). Default: `Lag`.
    #[serde(default)]
    pub mode: ScalingMode,

    /// Number of consumers, with the modes `Fixed` and `External` only; `kubectl scale` and a HorizontalPodAutoscaler write it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,

    /// Fewest consumers, with the mode `Lag`; 0 lets an idle pipeline stop all of them. Default: 1.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,

    /// Most consumers, with the mode `Lag`. Unset: the number of partitions; more than that never helps and is never used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<i32>,

    /// The objective, in seconds: an event should wait no longer than this. Default: 30.
    #[serde(default = "default_target_lag_seconds")]
    #[schemars(range(min = 1, max = 86400))]
    pub target_lag_seconds: i32,

    /// How quickly the number of consumers may follow. Unset: up at once, down after two quiet minutes.
    #[serde(default)]
    pub behavior: Behavior,

    /// What to do while lag cannot be read: `Hold` keeps the number of consumers (lag unknown is never taken for zero). Default: `Hold`.
    #[serde(default)]
    pub on_unknown: OnUnknown,

    /// Decide and report, but change nothing, when true: `status.scaling.desired` shows what would be done. Default: false.
    #[serde(default)]
    pub dry_run: bool,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::default(),
            replicas: None,
            min_replicas: default_min_replicas(),
            max_replicas: None,
            target_lag_seconds: default_target_lag_seconds(),
            behavior: Behavior::default(),
            on_unknown: OnUnknown::default(),
            dry_run: false,
        }
    }
}

const fn default_min_replicas() -> i32 {
    1
}

const fn default_target_lag_seconds() -> i32 {
    30
}

/// Who decides the number of consumers.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScalingMode {
    /// The operator, by lag.
    #[default]
    Lag,
    /// The user, by a number in the resource.
    Fixed,
    /// Another autoscaler, through the scale subresource.
    External,
}

/// What to do while lag cannot be read.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnUnknown {
    /// Keep the number of consumers.
    #[default]
    Hold,
}

/// How quickly the number of consumers may follow.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// How long fewer consumers must have sufficed before some are stopped, in seconds. Default: 120.
    #[serde(default = "default_scale_down_stabilization_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub scale_down_stabilization_seconds: i32,
    /// Shortest time between two changes of the number of consumers, in seconds; each change moves partitions and pauses them. Default: 15.
    #[serde(default = "default_cooldown_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub cooldown_seconds: i32,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            scale_down_stabilization_seconds: default_scale_down_stabilization_seconds(),
            cooldown_seconds: default_cooldown_seconds(),
        }
    }
}

const fn default_scale_down_stabilization_seconds() -> i32 {
    120
}

const fn default_cooldown_seconds() -> i32 {
    15
}
