//! A pipeline from its beginning to its end.

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use testbed::place::LATER;
use testbed::wait;

use crate::world::{Place, SOON};

/// One event in a transaction makes a consumer so slow that a small backlog is worth several of them; short windows let a
/// test see the way down.
fn slow_and_lively() -> Value {
    json!({
        "delivery": {"batch": {"maxEvents": 1}},
        "scaling": {
            "minReplicas": 0,
            "maxReplicas": 4,
            "targetLagSeconds": 1,
            "behavior": {"scaleDownStabilizationSeconds": 5, "cooldownSeconds": 5, "idleSeconds": 5}
        }
    })
}

/// Applied → Ready → lag → more consumers → drained → fewer → none → new events → consumers again; every distinct event once.
pub(crate) async fn from_nothing_to_rows_and_back(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline("clicks", slow_and_lively())?).await?;
    place.condition("clicks", "Ready", "True", "Idle").await?;
    ensure!(
        place.deployment("clicks").await?.spec.is_some_and(|spec| spec.replicas == Some(0)),
        "nothing waits"
    );

    // However fast this machine is: more arrives than one consumer can keep within a second, until a second one is
    // there. The backlog is bounded only so that a slow machine can empty it again.
    let mut rows = 0;
    let mut most = 0;
    for seed in 1.. {
        rows += place.produce(seed, 3_000).await?;
        most = most.max(place.ready_pods().await?.len());
        if most >= 2 {
            break;
        }
        ensure!(seed < 200, "a backlog of seconds has not brought a second consumer");
        place.lag_at_most(12_000).await?;
    }
    ensure!(most <= 4, "never more than partitions: {most}");
    place.stored(rows).await?;

    place.consumers("fewer consumers when it is drained", |count| count <= 1).await?;
    place.consumers("none when idle", |count| count == 0).await?;
    place.condition("clicks", "Ready", "True", "Idle").await?;

    let second = place.produce(1_000, 500).await?;
    place.consumers("awake again", |count| count >= 1).await?;
    place.stored(rows + second).await?;
    place.events("clicks", &["ScaledFromZero", "ScaledToZero"]).await
}

/// Deleting the resource removes everything that was made for it, and nothing else.
pub(crate) async fn deletion_leaves_only_the_data(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline("clicks", json!({}))?).await?;
    place.condition("clicks", "Ready", "True", "ConsumersReady").await?;
    let rows = place.produce(3, 1_000).await?;
    place.stored(rows).await?;
    ensure!(
        left::<Job>(place).await? + left::<Deployment>(place).await? == 2,
        "there is something to remove"
    );

    place.pipelines().delete("clicks", &DeleteParams::default()).await?;

    wait::until_true("everything made for the pipeline is gone", LATER, || async {
        let left = [
            left::<Deployment>(place).await?,
            left::<Pod>(place).await?,
            left::<Job>(place).await?,
            left::<Service>(place).await?,
            left::<ServiceAccount>(place).await?,
            left::<ConfigMap>(place).await?,
            left::<PodDisruptionBudget>(place).await?,
        ];
        ensure!(left == [0; 7], "left: {left:?}");
        Ok(true)
    })
    .await?;
    ensure!(place.rows().await? == rows, "the data stays");

    // The same pipeline again goes on where the other ended.
    let more = place.produce(4, 1_000).await?;
    place.apply(&place.pipeline("clicks", json!({}))?).await?;
    place.stored(rows + more).await
}

async fn left<K>(place: &Place<'_>) -> Result<usize>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(place.world.client.clone(), &place.namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=analytics-controller");
    let found = tokio::time::timeout(SOON, api.list_metadata(&ours)).await??;
    Ok(found.items.len())
}
