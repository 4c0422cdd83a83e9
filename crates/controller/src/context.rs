//! What every reconcile works with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use analytics_api::AnalyticsPipeline;
use autoscaler::DrainOutcome;
use kube::core::DeserializeGuard;
use kube::runtime::events::{Event, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};

use crate::args::Settings;
use crate::decisions::Decisions;
use crate::index::Index;
use crate::kafka::{Ages, Clients, LagError, Quiet, Reading};
use crate::metrics::Metrics;
use crate::pipeline::{
    AppliedObjects, Course, Essence, Fleet, Kinds, Monitor, Prepared, Rest, Sample, Settled,
};
use crate::recollections::Recollections;
use crate::secrets::Secrets;
use crate::watches::Stores;

/// A pipeline as the watch delivers it: one that cannot be read does not stop the others.
pub(crate) type Pipeline = DeserializeGuard<AnalyticsPipeline>;

/// What every reconcile works with.
pub(crate) struct Context {
    /// Connection to the API server.
    pub(crate) client: Client,
    /// Settings of the controller.
    pub(crate) settings: Settings,
    /// All pipelines by topic and group, for the search of conflicts; for each watched namespace.
    pub(crate) pipelines: Vec<Index<Pipeline>>,
    /// Objects made for pipelines, as the watches see them.
    pub(crate) stores: ByNamespace<Stores>,
    /// Referenced Secrets.
    pub(crate) secrets: Secrets,
    /// Kafka clients.
    pub(crate) kafka: Clients,
    /// HTTP client for the consumers' metrics.
    pub(crate) http: reqwest::Client,
    /// In whose name Events are written.
    pub(crate) reporter: Reporter,
    /// Metrics of the controller.
    pub(crate) metrics: Metrics,
    /// Which kinds of Prometheus Operator exist.
    pub(crate) monitoring: Kinds,
    /// What is remembered of each pipeline, by uid.
    pub(crate) memories: Memories,
    /// The latest decisions, for people.
    pub(crate) decisions: Decisions,
}

/// Something for each watched namespace, or once for all of them under the empty name.
pub(crate) struct ByNamespace<T> {
    parts: BTreeMap<String, T>,
}

impl<T> ByNamespace<T> {
    /// Takes the parts.
    pub(crate) fn new(parts: BTreeMap<String, T>) -> Self {
        Self { parts }
    }

    /// The part for a namespace; `None` for one that is not watched.
    pub(crate) fn get(&self, namespace: &str) -> Option<&T> {
        self.parts.get(namespace).or_else(|| self.parts.get(""))
    }
}

/// What is remembered of a pipeline between two reconciles. All of it can be lost: a restart reads the scaling state from the
/// status and does the rest again.
#[derive(Default)]
pub(crate) struct Memory {
    /// State of the autoscaler.
    pub(crate) scaling: Option<Arc<autoscaler::State>>,
    /// The last reading of Kafka and when it was made.
    pub(crate) reading: Option<(Instant, Result<Reading, LagError>)>,
    /// The last decision.
    pub(crate) decision: Option<autoscaler::Decision>,
    /// What else is remembered about the number of consumers.
    pub(crate) course: Course,
    /// The last sample of each consumer's counters, by pod.
    pub(crate) samples: HashMap<String, Sample>,
    /// The generation whose rules were checked, and what is wrong with it.
    pub(crate) rules: Option<(i64, Option<String>)>,
    /// What was applied.
    pub(crate) applied: AppliedObjects,
    /// PodMonitor and PrometheusRule: what was wanted and applied, and when.
    pub(crate) monitors: HashMap<&'static str, Monitor>,
    /// Secrets that it referred to when it was last looked at.
    pub(crate) secrets: BTreeSet<String>,
    /// What was worked out of its description.
    pub(crate) prepared: Option<Arc<Prepared>>,
    /// What was brought about, if all of it was.
    pub(crate) settled: Option<Settled>,
    /// When Kafka was last asked for everything, and how the consumers were then.
    pub(crate) asked: Option<(Instant, Fleet)>,
    /// What to compare log ends with to see whether something has arrived.
    pub(crate) quiet: Option<Quiet>,
    /// What arrived when, while something waits.
    pub(crate) ages: Ages,
    /// What the status, Events and metrics tell.
    pub(crate) told: Option<Essence>,
    /// Whether it is left alone for a while, unless something arrives.
    pub(crate) rest: Rest,
    /// How well the last growth was predicted, until that is told.
    pub(crate) drained: Option<DrainOutcome>,
    /// Writes Events, and knows those of the last minutes; `None` while the pipeline rests.
    pub(crate) recorder: Option<Recorder>,
    /// When the status was last written.
    pub(crate) status_written: Option<Instant>,
    /// Failed reconciles in a row.
    pub(crate) failures: u32,
    /// Namespace and name, for the removal of its metrics.
    pub(crate) name: (String, String),
}

/// What is remembered of all pipelines.
#[derive(Default)]
pub(crate) struct Memories {
    recollections: Recollections,
    // Boxed, because half of the places of a table are empty.
    by_uid: Mutex<HashMap<String, Box<Memory>>>,
}

impl Memories {
    /// No memory yet but what the watches find in statuses.
    pub(crate) fn new(recollections: Recollections) -> Self {
        Self { recollections, ..Self::default() }
    }

