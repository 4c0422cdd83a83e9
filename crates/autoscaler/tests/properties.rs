//! What holds whatever is seen.

use std::sync::Arc;

use autoscaler::{
    CommittedOffset, ConsumerObservation, Decision, GroupState, Observation, OnUnknown, PartitionObservation,
    Policy, ReplicaObservation, StartFrom, State, decide,
};
use proptest::prelude::*;

fn committed() -> impl Strategy<Value = CommittedOffset> {
    prop_oneof![
        1 => Just(CommittedOffset::Unknown),
        1 => Just(CommittedOffset::Never),
        8 => (0..2_000_000_i64).prop_map(CommittedOffset::At),
    ]
}

fn partitions() -> impl Strategy<Value = Arc<[PartitionObservation]>> {
    let one = (
        0..14_i32,
        proptest::option::weighted(0.9, 0..1000_i64),
        proptest::option::weighted(0.95, 0..2_000_000_i64),
        committed(),
        proptest::option::weighted(0.3, 0.0..5000.0_f64),
    );
    proptest::collection::vec(
        one.prop_map(|(partition, log_start, log_end, committed, lag_seconds)| PartitionObservation {
            partition,
            log_start,
            log_end,
            committed,
            lag_seconds,
        }),
        0..16,
    )
    .prop_map(Arc::from)
}

fn consumers() -> impl Strategy<Value = Vec<ConsumerObservation>> {
    let one = (
        proptest::option::weighted(0.9, 0.0..1.2_f64),
        proptest::option::weighted(0.9, 0.0..50_000.0_f64),
        proptest::option::weighted(0.5, proptest::collection::vec(0..14_i32, 0..6)),
    );
    proptest::collection::vec(one, 0..14).prop_map(|all| {
        let named = |(index, (busy, processed_rate, partitions)): (usize, _)| ConsumerObservation {
            name: format!("pod-{index}"),
            busy,
            processed_rate,
            partitions,
        };
        all.into_iter().enumerate().map(named).collect()
    })
}

fn replicas() -> impl Strategy<Value = ReplicaObservation> {
    let group = prop_oneof![
        4 => Just(GroupState::Stable),
        1 => Just(GroupState::Rebalancing),
        1 => Just(GroupState::Empty),
        1 => Just(GroupState::Dead),
        1 => Just(GroupState::Unknown),
    ];
    (0..14_u32, any::<bool>(), proptest::option::weighted(0.9, 0..14_u32), group, any::<bool>()).prop_map(
        |(spec, all, members, group, rollout)| ReplicaObservation {
            spec,
            ready: if all { spec } else { spec / 2 },
            group_members: if all { Some(spec) } else { members },
            group,
            rollout_in_progress: rollout && !all,
        },
    )
}

