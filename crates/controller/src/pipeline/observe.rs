//! What is the case: the Deployment and its pods, the lag, and what consumers say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use analytics_api::labels;
use autoscaler::{ConsumerObservation, GroupState, Observation, ReplicaObservation};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tracing::Instrument;

use super::scrape;
use super::validate::ValidatedPipeline;
use crate::context::{Context, Memory};
use crate::kafka::{Ages, Arrivals, LagError, Quiet, Reading};
use crate::shelf::Consumers;
use crate::trace;

/// Another look within this time would only show the same.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// What is quiet is asked for everything again after this time: somebody may have moved the group's offsets, or added partitions.
const ASK_ALL: Duration = Duration::from_secs(60);

/// The consumers as Kubernetes knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    /// False before the Deployment was made.
    pub(crate) exists: bool,
    /// Replicas that the Deployment asks for.
    pub(crate) spec: i32,
    /// Pods that the Deployment counts: none that stops.
    pub(crate) existing: i32,
    /// Pods that are ready.
    pub(crate) ready: i32,
    /// Pods that there are, those that stop among them.
    pub(crate) pods: usize,
    /// Pods are being replaced.
    pub(crate) rollout: bool,
    /// How often containers of these pods were started again.
    pub(crate) restarts: i32,
    /// Why a container of the pods ended or does not start, as far as it is known.
    pub(crate) trouble: Option<String>,
}

impl Fleet {
    /// There is no consumer, and none is on its way.
    pub(crate) fn gone(&self) -> bool {
        self.spec == 0 && self.existing == 0 && self.pods == 0 && !self.rollout
    }
}

/// What was seen for one decision.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The lag, or why it is not known.
    pub(crate) reading: Result<Reading, LagError>,
    /// The same and the consumers, for the autoscaler; `None` if nothing new was read.
    pub(crate) observation: Option<Observation>,
    /// True if Kafka needed not be asked: nothing was left to do, and nothing has arrived.
    pub(crate) nothing_new: bool,
}

/// The consumers of a pipeline, from the watches' stores. (no client required)
pub(crate) fn fleet(context: &Context, namespace: &str, pipeline: &str) -> Fleet {
    let name = labels::consumer_name(pipeline);
    let deployment =
        context.stores.get(namespace).and_then(|stores| stores.deployments.get(namespace, &name));
    let pods = pods(context, namespace, pipeline, "consumer");
    deployment.map(|deployment| describe(&deployment, &pods)).unwrap_or_default()
}

/// Pods of a pipeline with this part to play.
pub(crate) fn pods(context: &Context, namespace: &str, pipeline: &str, component: &str) -> Vec<Arc<Pod>> {
    let key = (namespace.to_owned(), pipeline.to_owned());
    let mut pods = context.stores.get(namespace).map(|stores| stores.pods.get(&key)).unwrap_or_default();
    pods.retain(|pod| pod.labels().get(labels::LABEL_COMPONENT).is_some_and(|found| found == component));
    pods
}

fn describe(deployment: &Consumers, pods: &[Arc<Pod>]) -> Fleet {
    let Consumers { spec, existing, ready, updated, behind, .. } = *deployment;
    let present = || pods.iter().filter(|pod| !over(pod));
    Fleet {
        exists: true,
        spec,
        existing,
        pods: present().count(),
        restarts: present().map(|pod| restarts(pod)).fold(0, i32::saturating_add),
        ready,
        // Also while the last one of the old kind still stops beside all the new ones.
        rollout: behind || updated < existing,
        trouble: pods.iter().find_map(|pod| trouble(pod)),
    }
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    containers.map(|container| container.restart_count).fold(0, i32::saturating_add)
}

// What was evicted stays to be looked at, and does nothing any more.
fn over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase.is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase))
}

/// Why a container of the pod ended or does not start: the last lines of its log, or the kubelet's words.
pub(crate) fn trouble(pod: &Pod) -> Option<String> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let running = container.state.as_ref().is_some_and(|state| state.running.is_some());
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let terminated = state?.terminated.as_ref().filter(|terminated| terminated.exit_code != 0)?;
        let words = terminated.message.as_deref().map(last_words).filter(|words| !words.is_empty());
        let reason = terminated.reason.as_deref().unwrap_or("Error");
        Some(words.unwrap_or_else(|| format!("{reason}, exit code {}", terminated.exit_code)))
    };
    if running && container.ready {
        return None;
    }
    let waiting = || {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| !["ContainerCreating", "PodInitializing"].contains(reason))?;
        Some(format!("{reason}: {}", waiting.message.as_deref().unwrap_or_default()))
    };
    ended(container.state.as_ref()).or_else(|| ended(container.last_state.as_ref())).or_else(waiting)
}

/// How long ago the last attempt of the pod's container ended; `None` while one is under way.
pub(crate) fn ended(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.waiting.as_ref()?;
    let finished = container.last_state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?;
    Duration::try_from(now.duration_since(finished.0)).ok()
}

