//! How other numbers of replicas would have fared: one virtual queue for each number worth having.
//!
//! A number of replicas may be taken when it *would have sufficed* for the whole window, not when an average
//! says so: the arrivals that were seen are run through a queue as fast as its most loaded replica. When the
//! work waiting in it exceeds a share of the objective, the number has failed, at that moment, and the queue
//! starts again from empty. This judges bursts by the objective itself (a burst that the objective tolerates
//! does not count, one that it does not tolerate does), and needs a few numbers of memory for each.
//!
//! A number that has outlasted a burst has shown more: bursts of this load end by themselves. While that is
//! fresh, a rise of the rate alone is no reason to grow beyond it; what has gathered, and the average, still are.

use std::collections::BTreeMap;

use crate::State;
use crate::plan::TOLERATED_SHARE;
use crate::shape::{Load, Shape, level_of};
use crate::state::ShadowMemory;

/// After a longer gap between observations nobody knows what would have been.
const LONGEST_GAP_SECONDS: f64 = 120.0;
/// For so long it is remembered that bursts end by themselves.
const OUTLASTED_SECONDS: f64 = 1800.0;
/// A burst leaves work waiting for at least this share of the objective …
const BURST_SHARE: f64 = 0.2;
/// … within this share of it; what gathers more slowly is the load itself.
const SUDDEN_SHARE: f64 = 0.5;

/// Runs the arrivals of the last `span` seconds through the queues. `arrived` is their number; how they are shared
/// out follows from `loads`, whose rates are smooth (the busiest of many partitions in one reading is chance).
pub(crate) fn learn(
    state: &mut State,
    loads: &BTreeMap<i32, Load>,
    arrived: f64,
    now: f64,
    span: f64,
    target: f64,
) {
    let Some(capacity) = state.capacity.rate.map(f64::from).filter(|capacity| *capacity > 0.0) else {
        state.shadows.clear();
        return;
    };
    let shape = Shape::of(state);
    let expected: f64 = loads.values().map(|load| load.rate).sum::<f64>() * span;
    let surge = if expected > 0.0 { arrived / expected } else { 0.0 };
    let before = std::mem::take(&mut state.shadows);
    for level in shape.levels() {
        let known = before.get(&level).copied();
        let mut shadow = known.unwrap_or(ShadowMemory { failed: now, ..ShadowMemory::default() });
        let utilization = shape.worst(loads, level).rate * surge / capacity;
        let waiting = (f64::from(shadow.waiting) + (utilization - 1.0) * span).max(0.0);
        shadow.waiting = waiting as f32;
        if waiting > TOLERATED_SHARE * target || span > LONGEST_GAP_SECONDS {
            shadow = ShadowMemory { failed: now, ..ShadowMemory::default() };
        } else if waiting > 0.0 {
            let since = *shadow.waiting_since.get_or_insert(now - span);
            let sudden = now - since <= SUDDEN_SHARE * target;
            shadow.burst |= sudden && waiting > BURST_SHARE * target;
        } else {
            shadow.waiting_since = None;
            if std::mem::take(&mut shadow.burst) {
                shadow.outlasted = Some(now);
            }
        }
        state.shadows.insert(level, shadow);
    }
}

/// Since when so many replicas would have sufficed.
pub(crate) fn sufficed_since(state: &State, replicas: u32) -> Option<f64> {
    state.shadows.get(&replicas).map(|shadow| shadow.failed)
}

/// True if so many replicas would not have failed since `time`, and outlasted a burst after it.
pub(crate) fn outlasted_since(state: &State, replicas: u32, time: f64) -> bool {
    state.shadows.get(&replicas).is_some_and(|shadow| {
        shadow.failed < time
            && shadow.waiting_since.is_none()
            && shadow.outlasted.is_some_and(|end| end > time)
    })
}

/// True if so many replicas have been seen to outlast a burst, and not to fail since.
pub(crate) fn outlasts_bursts(state: &State, replicas: u32, now: f64) -> bool {
    let level = level_of(&Shape::of(state).levels(), replicas);
    let outlasted = state.shadows.get(&level).and_then(|shadow| shadow.outlasted);
    outlasted.is_some_and(|time| now - time < OUTLASTED_SECONDS)
}