/// Observations in order of time, anything else as it may come.
fn history() -> impl Strategy<Value = Vec<Observation>> {
    let one =
        (0.0..40.0_f64, replicas(), proptest::option::weighted(0.9, 0..14_u32), partitions(), consumers());
    proptest::collection::vec(one, 1..25).prop_map(|all| {
        let mut time = 1_700_000_000.0;
        let mut observe = |(span, replicas, partition_count, partitions, consumers)| {
            time += span;
            Observation { time, replicas, partition_count, partitions, consumers }
        };
        all.into_iter().map(&mut observe).collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    (
        0.0..600.0_f64,
        0..6_u32,
        proptest::option::of(1..14_u32),
        any::<bool>(),
        prop_oneof![Just(OnUnknown::Hold), (0..20_u32).prop_map(OnUnknown::Floor)],
        proptest::option::of(0..60_u32),
        proptest::option::of(0..10_u32),
        proptest::option::of(0.0..10_000.0_f64),
    )
        .prop_map(|(target, min, max, latest, on_unknown, connections, floor, hint)| Policy {
            target_lag_seconds: target,
            min_replicas: min,
            max_replicas: max,
            start_from: if latest { StartFrom::Latest } else { StartFrom::Earliest },
            on_unknown,
            max_connections: connections,
            connections_per_replica: 3,
            schedule_floor: floor,
            capacity_hint: hint,
            ..Policy::default()
        })
}

fn run(history: &[Observation], policy: &Policy) -> Vec<(State, Decision)> {
    let mut state = State::default();
    let step = |observation: &Observation| {
        let (next, decision) = decide(&state, observation, policy);
        state = next.clone();
        (next, decision)
    };
    history.iter().map(step).collect()
}

/// True if the lag of every partition could be told from this observation alone.
fn known(observation: &Observation, policy: &Policy) -> bool {
    let Some(count) = observation.partition_count.filter(|count| *count > 0) else {
        return false;
    };
    (0..count as i32).all(|id| {
        let last = observation.partitions.iter().rev().find(|partition| partition.partition == id);
        last.is_some_and(|partition| match (partition.committed, partition.log_end) {
            (CommittedOffset::Unknown, _) | (_, None) => false,
            (CommittedOffset::At(offset), Some(end)) => offset.max(partition.log_start.unwrap_or(0)) <= end,
            (CommittedOffset::Never, Some(end)) => {
                policy.start_from == StartFrom::Latest
                    || partition.log_start.is_some_and(|start| start <= end)
            }
        })
    })
}

/// The most that policy and topic allow.
fn cap(observation: &Observation, policy: &Policy) -> u32 {
    let partitions = observation.partition_count.filter(|count| *count > 0).unwrap_or(u32::MAX);
    let connections = policy.max_connections.map_or(u32::MAX, |budget| (budget / 3).max(1));
    partitions.min(policy.max_replicas.unwrap_or(u32::MAX)).min(connections)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_more_than_partitions_maximum_or_connections(history in history(), policy in policies()) {
        for (observation, (_, decision)) in history.iter().zip(run(&history, &policy)) {
            let allowed = cap(observation, &policy);
            // A repeated moment concludes nothing.
            let kept = decision.desired == observation.replicas.spec;
            prop_assert!(decision.desired <= allowed || kept && decision.explanation.contains("not later"), "{decision:?}");
        }
    }

    #[test]
    fn never_less_while_any_lag_is_unknown(history in history(), policy in policies()) {
        for (observation, (_, decision)) in history.iter().zip(run(&history, &policy)) {
            let spec = observation.replicas.spec;
            if !known(observation, &policy) && spec <= cap(observation, &policy) {
                // A topic whose partitions are fewer than remembered still bounds; one that cannot be read does not.
                let bounded = decision.reason == autoscaler::Reason::Bounds;
                prop_assert!(decision.desired >= spec || bounded, "{decision:?}");
            }
        }
    }

    #[test]
    fn every_number_is_finite_and_every_state_survives_json(history in history(), policy in policies()) {
        let mut state = State::default();
        let mut through_json = State::default();
        for observation in &history {
            let (next, decision) = decide(&state, observation, &policy);
            let text = serde_json::to_string(&next).expect("a state can be written");
            let (again, same) = decide(&through_json, observation, &policy);
            prop_assert_eq!(serde_json::to_string(&same).unwrap(), serde_json::to_string(&decision).unwrap());
            prop_assert_eq!(&again, &next);
            let back: State = serde_json::from_str(&text).expect("what was written can be read");
            prop_assert_eq!(&back, &next);
            let written: Decision = serde_json::from_str(&serde_json::to_string(&decision).unwrap()).unwrap();
            prop_assert_eq!(written, decision);
            (state, through_json) = (next, back);
        }
    }

    /// More lag, all else equal, never asks for fewer.
    #[test]
    fn monotone_in_lag(
        rates in proptest::collection::vec(1.0..60.0_f64, 12),
        replicas in 1..12_u32,
        lag in proptest::collection::vec(0..20_000_i64, 12),
        more in proptest::collection::vec(0..20_000_i64, 12),
    ) {
        let mut state = State::default();
        let policy = Policy::default();
        let mut time = 1_700_000_000.0;
        for turn in 0..30_i64 {
            time += 5.0;
            let observation = steady(time, &rates, replicas, turn, &[0; 12]);
            state = decide(&state, &observation, &policy).0;
        }
        let look = |lag: &[i64]| decide(&state, &steady(time + 5.0, &rates, replicas, 30, lag), &policy).1.desired;
        let both: Vec<i64> = lag.iter().zip(&more).map(|(one, other)| one + other).collect();
        prop_assert!(look(&both) >= look(&lag), "{} with less, {} with more", look(&lag), look(&both));
    }
}

/// A pipeline in which everything is in its place; `lag` of the events of each partition are left.
fn steady(time: f64, rates: &[f64], replicas: u32, turn: i64, lag: &[i64]) -> Observation {
    let one = |(index, rate): (usize, &f64)| {
        let end = 100_000 + (rate * 5.0 * turn as f64) as i64;
        PartitionObservation {
            partition: index as i32,
            log_start: Some(0),
            log_end: Some(end),
            committed: CommittedOffset::At(end - lag[index]),
            lag_seconds: None,
        }
    };
    let total: f64 = rates.iter().sum();
    let consumer = |index: u32| ConsumerObservation {
        name: format!("pod-{index}"),
        busy: Some((total / f64::from(replicas) / 100.0).min(0.9)),
        processed_rate: Some((total / f64::from(replicas)).min(90.0)),
        partitions: None,
    };
    Observation {
        time,
        replicas: ReplicaObservation {
            spec: replicas,
            ready: replicas,
            group_members: Some(replicas),
            group: GroupState::Stable,
            rollout_in_progress: false,
        },
        partition_count: Some(12),
        partitions: rates.iter().enumerate().map(one).collect(),
        consumers: (0..replicas).map(consumer).collect(),
    }
}