// A log ends with the reason; the lines before it are about the start.
fn last_words(message: &str) -> String {
    const MOST: usize = 400;
    let line = message.trim_end().lines().last().unwrap_or_default().trim();
    let line: String = line.chars().filter(|character| !character.is_control()).collect();
    let end = line.floor_char_boundary(MOST);
    line[..end].to_owned()
}

/// Reads lag and consumers, unless that was done a moment ago. (talks to Kafka and to pods)
pub(crate) async fn run(
    pipeline: &ValidatedPipeline,
    fleet: &Fleet,
    context: &Context,
    memory: &mut Memory,
) -> Seen {
    if memory.quiet.as_ref().is_some_and(|quiet| !quiet.is_of(&pipeline.kafka)) {
        // What was read of another cluster, or with other credentials, says nothing of this one.
        (memory.quiet, memory.reading, memory.asked) = (None, None, None);
        memory.ages = Ages::default();
    }
    if let Some((at, reading)) = &memory.reading
        && at.elapsed() < FRESH
    {
        return Seen { reading: reading.clone(), observation: None, nothing_new: false };
    }
    let pods = pods(context, &pipeline.namespace, &pipeline.name, "consumer");
    let span = trace::observation();
    let last = still_good(fleet, memory);
    let nothing_new = last.is_some()
        && memory.quiet.as_ref().is_some_and(|quiet| context.kafka.arrivals(quiet) == Arrivals::None);
    let last = last.filter(|_| nothing_new).cloned();
    let look = async {
        let lag = async {
            match last {
                Some(last) => Ok(last),
                None => context.kafka.read(&pipeline.kafka).await,
            }
        };
        tokio::join!(lag, scrape::run(&context.http, &pods, &mut memory.samples))
    };
    let (mut reading, consumers) = look.instrument(span.clone()).await;
    let time = now();
    match &mut reading {
        Ok(_) if nothing_new => memory.ages.still(time),
        Ok(reading) => {
            let partitions = Arc::make_mut(&mut reading.partitions);
            memory.ages.tell(memory.quiet.as_ref(), partitions, time);
        }
        Err(_) => {}
    }
    trace::observed(&span, &reading, consumers.len());
    if let Err(error) = &reading {
        context.metrics.lag_read_failed(error.reason());
    }
    memory.reading = Some((Instant::now(), reading.clone()));
    if !nothing_new {
        memory.asked = Some((Instant::now(), fleet.clone()));
        memory.quiet = reading.as_ref().ok().and_then(|reading| Quiet::new(&pipeline.kafka, reading));
    }
    let observation = observation(time, fleet, reading.as_ref().ok().cloned(), consumers);
    Seen { reading, observation: Some(observation), nothing_new }
}

/// What a look would show at a pipeline without consumers for which nothing has arrived; `None` if it takes a look to tell.
pub(super) fn again(fleet: &Fleet, memory: &mut Memory) -> Option<Seen> {
    let reading = still_good(fleet, memory)?.clone();
    let time = now();
    memory.ages.still(time);
    let observation = observation(time, fleet, Some(reading.clone()), Vec::new());
    Some(Seen { reading: Ok(reading), observation: Some(observation), nothing_new: true })
}

fn observation(
    time: f64,
    fleet: &Fleet,
    known: Option<Reading>,
    consumers: Vec<ConsumerObservation>,
) -> Observation {
    Observation {
        time,
        replicas: ReplicaObservation {
            spec: count(fleet.spec),
            ready: count(fleet.ready),
            group_members: known.as_ref().and_then(|known| known.group_members),
            group: known.as_ref().map(|known| known.group).unwrap_or_default(),
            rollout_in_progress: fleet.rollout,
        },
        partition_count: known.as_ref().map(|known| known.partition_count),
        partitions: known.map(|known| known.partitions).unwrap_or_default(),
        consumers,
    }
}

/// The last reading, if it is as good as a new one as long as no log end has moved: nothing was left to do, by the last
/// decision, so that no commit can have come, and the consumers are as they were.
pub(super) fn still_good<'a>(fleet: &Fleet, memory: &'a Memory) -> Option<&'a Reading> {
    let (asked, before) = memory.asked.as_ref()?;
    let reading = memory.reading.as_ref().and_then(|(_, reading)| reading.as_ref().ok())?;
    let done = memory
        .decision
        .as_ref()
        .is_some_and(|decision| decision.estimates.lag_events == Some(0) && decision.conditions.is_empty());
    let settled = reading.group != GroupState::Rebalancing;
    let same = before == fleet && !fleet.rollout && fleet.existing == fleet.spec && fleet.ready == fleet.spec;
    (done && settled && same && asked.elapsed() < ASK_ALL).then_some(reading)
}

