//! When a decision may be taken at all: pods, rollout and group have settled, and how long that usually takes.

use crate::state::{Change, Drain, ScalingMemory};
use crate::{GroupState, Observation, Policy};

/// Assumed until it has been measured: from a decision to grow until the new replicas consume.
const CONVERGE_SECONDS: f64 = 20.0;
/// Assumed until it has been measured: for how long a rebalance stops consumption.
const PAUSE_SECONDS: f64 = 5.0;
/// Longest that is learned for either.
const LONGEST_SECONDS: f64 = 900.0;
/// Everything must have been in its place for so long.
const SETTLE_SECONDS: f64 = 4.0;
/// What has not settled after this time is not going to; growth is allowed again.
const STUCK_SECONDS: f64 = 120.0;
/// Having to grow within so many windows after a scale-down means that it was wrong.
const REGRET_WINDOWS: f64 = 6.0;
/// The window for scale-downs is doubled at most so often.
const MOST_WIDENINGS: u8 = 3;

/// Whether a decision may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Everything is in its place.
    Settled,
    /// Something moves: wait.
    Settling,
    /// Something has not settled for far longer than usual: only growth is allowed.
    Stuck,
}

/// Takes what was seen of pods and group into memory.
pub(crate) fn learn(before: &ScalingMemory, observation: &Observation, policy: &Policy) -> ScalingMemory {
    let mut memory = before.clone();
    let now = observation.time;
    memory.changes.retain(|time| now - time < 3600.0);
    note_change(&mut memory, observation, policy);
    memory.asked = None;
    note_rebalance(&mut memory, observation);
    if in_place(observation) {
        memory.unsettled_since = None;
        memory.settled_since.get_or_insert(now);
        note_convergence(&mut memory, now);
    } else {
        memory.settled_since = None;
        memory.unsettled_since.get_or_insert(now);
    }
    let quiet = 4.0 * window(&memory, policy);
    if memory.widened > 0 && now - memory.widened_at > quiet {
        memory.widened -= 1;
        memory.widened_at = now;
    }
    memory
}

/// The gate at the moment for which `memory` was made.
pub(crate) fn gate(memory: &ScalingMemory, now: f64) -> Gate {
    match (memory.settled_since, memory.unsettled_since) {
        (Some(since), _) if now - since >= SETTLE_SECONDS => Gate::Settled,
        (None, Some(since)) if now - since >= stuck_seconds(memory) => Gate::Stuck,
        _ => Gate::Settling,
    }
}

/// What has not settled after so many seconds is not going to.
pub(crate) fn stuck_seconds(memory: &ScalingMemory) -> f64 {
    STUCK_SECONDS.max(4.0 * converge_seconds(memory))
}

/// Seconds from a decision to grow until the new replicas consume.
pub(crate) fn converge_seconds(memory: &ScalingMemory) -> f64 {
    memory.converge_seconds.map_or(CONVERGE_SECONDS, f64::from)
}

/// Seconds for which a rebalance stops consumption.
pub(crate) fn pause_seconds(memory: &ScalingMemory) -> f64 {
    memory.pause_seconds.map_or(PAUSE_SECONDS, f64::from)
}

/// Seconds for which a smaller number must have sufficed: the policy's, doubled for every regretted scale-down.
pub(crate) fn window(memory: &ScalingMemory, policy: &Policy) -> f64 {
    policy.stabilization_seconds.max(0.0) * f64::from(1_u32 << memory.widened.min(MOST_WIDENINGS))
}

fn in_place(observation: &Observation) -> bool {
    let replicas = &observation.replicas;
    let members = replicas.group_members.is_none_or(|members| members == replicas.spec);
    let stable = match replicas.group {
        GroupState::Stable | GroupState::Unknown => true,
        GroupState::Empty | GroupState::Dead => replicas.spec == 0,
        GroupState::Rebalancing => false,
    };
    !replicas.rollout_in_progress && replicas.ready == replicas.spec && members && stable
}

fn note_change(memory: &mut ScalingMemory, observation: &Observation, policy: &Policy) {
    let (now, to) = (observation.time, observation.replicas.spec);
    let Some(from) = memory.spec.replace(to).filter(|from| *from != to) else {
        return;
    };
    let asked = memory.asked.filter(|asked| asked.desired == to);
    let time = asked.map_or(now, |asked| asked.time);
    memory.last = Some(Change { time, from, to, settling: true });
    memory.changes.push(time);
    if to < from {
        memory.lowered = Some(time);
        memory.drain = None;
        return;
    }
    let urgent = asked.is_some_and(|asked| asked.urgent);
    let predicted = asked.and_then(|asked| asked.drain_seconds).filter(|_| urgent);
    memory.drain = predicted.map(|predicted_seconds| Drain { since: time, predicted_seconds });
    if urgent {
        memory.grown = Some(time);
    }
    if asked.is_some_and(|asked| asked.outrun) {
        memory.outgrown = Some(time);
    }
    let regretted =
        memory.lowered.is_some_and(|lowered| time - lowered < REGRET_WINDOWS * policy.stabilization_seconds);
    if urgent && regretted && from > 0 && memory.widened < MOST_WIDENINGS {
        memory.widened += 1;
        memory.widened_at = now;
    }
}

fn note_rebalance(memory: &mut ScalingMemory, observation: &Observation) {
    if observation.replicas.group == GroupState::Rebalancing {
        memory.rebalancing_since.get_or_insert(observation.time);
    } else if let Some(since) = memory.rebalancing_since.take() {
        memory.pause_seconds = Some(towards(memory.pause_seconds, observation.time - since));
    }
}

fn note_convergence(memory: &mut ScalingMemory, now: f64) {
    let Some(last) = memory.last.as_mut().filter(|last| last.settling && now > last.time) else {
        return;
    };
    last.settling = false;
    if last.to > last.from {
        let seconds = now - last.time;
        memory.converge_seconds = Some(towards(memory.converge_seconds, seconds));
    }
}

/// Follows a longer duration at once and a shorter one by and by: being late costs more than being early.
fn towards(known: Option<f32>, seen: f64) -> f32 {
    let seen = seen.clamp(0.0, LONGEST_SECONDS);
    known.map(f64::from).map_or(seen, |known| if seen > known { seen } else { known + 0.3 * (seen - known) })
        as f32
}
