//! How many consumers run.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Schedule;

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
    ),
    validation = Rule::new("self.onUnknown != 'Floor' || has(self.unknownFloorReplicas)").message(
        "`unknownFloorReplicas` must be set when `onUnknown` is Floor: the number of consumers to have while lag cannot be read"
    ),
    validation = Rule::new("self.onUnknown == 'Floor' || !has(self.unknownFloorReplicas)").message(
        "`unknownFloorReplicas` may not be set when `onUnknown` is Hold: set `onUnknown` to Floor, or remove it"
    ),
    validation = Rule::new(
        "!has(self.unknownFloorReplicas) || !has(self.maxReplicas) || self.unknownFloorReplicas <= self.maxReplicas"
    ).message(
        "`unknownFloorReplicas` must be less than or equal to `maxReplicas`"
    ),
    validation = Rule::new("self.mode == 'Lag' || !has(self.schedules) || self.schedules.size() == 0").message(
        "`schedules` may only be set when `mode` is Lag: with Fixed and External somebody else decides the number of consumers"
    ),
    validation = Rule::new(
        "!has(self.schedules) || !has(self.maxReplicas) || self.schedules.all(s, s.minReplicas <= self.maxReplicas)"
    ).message(
        "`minReplicas` of each of `schedules` must be less than or equal to `maxReplicas`"
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

    /// How quickly the number of consumers may follow. Unset: up at once, down after five minutes.
    #[serde(default)]
    pub behavior: Behavior,

    /// What to do while lag cannot be read: `Hold` keeps the number of consumers, `Floor` raises it to `unknownFloorReplicas` after a minute; neither takes any away. Default: `Hold`.
    #[serde(default)]
    pub on_unknown: OnUnknown,

    /// Fewest consumers while lag cannot be read, with `onUnknown: Floor` only. Example: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub unknown_floor_replicas: Option<i32>,

    /// Windows of time with a higher `minReplicas`, for load that is known beforehand, with the mode `Lag` only. Unset: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<Schedule>,

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
            unknown_floor_replicas: None,
            schedules: Vec::new(),
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
    /// Raise it to a number given beforehand.
    Floor,
}

/// How quickly the number of consumers may follow.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Behavior {
    /// How long fewer consumers must have sufficed before some are stopped, in seconds. Default: 300.
    #[serde(default = "default_scale_down_stabilization_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub scale_down_stabilization_seconds: i32,
    /// Shortest time from any change of the number of consumers to a smaller one, in seconds; each change moves partitions and pauses them. Default: 60.
    #[serde(default = "default_cooldown_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub cooldown_seconds: i32,
    /// How long nothing must have arrived before the last consumer is stopped, in seconds, with `minReplicas: 0`. Default: 300.
    #[serde(default = "default_idle_seconds")]
    #[schemars(range(min = 0, max = 86400))]
    pub idle_seconds: i32,
    /// Most changes of the number of consumers in one hour; beyond it only growth that the objective needs at once. Default: 30.
    #[serde(default = "default_max_changes_per_hour")]
    #[schemars(range(min = 1, max = 3600))]
    pub max_changes_per_hour: i32,
}

impl Default for Behavior {
    fn default() -> Self {
        Self {
            scale_down_stabilization_seconds: default_scale_down_stabilization_seconds(),
            cooldown_seconds: default_cooldown_seconds(),
            idle_seconds: default_idle_seconds(),
            max_changes_per_hour: default_max_changes_per_hour(),
        }
    }
}

const fn default_scale_down_stabilization_seconds() -> i32 {
    300
}

const fn default_cooldown_seconds() -> i32 {
    60
}

const fn default_idle_seconds() -> i32 {
    300
}

const fn default_max_changes_per_hour() -> i32 {
    30
}
