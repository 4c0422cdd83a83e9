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
use crate::pipeline::{Applied, Course, Essence, Fleet, Kinds, Monitor, Prepared, Rest, Sample, Settled};
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
    /// What was applied, by kind and name.
    pub(crate) applied: HashMap<(String, String), Applied>,
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
    // Boxed, because half of the places of a table are empty.
    by_uid: Mutex<HashMap<String, Box<Memory>>>,
}

impl Memories {
    /// Takes the memory of a pipeline out; at most one reconcile works on a pipeline at a time.
    pub(crate) fn take(&self, uid: &str) -> Box<Memory> {
        self.lock().remove(uid).unwrap_or_default()
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

    /// Forgets pipelines that are gone: their memory, their metrics and the watches of their Secrets.
    pub(crate) fn sweep(&self) {
        let living: HashSet<_> = self.all_pipelines().iter().filter_map(|pipeline| pipeline.uid()).collect();
        for (namespace, name) in self.memories.forget_unless(|uid| living.contains(uid)) {
            self.metrics.remove_pipeline(&namespace, &name);
            self.secrets.keep_only(&ObjectRef::new(&name).within(&namespace), &BTreeSet::new());
            self.decisions.forget(&(namespace, name));
        }
    }
}
