//! PodMonitor and PrometheusRule of a pipeline, where Prometheus Operator's kinds exist.
//!
//! Their absence is normal and is looked up again now and then, so that an operator which is installed later is picked up
//! without a restart. They are not watched: watching a kind that may not exist costs more than looking again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use analytics_api::{AnalyticsPipeline, Automatic, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::Value;

use super::apply::FIELD_MANAGER;
use super::build::{self, Watched};
use crate::args::Settings;
use crate::context::{Context, Memory};
use crate::trace;

const GROUP_VERSION: &str = "monitoring.coreos.com/v1";
/// How long an answer to "do these kinds exist?" holds.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What is as it should be is looked at again after this time, in case somebody removed or changed it.
const CHECK_AGAIN: Duration = Duration::from_secs(600);

/// A kind, and the plural by which the API server knows it.
type Kind = (&'static str, &'static str);
const POD_MONITOR: Kind = ("PodMonitor", "podmonitors");
const PROMETHEUS_RULE: Kind = ("PrometheusRule", "prometheusrules");

/// What was wanted of one of the kinds, by which generation of the pipeline, and when that was brought about.
#[derive(Debug)]
pub(crate) struct Monitor {
    pipeline: Option<i64>,
    fingerprint: blake3::Hash,
    /// The object's own generation afterwards; `None` where none was applied.
    object: Option<i64>,
    when: Instant,
}

/// Which of the kinds exist, as far as is known.
#[derive(Default)]
pub(crate) struct Kinds {
    known: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Kinds {
    /// The plurals of the kinds that exist. An API server that does not answer changes nothing.
    async fn existing(&self, client: &Client) -> Vec<String> {
        if let Some((_, kinds)) = self.lock().as_ref().filter(|(since, _)| since.elapsed() < LOOK_AGAIN) {
            return kinds.clone();
        }
        let kinds = match client.list_api_group_resources(GROUP_VERSION).await {
            Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
            Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "Whether Prometheus Operator is installed could not be asked");
                return self.lock().as_ref().map(|(_, kinds)| kinds.clone()).unwrap_or_default();
            }
        };
        *self.lock() = Some((Instant::now(), kinds.clone()));
        kinds
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Vec<String>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies or removes both objects. (client required)
pub(crate) async fn run(pipeline: &AnalyticsPipeline, context: &Context, memory: &mut Memory) {
    bring_about(&[POD_MONITOR, PROMETHEUS_RULE], pipeline, context, memory).await;
}

/// The same for the alerts alone, of a pipeline that cannot be run as it is: its consumers, if there are any, are left as they
/// are and so is how they are found, but that it is not ready has to be told. (client required)
pub(crate) async fn alerts(pipeline: &AnalyticsPipeline, context: &Context, memory: &mut Memory) {
    bring_about(&[PROMETHEUS_RULE], pipeline, context, memory).await;
}

// What fails is logged and tried again: a pipeline does its work without being watched.
async fn bring_about(kinds: &[Kind], pipeline: &AnalyticsPipeline, context: &Context, memory: &mut Memory) {
    let Some(watched) = Watched::new(pipeline) else { return };
    let existing = context.monitoring.existing(&context.client).await;
    let generation = pipeline.metadata.generation;
    for kind in kinds {
        if !existing.iter().any(|plural| plural == kind.1) {
            memory.monitors.remove(kind.0);
            continue;
        }
        let done = memory.monitors.get(kind.0);
        if done.is_some_and(|done| done.pipeline == generation && done.when.elapsed() < CHECK_AGAIN) {
            continue;
        }
        let done = done.map(|done| (done.fingerprint, done.object));
        match settle(*kind, &watched, done, context).await {
            Ok((fingerprint, object)) => {
                let monitor = Monitor { pipeline: generation, fingerprint, object, when: Instant::now() };
                memory.monitors.insert(kind.0, monitor);
            }
            Err(error) => {
                context.metrics.failed("monitoring");
                let Watched { name, namespace, .. } = &watched;
                tracing::warn!(pipeline = name, namespace, kind = kind.0, %error, "Monitoring could not be arranged; trying again");
            }
        }
    }
}

// The object as it should be; `None` if there should be none.
fn wanted(kind: &str, pipeline: &Watched<'_>, settings: &Settings) -> Option<Value> {
    let (telemetry, labels) = (pipeline.telemetry, &settings.monitor_labels.0);
    if kind == POD_MONITOR.0 {
        return (telemetry.pod_monitor == Automatic::Auto).then(|| build::pod_monitor(pipeline, labels));
    }
    let rule = (telemetry.prometheus_rule == Automatic::Auto)
        .then(|| build::prometheus_rule(pipeline, labels, &settings.runbook_base_url));
    rule?
        .inspect_err(|error| tracing::error!(%error, "The alerts built into the controller cannot be read"))
        .ok()
}

/// What is to be done about an object.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is as it should be.
    Nothing,
    Apply,
    Delete,
    /// It belongs to somebody else.
    Leave,
}

