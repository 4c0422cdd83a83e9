//! A reading of the world, as a controller would get it.

use std::sync::Arc;

use autoscaler::{
    CommittedOffset, ConsumerObservation, Observation, PartitionObservation, ReplicaObservation,
};

use super::trace::Incident;
use super::world::World;

/// Deviation of what consumers say of themselves.
const MEASURE_NOISE: f64 = 0.02;
/// The traces begin at this Unix time.
pub const EPOCH: f64 = 1_750_000_000.0;

/// Reads the world; what consumers say is an average over the `span` seconds since the last reading.
pub fn read(world: &mut World<'_>, span: f64) -> Observation {
    let unmeasured = during(world, |incident| match incident {
        Incident::Unmeasured { from, to } => Some((*from, *to)),
        _ => None,
    });
    let consumers = if unmeasured { Vec::new() } else { consumers(world, span) };
    world.pods.iter_mut().for_each(|pod| (pod.busy, pod.processed) = (0.0, 0.0));
    let blind = during(world, |incident| match incident {
        Incident::OffsetsUnknown { from, to } => Some((*from, *to)),
        _ => None,
    });
    let members = world.pods.iter().filter(|pod| pod.member).count();
    Observation {
        time: EPOCH + world.second as f64,
        replicas: ReplicaObservation {
            spec: world.spec,
            ready: world.pods.iter().filter(|pod| !pod.is_surge() && world.is_ready(pod)).count() as u32,
            group_members: Some(members as u32),
            group: world.group(),
            rollout_in_progress: world.rolling,
        },
        partition_count: (!blind).then_some(world.partitions() as u32),
        partitions: if blind { Arc::default() } else { partitions(world) },
        consumers,
    }
}

fn during(world: &World<'_>, window: impl Fn(&Incident) -> Option<(usize, usize)>) -> bool {
    let now = world.second;
    world.trace.incidents.iter().filter_map(window).any(|(from, to)| (from..to).contains(&now))
}

fn consumers(world: &mut World<'_>, span: f64) -> Vec<ConsumerObservation> {
    let mut said = Vec::new();
    for index in 0..world.pods.len() {
        let (jitter, other) = (world.jitter(), world.jitter());
        let pod = &world.pods[index];
        if !world.is_ready(pod) {
            continue;
        }
        said.push(ConsumerObservation {
            name: format!("pod-{:05}", pod.id),
            busy: Some((pod.busy / span * (1.0 + MEASURE_NOISE * jitter)).clamp(0.0, 1.0)),
            processed_rate: Some((pod.processed / span * (1.0 + MEASURE_NOISE * other)).max(0.0)),
            partitions: Some(pod.partitions.iter().map(|partition| *partition as i32).collect()),
        });
    }
    said
}

fn partitions(world: &World<'_>) -> Arc<[PartitionObservation]> {
    let missing = |partition: usize| {
        during(world, |incident| match incident {
            Incident::PartitionUnknown { partition: unknown, from, to } if *unknown == partition => {
                Some((*from, *to))
            }
            _ => None,
        })
    };
    let one = |partition: usize| {
        let log = &world.logs[partition];
        let (end, committed) = log.offsets();
        PartitionObservation {
            partition: partition as i32,
            log_start: Some(0),
            log_end: Some(end),
            committed: CommittedOffset::At(committed),
            lag_seconds: world.trace.tells_age.then(|| log.age(world.second)),
        }
    };
    (0..world.partitions()).filter(|partition| !missing(*partition)).map(one).collect()
}
