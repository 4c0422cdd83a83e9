//! When a decision may be taken at all: pods, rollout and group have settled, and how long that usually takes.

use crate::state::{Asked, Change, Drain, ScalingMemory};
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
/// A change counts half after so many seconds.
const DEBT_HALF_SECONDS: f64 = 3600.0;
/// A load that stays away for longer than this is not waited for.
const LONGEST_LULL_SECONDS: f64 = 3600.0;
/// A number that is more than so many times what is needed now is not taken on suspicion.
const RECALLED_FACTOR: u32 = 2;
/// A load is waited for so many times longer than it stayed away before.
const LULL_FACTOR: f64 = 1.25;

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

/// How many changes there have been of late, each counting the less the longer ago it was.
pub(crate) fn debt(memory: &ScalingMemory, now: f64) -> f64 {
    let since = memory.last.map_or(0.0, |last| (now - last.time).max(0.0));
    memory.debt.map_or(0.0, f64::from) * (-since / DEBT_HALF_SECONDS).exp2()
}

/// Seconds for which the load stayed away before it came again and fewer replicas had to be taken back, with some to spare.
pub(crate) fn lull_seconds(memory: &ScalingMemory) -> f64 {
    LULL_FACTOR * memory.lull.map_or(0.0, f64::from)
}

/// Where arrivals call for `desired` replicas: the number that they needed before they went, if that is not long ago. A load that
/// comes again comes as high, and one growth does where several would follow each other.
pub(crate) fn recalled(memory: &ScalingMemory, desired: u32, now: f64) -> Option<u32> {
    let fresh = memory.spare_since.is_some_and(|since| now - since < LONGEST_LULL_SECONDS);
    memory.peak.filter(|peak| fresh && (desired..=RECALLED_FACTOR * desired).contains(peak))
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
    memory.debt = Some((debt(memory, time) + 1.0) as f32);
    memory.last = Some(Change { time, from, to, settling: true });
    memory.changes.push(time);
    if to < from {
        note_lowered(memory, asked, time, policy);
    } else {
        let urgent = asked.filter(|asked| asked.urgent);
        note_grown(memory, urgent, time);
        let within = REGRET_WINDOWS * policy.stabilization_seconds;
        let regretted = memory.lowered.is_some_and(|lowered| time - lowered < within);
        if urgent.is_some() && regretted && from > 0 && memory.widened < MOST_WIDENINGS {
            memory.widened += 1;
            memory.widened_at = now;
        }
    }
}

fn note_lowered(memory: &mut ScalingMemory, asked: Option<Asked>, time: f64, policy: &Policy) {
    memory.lowered = Some(time);
    memory.drain = None;
    let since = asked.and_then(|asked| asked.spare_since);
    // What was waited for has not come. (Replicas that the load did not need while it was there either were not kept for it.)
    let kept_for_it = since.zip(memory.grown).is_none_or(|(since, grown)| since > grown);
    if kept_for_it {
        memory.lull = None;
    }
    // A burst shorter than the window comes and goes too fast to be waited for.
    let lasted =
        |since: &f64| memory.outgrown.is_some_and(|grown| since - grown >= policy.stabilization_seconds);
    if memory.spare_since.is_none() {
        memory.spare_since = since.filter(lasted);
        memory.peak = memory.spare_since.and(memory.last).map(|last| last.from);
    }
}

/// `urgent` is what was asked for, if the objective called for it.
fn note_grown(memory: &mut ScalingMemory, urgent: Option<Asked>, time: f64) {
    let predicted = urgent.and_then(|asked| asked.drain_seconds);
    memory.drain = predicted.map(|predicted_seconds| Drain { since: time, predicted_seconds });
    let spare_since = memory.spare_since.take();
    memory.peak = None;
    if urgent.is_some() {
        memory.grown = Some(time);
    }
    if urgent.is_some_and(|asked| asked.outrun) {
        memory.outgrown = Some(time);
        let lull = spare_since.map(|since| time - since).filter(|lull| *lull < LONGEST_LULL_SECONDS);
        memory.lull = lull.map(|lull| lull as f32).or(memory.lull);
    }
}

fn note_rebalance(memory: &mut ScalingMemory, observation: &Observation) {
    let replicas = &observation.replicas;
    if replicas.group == GroupState::Rebalancing {
        // While pods are still coming, one rebalance follows another: that is how long a growth takes, no single pause.
        if replicas.ready == replicas.spec {
            memory.rebalancing_since.get_or_insert(observation.time);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaObservation;

    /// After readings five seconds apart of pods asked for, pods ready, and whether the group moves.
    fn after(readings: &[(u32, u32, bool)]) -> ScalingMemory {
        let mut memory = ScalingMemory::default();
        for (index, (spec, ready, moves)) in readings.iter().enumerate() {
            let group = if *moves { GroupState::Rebalancing } else { GroupState::Stable };
            let group_members = Some(*ready);
            let replicas = ReplicaObservation {
                spec: *spec,
                ready: *ready,
                group_members,
                group,
                rollout_in_progress: false,
            };
            let observation = Observation { time: 5.0 * index as f64, replicas, ..Observation::default() };
            memory = learn(&memory, &observation, &Policy::default());
        }
        memory
    }

    #[test]
    fn a_pause_is_one_rebalance_and_not_the_coming_of_many_pods() {
        let coming = [(2, 2, false), (4, 2, true), (4, 3, true), (4, 3, true), (4, 4, true), (4, 4, false)];
        let memory = after(&coming);
        assert_eq!((pause_seconds(&memory), converge_seconds(&memory)), (5.0, 20.0));
        let leaving = [(4, 4, false), (2, 2, true), (2, 2, true), (2, 2, true), (2, 2, false)];
        assert_eq!(pause_seconds(&after(&leaving)), 15.0);
    }

    #[test]
    fn the_first_start_of_pods_tells_how_long_they_take() {
        assert_eq!(
            converge_seconds(&after(&[(0, 0, false), (2, 0, false)])),
            CONVERGE_SECONDS,
            "not known yet"
        );
        let started = [(0, 0, false), (2, 0, false), (2, 1, false), (2, 1, false), (2, 2, false)];
        assert_eq!(converge_seconds(&after(&started)), 15.0);
    }
}
