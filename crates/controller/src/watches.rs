//! What the controller watches: pipelines, and the objects that it made for them.

use std::fmt::Debug;
use std::hash::Hash;

use analytics_api::{AnalyticsPipeline, labels};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::predicates;
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, controller, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::context::Pipeline;
use crate::index::{Changes, Index};
use crate::recollections::Recollections;
use crate::shelf::{Consumers, Migrated, Seen, Shelf};

/// Objects that are listed at a time: of five hundred whole ones, the texts alone would be megabytes.
const PAGE: u32 = 50;

/// Objects made for pipelines, as the watches see them.
pub(crate) struct Stores {
    /// By namespace and pipeline.
    pub(crate) pods: Index<Pod>,
    pub(crate) deployments: Shelf<Consumers>,
    pub(crate) jobs: Shelf<Migrated>,
    pub(crate) config_maps: Shelf<Seen>,
    pub(crate) services: Shelf<Seen>,
    pub(crate) service_accounts: Shelf<Seen>,
    pub(crate) budgets: Shelf<Seen>,
    pub(crate) network_policies: Shelf<Seen>,
}

impl Stores {
    /// Waits until every watch has listed what there is: before that, what is not seen may well be there. False if that of the pods has ended.
    pub(crate) async fn ready(&self) -> bool {
        self.deployments.ready().await;
        self.jobs.ready().await;
        for metadata in
            [&self.config_maps, &self.services, &self.service_accounts, &self.budgets, &self.network_policies]
        {
            metadata.ready().await;
        }
        self.pods.ready().await
    }
}

/// The controller with all its watches, its pipelines by topic and group, and the stores that the other watches fill.
/// `namespace` empty means all namespaces.
pub(crate) fn watch(
    client: &Client,
    namespace: &str,
    concurrency: u16,
    recollections: &Recollections,
) -> (Controller<Pipeline>, Index<Pipeline>, Stores) {
    let changes = Changes::default();
    let (pipelines, trigger) = pipelines(client, namespace, changes.clone(), recollections.clone());
    let by_group = Index::new(pipelines.clone(), changes, topic_and_group);
    let settings = controller::Config::default().concurrency(concurrency);
    let (deployments, deployment_events) = owned(api(client, namespace), Consumers::of);
    let (jobs, job_events) = owned(api(client, namespace), Migrated::of);
    let changes = Changes::default();
    let (pods, pod_events) = pods(api(client, namespace), changes.clone());
    let pods = Index::new(pods, changes, pipeline_name);
    let (config_maps, config_map_events) = owned_metadata::<ConfigMap>(client, namespace);
    let (services, service_events) = owned_metadata::<Service>(client, namespace);
    let (service_accounts, account_events) = owned_metadata::<ServiceAccount>(client, namespace);
    let (budgets, budget_events) = owned_metadata::<PodDisruptionBudget>(client, namespace);
    let (network_policies, policy_events) = owned_metadata::<NetworkPolicy>(client, namespace);
    let controller = Controller::for_stream(trigger, pipelines)
        .with_config(settings)
        .owns_stream(deployment_events)
        .owns_stream(job_events)
        .owns_stream(config_map_events)
        .owns_stream(service_events)
        .owns_stream(account_events)
        .owns_stream(budget_events)
        .owns_stream(policy_events)
        // Pods belong to ReplicaSets and Jobs; their label leads to the pipeline.
        .watches_stream(pod_events, |pod: Pod| pipeline_of(&pod));
    let stores = Stores {
        deployments,
        jobs,
        pods,
        config_maps,
        services,
        service_accounts,
        budgets,
        network_policies,
    };
    (controller, by_group, stores)
}

fn api<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    if namespace.is_empty() { Api::all(client.clone()) } else { Api::namespaced(client.clone(), namespace) }
}

// A pipeline triggers a reconcile when its specification changes, not when its status does: the controller writes that itself.
fn pipelines(
    client: &Client,
    namespace: &str,
    changes: Changes,
    recollections: Recollections,
) -> (Store<Pipeline>, impl Stream<Item = Result<Pipeline, watcher::Error>> + Send + 'static) {
    let (store, writer) = reflector::store();
    let stream = watcher(api::<Pipeline>(client, namespace), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(move |object: &mut Pipeline| {
            object.meta_mut().managed_fields = None;
            if let Ok(pipeline) = &mut object.0 {
                recollections.keep(pipeline);
            }
        })
        .reflect(writer)
        .inspect(move |_| changes.note())
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    (store, stream)
}

fn owned<K, V>(
    api: Api<K>,
    keep: fn(&K) -> V,
) -> (Shelf<V>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
    V: Clone + Send + 'static,
{
    let shelf = Shelf::default();
    let fill = shelf.clone();
    let stream = watcher(api, ours())
        .default_backoff()
        .inspect(move |event| {
            if let Ok(event) = event {
                fill.take(event, keep);
            }
        })
        .touched_objects();
    (shelf, stream)
}

fn owned_metadata<K>(
    client: &Client,
    namespace: &str,
) -> (Shelf<Seen>, impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + use<K>)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    K: Clone + Debug + Send + Sync + 'static,
{
    owned(api::<PartialObjectMeta<K>>(client, namespace), Seen::of)
}

fn pods(
    api: Api<Pod>,
    changes: Changes,
) -> (Store<Pod>, impl Stream<Item = Result<Pod, watcher::Error>> + Send + 'static) {
    let (store, writer) = reflector::store();
    let stream = watcher(api, ours())
        .default_backoff()
        .modify(slim_pod)
        .reflect(writer)
        .inspect(move |_| changes.note())
        .touched_objects();
    (store, stream)
}

// Only what the controller made itself is watched.
fn ours() -> watcher::Config {
    let selector = format!("{}={}", labels::LABEL_MANAGED_BY, labels::MANAGED_BY);
    watcher::Config::default().labels(&selector).page_size(PAGE)
}

fn slim_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    pod.spec = None;
}

/// Topic and group of a pipeline: what no two on the same brokers may have in common.
pub(crate) fn topic_and_group(pipeline: &Pipeline) -> Option<(String, String)> {
    let source = &pipeline.0.as_ref().ok()?.spec.source;
    Some((source.topic.clone(), source.group_id.clone()))
}

fn pipeline_name(pod: &Pod) -> Option<(String, String)> {
    Some((pod.namespace()?, pod.labels().get(labels::LABEL_INSTANCE)?.clone()))
}

fn pipeline_of(object: &impl ResourceExt) -> Option<ObjectRef<Pipeline>> {
    let name = object.labels().get(labels::LABEL_INSTANCE)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// Waits until the API server knows the resource, and says how to install it while it does not.
pub(crate) async fn wait_for_crd(client: &Client, namespaces: &[String], mut tell: impl FnMut(String)) {
    let pipelines = api::<AnalyticsPipeline>(client, namespaces.first().map_or("", String::as_str));
    let query = kube::api::ListParams::default().limit(1);
    while let Err(error) = pipelines.list_metadata(&query).await {
        let advice = match &error {
            kube::Error::Api(status) if status.code == 404 => {
                "the resource AnalyticsPipeline is not installed; install it with: kubectl apply --server-side -f crds/analyticspipelines.yaml".to_owned()
            }
            error => format!("AnalyticsPipelines cannot be listed: {error}"),
        };
        tell(advice);
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
}