fn count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Pod {
        let mut container = container;
        for (key, value) in [
            ("name", json!("consumer")),
            ("image", json!("i")),
            ("imageID", json!("")),
            ("restartCount", json!(1)),
        ] {
            container[key] = value;
        }
        serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": [container]}})).unwrap()
    }

    /// A pod that ends again and again has to say why, in the pipeline's own status.
    #[test]
    fn the_last_line_of_a_failed_container_is_its_trouble() {
        let ended = json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "starting\nKAFKA_TOPIC is empty\n"}});
        let silent = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        let pull = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        let clean = json!({"terminated": {"exitCode": 0}});
        let running = json!({"running": {}});
        let table = [
            (json!({"ready": false, "state": ended}), Some("KAFKA_TOPIC is empty")),
            (json!({"ready": false, "state": waiting, "lastState": ended}), Some("KAFKA_TOPIC is empty")),
            (json!({"ready": false, "state": silent}), Some("OOMKilled, exit code 137")),
            (json!({"ready": false, "state": pull}), Some("ErrImagePull: no such image")),
            (json!({"ready": false, "state": creating}), None),
            (json!({"ready": false, "state": clean}), None),
            (json!({"ready": true, "state": running, "lastState": ended}), None),
            (json!({"ready": false, "state": running}), None),
        ];
        for (container, expected) in table {
            assert_eq!(trouble(&pod(container.clone())).as_deref(), expected, "{container}");
        }
    }

    #[test]
    fn restarts_are_those_of_all_containers_of_the_pods_that_are_still_there() {
        let pod = |phase: &str, counts: &[i32]| {
            let containers: Vec<_> = counts
                .iter()
                .map(|count| json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": count}))
                .collect();
            let status = json!({"phase": phase, "containerStatuses": containers});
            Arc::new(serde_json::from_value::<Pod>(json!({"metadata": {}, "status": status})).unwrap())
        };
        let of = |pods: &[Arc<Pod>]| describe(&Consumers::of(&Default::default()), pods).restarts;
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[Arc::default(), pod("Pending", &[])]), 0);
        assert_eq!(of(&[pod("Running", &[3, 1]), pod("Running", &[2]), pod("Failed", &[7])]), 6);
    }

    /// Only what cannot have changed since may be taken for what is.
    #[test]
    fn a_reading_is_good_for_longer_only_when_nothing_waits_and_nobody_moves() {
        let reading = |group| Reading { partition_count: 1, group, ..Reading::default() };
        let decision = |lag_events| autoscaler::Decision {
            estimates: autoscaler::Estimates { lag_events, ..autoscaler::Estimates::default() },
            conditions: Vec::new(),
            ..autoscaler::decide(
                &autoscaler::State::default(),
                &Observation::default(),
                &autoscaler::Policy::default(),
            )
            .1
        };
        let fleet = Fleet { exists: true, spec: 1, existing: 1, ready: 1, ..Fleet::default() };
        let memory = |group, lag_events, ago: u64| Memory {
            reading: Some((Instant::now(), Ok(reading(group)))),
            decision: Some(decision(lag_events)),
            asked: Instant::now().checked_sub(Duration::from_secs(ago)).map(|asked| (asked, fleet.clone())),
            ..Memory::default()
        };
        let (stable, unready) = (GroupState::Stable, Fleet { ready: 0, ..fleet.clone() });
        let table = [
            (memory(stable, Some(0), 5), &fleet, true, "quiet"),
            (
                memory(GroupState::Unknown, Some(0), 5),
                &fleet,
                true,
                "quiet, with a group of the new protocol",
            ),
            (memory(stable, Some(1), 5), &fleet, false, "something waits"),
            (memory(stable, None, 5), &fleet, false, "nobody knows"),
            (memory(stable, Some(0), 61), &fleet, false, "too long ago"),
            (memory(stable, Some(0), 5), &unready, false, "a consumer is gone"),
            (memory(GroupState::Rebalancing, Some(0), 5), &fleet, false, "partitions move"),
            (Memory::default(), &fleet, false, "nothing was read"),
        ];
        for (memory, fleet, expected, why) in table {
            assert_eq!(still_good(fleet, &memory).is_some(), expected, "{why}");
        }
    }

    #[test]
    fn an_attempt_has_ended_only_while_the_next_one_waits() {
        let last = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}});
        let waiting =
            json!({"ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last});
        let running = json!({"ready": false, "state": {"running": {}}, "lastState": last});
        let now = "2026-01-01T00:00:50Z".parse().unwrap();
        assert_eq!(ended(&pod(waiting), now), Some(Duration::from_secs(50)));
        assert_eq!(ended(&pod(running), now), None);
    }

    #[test]
    fn a_rollout_is_seen_until_every_pod_is_of_the_new_kind() {
        // Observed generation of 2, pods, and pods of the new kind; three are wanted.
        for (observed, pods, updated, rollout) in [
            (1, 3, 3, true),
            (2, 3, 1, true),
            (2, 4, 3, true),
            (2, 3, 3, false),
            (2, 2, 2, false),
            (2, 5, 5, false),
        ] {
            let object = json!({
                "metadata": {"generation": 2},
                "spec": {"replicas": 3, "selector": {}, "template": {}},
                "status": {"observedGeneration": observed, "replicas": pods, "readyReplicas": 3, "updatedReplicas": updated}
            });
            let deployment = Consumers::of(&serde_json::from_value(object).unwrap());
            assert_eq!(describe(&deployment, &[]).rollout, rollout, "{observed} {pods} {updated}");
        }
    }
}
