//! What a person should know, from what was found.

use crate::choose::Choice;
use crate::demand::{Demand, HOT_SECONDS};
use crate::offsets::Readings;
use crate::{Condition, Limit, State};

/// Arrivals that outrun all partitions' consumers are reported when they have for so long.
const OUTRUN_SECONDS: f64 = 60.0;

/// The conditions that hold, in the order of [`Condition`].
pub(crate) fn conditions(
    state: &State,
    readings: &Readings,
    demand: &Demand,
    choice: &Choice,
    now: f64,
) -> Vec<Condition> {
    let unknown =
        (!readings.complete()).then(|| Condition::LagUnknown { partitions: readings.unknown.clone() });
    let (partitions, seconds) = demand.stalled();
    let stalled = (!partitions.is_empty()).then_some(Condition::Stalled { partitions, seconds });
    [unknown, stalled, hot_partition(state, now), sink_saturated(state), at_bound(state, choice, now)]
        .into_iter()
        .flatten()
        .collect()
}

fn hot_partition(state: &State, now: f64) -> Option<Condition> {
    let capacity = f64::from(state.capacity.rate?);
    let lasting = |since: Option<f64>| since.is_some_and(|since| now - since >= HOT_SECONDS);
    let hot = state.partitions.iter().filter(|(_, memory)| lasting(memory.hot_since));
    let rate = |rate: Option<f32>| rate.map_or(0.0, f64::from);
    let fastest = hot.max_by(|(_, one), (_, other)| rate(one.rate).total_cmp(&rate(other.rate)))?;
    Some(Condition::HotPartition { partition: *fastest.0, rate: rate(fastest.1.rate), capacity })
}

fn sink_saturated(state: &State) -> Option<Condition> {
    let ceiling = state.sink.ceiling.as_ref().filter(|ceiling| ceiling.active)?;
    Some(Condition::SinkSaturated { throughput: f64::from(ceiling.throughput), replicas: ceiling.replicas })
}

/// More partitions are the remedy for arrivals that outrun them, not for a backlog that will be gone.
fn at_bound(state: &State, choice: &Choice, now: f64) -> Option<Condition> {
    let grows_too_little = choice.needed > choice.desired || choice.reason == crate::Reason::AtLimit;
    match choice.limited_by {
        Limit::MaxReplicas | Limit::Connections if grows_too_little => {
            Some(Condition::AtMaximum { maximum: choice.desired })
        }
        Limit::Partitions if grows_too_little => {
            let partitions = state.partition_count.unwrap_or(0);
            let lasts = state.outrun_since.is_some_and(|since| now - since >= OUTRUN_SECONDS);
            lasts.then_some(Condition::AtPartitionCount { partitions })
        }
        _ => None,
    }
}
