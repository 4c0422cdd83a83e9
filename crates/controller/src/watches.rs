//! What the controller watches: pipelines, and the objects that it made for them.

use std::fmt::Debug;
use std::hash::Hash;

use analytics_api::{AnalyticsPipeline, labels};
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ObjectMeta, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::predicates;
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, controller, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::context::Pipeline;
use crate::index::{Changes, Index};

/// Objects made for pipelines, as the watches see them.
pub(crate) struct Stores {
    /// By namespace and pipeline.
    pub(crate) pods: Index<Pod>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) jobs: Store<Job>,
    pub(crate) config_maps: Store<PartialObjectMeta<ConfigMap>>,
    pub(crate) services: Store<PartialObjectMeta<Service>>,
    pub(crate) service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub(crate) budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    pub(crate) network_policies: Store<PartialObjectMeta<NetworkPolicy>>,
}

impl Stores {
    /// Waits until every watch has listed what there is: before that, what is not seen may well be there. False if a watch has ended.
    pub(crate) async fn ready(&self) -> bool {
        self.pods.ready().await
            && self.deployments.wait_until_ready().await.is_ok()
            && self.jobs.wait_until_ready().await.is_ok()
            && self.config_maps.wait_until_ready().await.is_ok()
            && self.services.wait_until_ready().await.is_ok()
            && self.service_accounts.wait_until_ready().await.is_ok()
            && self.budgets.wait_until_ready().await.is_ok()
            && self.network_policies.wait_until_ready().await.is_ok()
    }
}

/// The controller with all its watches, its pipelines by topic and group, and the stores that the other watches fill.
/// `namespace` empty means all namespaces.
pub(crate) fn watch(
    client: &Client,
    namespace: &str,
    concurrency: u16,
) -> (Controller<Pipeline>, Index<Pipeline>, Stores) {
    let changes = Changes::default();
    let (pipelines, trigger) = pipelines(client, namespace, changes.clone());
    let by_group = Index::new(pipelines.clone(), changes, topic_and_group);
    let settings = controller::Config::default().concurrency(concurrency);
    let (deployments, deployment_events) = owned(api::<Deployment>(client, namespace), slim_deployment);
    let (jobs, job_events) = owned(api::<Job>(client, namespace), slim_job);
    let changes = Changes::default();
    let (pods, pod_events) = noted(api::<Pod>(client, namespace), slim_pod, changes.clone());
    let pods = Index::new(pods, changes, pipeline_name);
    let (config_maps, config_map_events) =
        owned(api::<PartialObjectMeta<ConfigMap>>(client, namespace), slim);
    let (services, service_events) = owned(api::<PartialObjectMeta<Service>>(client, namespace), slim);
    let (service_accounts, account_events) =
        owned(api::<PartialObjectMeta<ServiceAccount>>(client, namespace), slim);
    let (budgets, budget_events) =
        owned(api::<PartialObjectMeta<PodDisruptionBudget>>(client, namespace), slim);
    let (network_policies, policy_events) =
        owned(api::<PartialObjectMeta<NetworkPolicy>>(client, namespace), slim);
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
) -> (Store<Pipeline>, impl Stream<Item = Result<Pipeline, watcher::Error>> + Send + 'static) {
    let (store, writer) = reflector::store();
    let stream = watcher(api::<Pipeline>(client, namespace), watcher::Config::default())
        .default_backoff()
        .modify(|object: &mut Pipeline| object.meta_mut().managed_fields = None)
        .reflect(writer)
        .inspect(move |_| changes.note())
        .applied_objects()
        .predicate_filter(predicates::generation, PredicateConfig::default());
    (store, stream)
}

fn owned<K>(
    api: Api<K>,
    slim: fn(&mut K),
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    noted(api, slim, Changes::default())
}

// Only what the controller made itself is watched and kept, without what nobody reads.
fn noted<K>(
    api: Api<K>,
    slim: fn(&mut K),
    changes: Changes,
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
        .inspect(move |_| changes.note())
        .touched_objects();
    (store, stream)
}

fn slim<K: Resource>(object: &mut PartialObjectMeta<K>) {
    slim_metadata(&mut object.metadata);
}

// Name, owners and versions are what is asked for.
fn slim_metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.annotations = None;
    metadata.labels = None;
}

fn slim_deployment(deployment: &mut Deployment) {
    slim_metadata(&mut deployment.metadata);
    if let Some(spec) = &mut deployment.spec {
        // What was applied is known by its version.
        *spec = DeploymentSpec { replicas: spec.replicas, ..DeploymentSpec::default() };
    }
}

fn slim_job(job: &mut Job) {
    slim_metadata(&mut job.metadata);
    job.spec = None;
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
