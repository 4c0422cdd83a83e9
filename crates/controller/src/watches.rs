//! What the controller watches: pipelines, and the objects that it made for them.

use std::fmt::Debug;
use std::hash::Hash;

use analytics_api::{AnalyticsPipeline, labels};
use futures::Stream;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::predicates;
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, controller, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::context::Pipeline;

/// Objects made for pipelines, as the watches see them.
pub(crate) struct Stores {
    pub(crate) deployments: Store<Deployment>,
    pub(crate) jobs: Store<Job>,
    pub(crate) pods: Store<Pod>,
    pub(crate) config_maps: Store<PartialObjectMeta<ConfigMap>>,
    pub(crate) services: Store<PartialObjectMeta<Service>>,
    pub(crate) service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub(crate) budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
}

/// The controller with all its watches, and the stores that they fill. `namespace` empty means all namespaces.
pub(crate) fn watch(client: &Client, namespace: &str, concurrency: u16) -> (Controller<Pipeline>, Stores) {
    let (pipelines, trigger) = pipelines(client, namespace);
    let settings = controller::Config::default().concurrency(concurrency);
    let (deployments, deployment_events) = owned(api::<Deployment>(client, namespace), |object| {
        object.metadata.managed_fields = None;
    });
    let (jobs, job_events) =
        owned(api::<Job>(client, namespace), |object| object.metadata.managed_fields = None);
    let (pods, pod_events) = owned(api::<Pod>(client, namespace), slim_pod);
    let (config_maps, config_map_events) =
        owned(api::<PartialObjectMeta<ConfigMap>>(client, namespace), slim);
    let (services, service_events) = owned(api::<PartialObjectMeta<Service>>(client, namespace), slim);
    let (service_accounts, account_events) =
        owned(api::<PartialObjectMeta<ServiceAccount>>(client, namespace), slim);
    let (budgets, budget_events) =
        owned(api::<PartialObjectMeta<PodDisruptionBudget>>(client, namespace), slim);
    let controller = Controller::for_stream(trigger, pipelines)
        .with_config(settings)
        .owns_stream(deployment_events)
        .owns_stream(job_events)
        .owns_stream(config_map_events)
        .owns_stream(service_events)
        .owns_stream(account_events)
        .owns_stream(budget_events)
        // Pods belong to ReplicaSets and Jobs; their label leads to the pipeline.
        .watches_stream(pod_events, |pod: Pod| pipeline_of(&pod));
    (controller, Stores { deployments, jobs, pods, config_maps, services, service_accounts, budgets })
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
) -> (Store<Pipeline>, impl Stream<Item = Result<Pipeline, watcher::Error>> + Send + 'static) {
    let (store, writer) = reflector::store();
    let stream = watcher(api::<Pipeline>(client, namespace), watcher::Config::default())
        .default_backoff()
        .modify(|object: &mut Pipeline| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    (store, stream)
}

// Only what the controller made itself is watched and kept, without what nobody reads.
fn owned<K>(
    api: Api<K>,
    slim: fn(&mut K),
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    let (store, writer) = reflector::store();
    let selector = format!("{}={}", labels::LABEL_MANAGED_BY, labels::MANAGED_BY);
    let stream = watcher(api, watcher::Config::default().labels(&selector))
        .default_backoff()
        .modify(slim)
        .reflect(writer)
        .touched_objects();
    (store, stream)
}

fn slim<K: Resource>(object: &mut PartialObjectMeta<K>) {
    object.metadata.managed_fields = None;
}

fn slim_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    pod.spec = None;
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
