//! PodMonitor and PrometheusRule of a pipeline, where Prometheus Operator's kinds exist.
//!
//! Their absence is normal and is looked up again now and then, so that an operator which is installed later is picked up
//! without a restart. They are not watched: watching a kind that may not exist costs more than applying again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use analytics_api::{Automatic, labels};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::Value;

use super::apply::FIELD_MANAGER;
use super::build;
use super::prepared::Prepared;
use super::validate::ValidatedPipeline;
use crate::context::{Context, Memory};
use crate::trace;

const GROUP_VERSION: &str = "monitoring.coreos.com/v1";
/// How long an answer to "do these kinds exist?" holds.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What has not changed is applied again after this time, in case somebody removed or changed it.
const APPLY_AGAIN: Duration = Duration::from_secs(600);

/// The kinds, and the plural by which the API server knows them.
const POD_MONITOR: (&str, &str) = ("PodMonitor", "podmonitors");
const PROMETHEUS_RULE: (&str, &str) = ("PrometheusRule", "prometheusrules");

/// What was applied, of which pipeline, and when.
#[derive(Debug)]
pub(crate) struct Monitor {
    of: Arc<Prepared>,
    fingerprint: blake3::Hash,
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

/// Applies or removes both objects. What fails is logged and tried again: a pipeline does its work without being watched.
/// (client required)
pub(crate) async fn run(prepared: &Arc<Prepared>, context: &Context, memory: &mut Memory) {
    let kinds = context.monitoring.existing(&context.client).await;
    let pipeline = &prepared.valid;
    for kind in [POD_MONITOR, PROMETHEUS_RULE] {
        if !kinds.iter().any(|existing| existing == kind.1) {
            memory.monitors.remove(kind.0);
            continue;
        }
        let done = memory.monitors.get(kind.0);
        if done.is_some_and(|done| Arc::ptr_eq(&done.of, prepared) && done.when.elapsed() < APPLY_AGAIN) {
            continue;
        }
        let wanted = wanted(kind.0, pipeline, &context.settings.monitor_labels.0);
        if let Err(error) = bring_about(kind, wanted, prepared, context, memory).await {
            context.metrics.failed("monitoring");
            tracing::warn!(pipeline = pipeline.name, namespace = pipeline.namespace, kind = kind.0, %error, "Monitoring could not be arranged; trying again");
        }
    }
}

// The object as it should be; `None` if there should be none.
fn wanted(kind: &str, pipeline: &ValidatedPipeline, labels: &BTreeMap<String, String>) -> Option<Value> {
    let telemetry = &pipeline.spec.telemetry;
    if kind == POD_MONITOR.0 {
        return (telemetry.pod_monitor == Automatic::Auto).then(|| build::pod_monitor(pipeline, labels));
    }
    let rule =
        (telemetry.prometheus_rule == Automatic::Auto).then(|| build::prometheus_rule(pipeline, labels));
    rule?
        .inspect_err(|error| tracing::error!(%error, "The alerts built into the controller cannot be read"))
        .ok()
}

async fn bring_about(
    (kind, plural): (&'static str, &str),
    wanted: Option<Value>,
    prepared: &Arc<Prepared>,
    context: &Context,
    memory: &mut Memory,
) -> Result<(), kube::Error> {
    let pipeline = &prepared.valid;
    let fingerprint = blake3::hash(wanted.as_ref().map(Value::to_string).unwrap_or_default().as_bytes());
    let of = Arc::clone(prepared);
    let done = memory.monitors.get_mut(kind);
    if let Some(done) =
        done.filter(|done| done.fingerprint == fingerprint && done.when.elapsed() < APPLY_AGAIN)
    {
        done.of = of;
        return Ok(());
    }
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("monitoring.coreos.com", "v1", kind),
        plural,
    );
    let api = Api::<DynamicObject>::namespaced_with(context.client.clone(), &pipeline.namespace, &resource);
    let name = labels::consumer_name(&pipeline.name);
    let found = api.get_metadata_opt(&name).await?;
    let owner = &pipeline.owner.uid;
    let ours = found.as_ref().is_none_or(|found| {
        found.metadata.owner_references.iter().flatten().any(|candidate| candidate.uid == *owner)
    });
    match wanted {
        _ if !ours => {
            tracing::warn!(
                namespace = pipeline.namespace,
                name,
                kind,
                "An object of this name belongs to somebody else; leaving it"
            );
        }
        Some(object) => {
            let (parameters, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&object));
            trace::write(kind, &name, api.patch(&name, &parameters, &patch)).await?;
            context.metrics.wrote(kind);
        }
        None if found.is_some() => {
            trace::write(kind, &name, api.delete(&name, &DeleteParams::background())).await?;
            context.metrics.wrote(kind);
        }
        None => {}
    }
    memory.monitors.insert(kind, Monitor { of, fingerprint, when: Instant::now() });
    Ok(())
}
