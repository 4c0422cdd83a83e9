//! How smaller numbers of replicas would have fared: one virtual queue for each number worth having.
//!
//! A number of replicas may be taken when it *would have sufficed* for the whole window, not when an average
//! says so: the arrivals that were seen are run through a queue as fast as its most loaded replica. When the
//! work waiting in it exceeds a share of the objective, the number has failed, at that moment, and the queue
//! starts again from empty. This judges bursts by the objective itself (a burst that the objective tolerates
//! does not count, one that it does not tolerate does), and needs two numbers of memory for each.

use crate::State;
use crate::plan::TOLERATED_SHARE;
use crate::shape::{Load, levels, worst};
use crate::state::ShadowMemory;

/// After a longer gap between observations nobody knows what would have been.
const LONGEST_GAP_SECONDS: f64 = 120.0;

/// Runs the arrivals of the last `span` seconds through the queues.
pub(crate) fn learn(state: &mut State, loads: &[Load], partitions: u32, now: f64, span: f64, target: f64) {
    let Some(capacity) = state.capacity.rate.map(f64::from).filter(|capacity| *capacity > 0.0) else {
        state.shadows.clear();
        return;
    };
    let before = std::mem::take(&mut state.shadows);
    for level in levels(partitions) {
        let known = before.get(&level).copied();
        let mut shadow = known.unwrap_or(ShadowMemory { waiting: 0.0, failed: now });
        let utilization = worst(loads, level).rate / capacity;
        let waiting = (f64::from(shadow.waiting) + (utilization - 1.0) * span).max(0.0);
        shadow.waiting = waiting as f32;
        if waiting > TOLERATED_SHARE * target || span > LONGEST_GAP_SECONDS {
            shadow = ShadowMemory { waiting: 0.0, failed: now };
        }
        state.shadows.insert(level, shadow);
    }
}

/// Since when so many replicas would have sufficed.
pub(crate) fn sufficed_since(state: &State, replicas: u32) -> Option<f64> {
    state.shadows.get(&replicas).map(|shadow| shadow.failed)
}
