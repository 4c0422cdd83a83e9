//! The decision itself.

use crate::{
    CommittedOffset, Condition, Decision, Estimates, GroupState, Limit, Observation, PartitionObservation,
    Policy, Reason, StartFrom, State,
};

/// Decides how many replicas there should be.
///
/// Give the returned state back with the next observation; an empty state is right for a pipeline never seen.
#[must_use]
pub fn decide(state: &State, observation: &Observation, policy: &Policy) -> (State, Decision) {
    let lag = total_lag(observation, policy);
    let next = learn(state, observation);
    let spec = observation.replicas.spec;
    let ceiling = ceiling(observation, policy);
    let needed = lag.and_then(|lag| needed(&next, lag, policy)).unwrap_or(spec);
    let elapsed = next.changed.map_or(f64::INFINITY, |changed| observation.time - changed);
    let (desired, limited_by, reason) = if lag.is_none() {
        (spec, Limit::Unknown, Reason::LagUnknown)
    } else if spec > 0 && !converged(observation) {
        (spec, Limit::Converging, Reason::Converging)
    } else if needed < spec && elapsed < policy.stabilization_seconds {
        (spec, Limit::Stabilization, Reason::Waiting)
    } else {
        let reason = match needed.cmp(&spec) {
            std::cmp::Ordering::Less => Reason::Surplus,
            std::cmp::Ordering::Equal => Reason::Steady,
            std::cmp::Ordering::Greater => Reason::LagAboveTarget,
        };
        (needed, Limit::None, reason)
    };
    let floor = policy.min_replicas.max(policy.schedule_floor.unwrap_or(0));
    let desired = desired.max(floor).min(ceiling.unwrap_or(spec.max(1)));
    let estimates = Estimates {
        lag_events: lag,
        arrival_rate: next.arrival_rate,
        capacity_per_replica: next.capacity,
        ..Estimates::default()
    };
    let conditions = match lag {
        None => vec![Condition::LagUnknown { partitions: Vec::new() }],
        Some(_) => Vec::new(),
    };
    let explanation = format!("{reason}: {spec} replicas, {needed} needed, limited by {limited_by}");
    let next = State { changed: if desired == spec { next.changed } else { Some(observation.time) }, ..next };
    let decision = Decision {
        desired,
        needed,
        limited_by,
        reason,
        explanation,
        next_eligible: None,
        estimates,
        conditions,
        drain_outcome: None,
    };
    (next, decision)
}

fn converged(observation: &Observation) -> bool {
    let replicas = &observation.replicas;
    !replicas.rollout_in_progress
        && replicas.ready == replicas.spec
        && replicas.group_members == Some(replicas.spec)
        && replicas.group == GroupState::Stable
}

fn ceiling(observation: &Observation, policy: &Policy) -> Option<u32> {
    let partitions = observation.partition_count?;
    let connections =
        policy.max_connections.map_or(u32::MAX, |budget| budget / policy.connections_per_replica.max(1));
    Some(partitions.min(policy.max_replicas.unwrap_or(u32::MAX)).min(connections.max(1)))
}

fn total_lag(observation: &Observation, policy: &Policy) -> Option<u64> {
    let count = usize::try_from(observation.partition_count?).ok()?;
    if count == 0 || observation.partitions.len() < count {
        return None;
    }
    observation.partitions.iter().map(|partition| lag(partition, policy)).sum()
}

fn lag(partition: &PartitionObservation, policy: &Policy) -> Option<u64> {
    let end = partition.log_end?;
    let position = match (partition.committed, policy.start_from) {
        (CommittedOffset::Unknown, _) => return None,
        (CommittedOffset::At(offset), _) => offset,
        (CommittedOffset::Never, StartFrom::Earliest) => partition.log_start?,
        (CommittedOffset::Never, StartFrom::Latest) => end,
    };
    Some(u64::try_from(end - position).unwrap_or(0))
}

fn learn(state: &State, observation: &Observation) -> State {
    let mut next = state.clone();
    next.time = Some(observation.time);
    next.log_ends = observation.partitions.iter().filter_map(|p| Some((p.partition, p.log_end?))).collect();
    let elapsed = state.time.map_or(0.0, |time| observation.time - time);
    if elapsed > 0.0 && next.log_ends.len() == state.log_ends.len() {
        let arrived: i64 =
            next.log_ends.iter().map(|(p, end)| end - state.log_ends.get(p).unwrap_or(end)).sum();
        next.arrival_rate = Some(arrived.max(0) as f64 / elapsed);
    }
    let busy: Vec<_> = observation
        .consumers
        .iter()
        .filter_map(|consumer| Some((consumer.busy?, consumer.processed_rate?)))
        .filter(|(busy, _)| *busy >= 0.3)
        .collect();
    if !busy.is_empty() && converged(observation) {
        let share: f64 = busy.iter().map(|(busy, _)| busy).sum();
        next.capacity =
            Some(busy.iter().map(|(_, rate)| rate).sum::<f64>() / share).filter(|rate| *rate > 0.0);
    }
    next
}

fn needed(state: &State, lag: u64, policy: &Policy) -> Option<u32> {
    let arrival = state.arrival_rate?;
    if lag == 0 && arrival == 0.0 {
        return Some(0);
    }
    let demand = arrival + lag as f64 / policy.target_lag_seconds.max(1.0);
    let capacity = state.capacity.or(policy.capacity_hint);
    Some(capacity.map_or(1, |capacity| (demand / capacity).ceil().clamp(1.0, f64::from(u32::MAX)) as u32))
}