    /// Takes the memory of a pipeline out; at most one reconcile works on a pipeline at a time. The first time, it is what the
    /// status holds of it, if that can be read: another version may have written it.
    pub(crate) fn take(&self, uid: &str) -> Box<Memory> {
        if let Some(memory) = self.lock().remove(uid) {
            return memory;
        }
        let text = self.recollections.recall(uid);
        let scaling = text.and_then(|text| serde_json::from_str(&text).ok()).map(Arc::new);
        Box::new(Memory { scaling, ..Memory::default() })
    }

    /// Puts it back.
    pub(crate) fn put(&self, uid: &str, memory: Box<Memory>) {
        self.lock().insert(uid.to_owned(), memory);
    }

    /// Names of the pipelines for which `wakes` is true, of those that no reconcile works on.
    pub(crate) fn woken(&self, wakes: impl Fn(&mut Memory) -> bool) -> Vec<(String, String)> {
        let mut memories = self.lock();
        let woken = memories.values_mut().filter_map(|memory| wakes(memory).then(|| memory.name.clone()));
        woken.collect()
    }

    /// Forgets all pipelines for which `exists` is false, and gives back their names.
    pub(crate) fn forget_unless(&self, exists: impl Fn(&str) -> bool) -> Vec<(String, String)> {
        self.recollections.forget_unless(&exists);
        self.lock().extract_if(|uid, _| !exists(uid)).map(|(_, memory)| memory.name).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Box<Memory>>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Who writes this Event. A recorder takes Events of one reason, minutes apart, for one and keeps the first note only: right
    /// for what is the same again, wrong for changes of scale, each of which has figures of its own.
    pub(crate) fn recorder_for(&self, event: &Event, memory: &mut Memory) -> Recorder {
        let new = || Recorder::new(self.client.clone(), self.reporter.clone());
        if crate::events::stands_alone(event) {
            new()
        } else {
            memory.recorder.get_or_insert_with(new).clone()
        }
    }

    /// All pipelines that are watched.
    pub(crate) fn all_pipelines(&self) -> Vec<Arc<Pipeline>> {
        self.pipelines.iter().flat_map(Index::all).collect()
    }

    /// The other pipelines with the same topic and group, whatever their brokers.
    pub(crate) fn rivals(&self, pipeline: &AnalyticsPipeline) -> Vec<Arc<Pipeline>> {
        let source = &pipeline.spec.source;
        let key = (source.topic.clone(), source.group_id.clone());
        let mut rivals: Vec<_> = self.pipelines.iter().flat_map(|index| index.get(&key)).collect();
        rivals.retain(|rival| rival.meta().uid != pipeline.metadata.uid);
        rivals
    }

    /// Forgets pipelines that are gone: their memory, their metrics and the watches of their Secrets. What one of the same name that
    /// has come since has is left.
    pub(crate) fn sweep(&self) {
        let living = self.all_pipelines();
        let uids: HashSet<_> = living.iter().filter_map(|pipeline| pipeline.uid()).collect();
        let gone = self.memories.forget_unless(|uid| uids.contains(uid));
        if gone.is_empty() {
            return;
        }
        let names: HashSet<_> = living
            .iter()
            .map(|pipeline| (pipeline.namespace().unwrap_or_default(), pipeline.name_any()))
            .collect();
        for name in without_heirs(gone, &names) {
            let (namespace, pipeline) = &name;
            self.metrics.remove_pipeline(namespace, pipeline);
            self.secrets.keep_only(&ObjectRef::new(pipeline).within(namespace), &BTreeSet::new());
            self.decisions.forget(&name);
        }
    }
}

// Metrics, recordings and users of Secrets go by name, and the name may have been taken again.
fn without_heirs(
    gone: Vec<(String, String)>,
    living: &HashSet<(String, String)>,
) -> impl Iterator<Item = (String, String)> {
    gone.into_iter().filter(|name| !living.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restart of the controller must not forget capacity and windows.
    #[test]
    fn memories_come_back_from_the_status_and_nonsense_is_forgotten() {
        let observation = autoscaler::Observation { time: 5.0, ..autoscaler::Observation::default() };
        let (state, _) = autoscaler::decide(&Default::default(), &observation, &Default::default());
        let text = serde_json::to_string(&state).unwrap();
        let recalled = |text: &str| {
            let recollections = Recollections::default();
            let mut pipeline = crate::pipeline::fixtures::pipeline("{}");
            let scaling =
                analytics_api::ScalingStatus { memory: Some(text.to_owned()), ..Default::default() };
            pipeline.status =
                Some(analytics_api::AnalyticsPipelineStatus { scaling: Some(scaling), ..Default::default() });
            recollections.keep(&mut pipeline);
            Memories::new(recollections).take("uid-clicks").scaling
        };
        assert_eq!(recalled(&text).as_deref(), Some(&state));
        assert_eq!(recalled("{nonsense"), None);
    }

    /// Deleted and made again between two sweeps: what the new one has is not the old one's to take along.
    #[test]
    fn what_a_new_pipeline_of_the_same_name_has_is_left() {
        let name = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let memories = Memories::default();
        for (uid, pipeline) in [("old", "clicks"), ("new", "clicks"), ("other", "views")] {
            memories.put(uid, Box::new(Memory { name: name("shop", pipeline), ..Memory::default() }));
        }
        let mut gone = memories.forget_unless(|uid| uid == "new");
        gone.sort();
        assert_eq!(gone, [name("shop", "clicks"), name("shop", "views")]);
        let living = HashSet::from([name("shop", "clicks"), name("other", "views")]);
        assert_eq!(without_heirs(gone, &living).collect::<Vec<_>>(), [name("shop", "views")]);
        assert!(memories.take("old").name.0.is_empty());
        assert_eq!(memories.take("new").name, name("shop", "clicks"));
    }
}
