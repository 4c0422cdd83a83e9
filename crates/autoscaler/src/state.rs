//! What is remembered from one decision to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is remembered from one decision to the next. Its inside is no interface: keep it as JSON, give it back
/// with the next observation. [`State::default`] is the state of a pipeline that has never been seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct State {
    /// Time of the last observation.
    pub(crate) time: Option<f64>,
    /// Time of the last change of the replica count.
    pub(crate) changed: Option<f64>,
    /// Log end of each partition at `time`.
    pub(crate) log_ends: BTreeMap<i32, i64>,
    /// Events that arrive per second, over all partitions.
    pub(crate) arrival_rate: Option<f64>,
    /// Events per second that one replica handles.
    pub(crate) capacity: Option<f64>,
}