// `applied` is the generation of the object after the same was applied, if it was. Metadata has no part in a generation, so labels
// are compared.
fn step(wanted: Option<&Value>, found: Option<&ObjectMeta>, owner: &str, applied: Option<i64>) -> Step {
    let is_ours =
        |found: &ObjectMeta| found.owner_references.iter().flatten().any(|candidate| candidate.uid == owner);
    match (wanted, found) {
        (None, None) => Step::Nothing,
        (Some(_), None) => Step::Apply,
        (_, Some(found)) if !is_ours(found) => Step::Leave,
        (None, Some(_)) => Step::Delete,
        (Some(wanted), Some(found)) => {
            let has = |(key, value): (&String, &Value)| {
                found.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str) == value.as_str()
            };
            let labelled = wanted["metadata"]["labels"].as_object().into_iter().flatten().all(has);
            let same = applied.is_some() && found.generation == applied && labelled;
            if same { Step::Nothing } else { Step::Apply }
        }
    }
}

// Brings one object about; returns what was wanted, and the object's generation if it was applied, now or before.
async fn settle(
    (kind, plural): Kind,
    pipeline: &Watched<'_>,
    done: Option<(blake3::Hash, Option<i64>)>,
    context: &Context,
) -> Result<(blake3::Hash, Option<i64>), kube::Error> {
    let wanted = wanted(kind, pipeline, &context.settings);
    let fingerprint = blake3::hash(wanted.as_ref().map(Value::to_string).unwrap_or_default().as_bytes());
    let applied = done.filter(|(before, _)| *before == fingerprint).and_then(|(_, object)| object);
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind),
        plural,
    );
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &pipeline.namespace, &resource);
    let name = labels::consumer_name(&pipeline.name);
    let found = api.get_metadata_opt(&name).await?;
    let object = match step(
        wanted.as_ref(),
        found.as_ref().map(|found| &found.metadata),
        &pipeline.owner.uid,
        applied,
    ) {
        Step::Nothing => applied,
        Step::Apply => {
            let (parameters, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&wanted));
            let object = trace::write(kind, &name, api.patch(&name, &parameters, &patch)).await?;
            context.metrics.wrote(kind);
            object.metadata.generation
        }
        Step::Delete => {
            trace::write(kind, &name, api.delete(&name, &DeleteParams::background())).await?;
            context.metrics.wrote(kind);
            None
        }
        Step::Leave => {
            let namespace = &pipeline.namespace;
            tracing::warn!(
                namespace,
                name,
                kind,
                "An object of this name belongs to somebody else; leaving it"
            );
            None
        }
    };
    Ok((fingerprint, object))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use serde_json::json;

    use super::*;

    fn found(owner: &str, generation: i64, labels: &[(&str, &str)]) -> ObjectMeta {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        ObjectMeta {
            owner_references: Some(vec![OwnerReference {
                uid: owner.to_owned(),
                ..OwnerReference::default()
            }]),
            generation: Some(generation),
            labels: Some(labels.collect()),
            ..ObjectMeta::default()
        }
    }

    /// A quiet pipeline costs the API server no write, however often its objects are looked at.
    #[test]
    fn what_is_as_it_was_applied_is_not_written_again() {
        let wanted = json!({"metadata": {"labels": {"release": "watcher"}}});
        let right = [("release", "watcher"), ("added", "by somebody")];
        let same = found("ours", 3, &right);
        let table = [
            ("as it was applied", Some(&wanted), Some(same.clone()), Some(3), Step::Nothing),
            (
                "another one was wanted before, or nothing is known",
                Some(&wanted),
                Some(same.clone()),
                None,
                Step::Apply,
            ),
            ("changed by somebody", Some(&wanted), Some(found("ours", 4, &right)), Some(3), Step::Apply),
            ("a label was taken off", Some(&wanted), Some(found("ours", 3, &[])), Some(3), Step::Apply),
            ("removed by somebody", Some(&wanted), None, Some(3), Step::Apply),
            ("new", Some(&wanted), None, None, Step::Apply),
            ("not wanted any more", None, Some(same), None, Step::Delete),
            ("not wanted and not there", None, None, None, Step::Nothing),
            ("of somebody else", Some(&wanted), Some(found("theirs", 3, &right)), Some(3), Step::Leave),
            ("of somebody else and not wanted", None, Some(found("theirs", 3, &right)), None, Step::Leave),
        ];
        for (case, wanted, found, applied, expected) in table {
            assert_eq!(step(wanted, found.as_ref(), "ours", applied), expected, "{case}");
        }
    }
}
