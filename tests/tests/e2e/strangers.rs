//! Hands of others: objects that were there before, and objects that somebody changed.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use testbed::place::LATER;
use testbed::wait;

use crate::world::Place;

/// What belongs to somebody else is left alone, and named.
pub(crate) async fn foreign_objects_are_left_alone(place: &Place<'_>) -> Result<()> {
    let services = Api::<Service>::namespaced(place.world.client.clone(), &place.namespace);
    let foreign: Service = serde_json::from_value(json!({
        "metadata": {"name": "clicks-consumer"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}
    }))?;
    services.create(&PostParams::default(), &foreign).await?;
    place.apply(&place.pipeline("clicks", json!({}))?).await?;

    let message = place.condition("clicks", "Reconciled", "False", "ForeignObject").await?;
    ensure!(message.contains("Service `clicks-consumer`"), "{message}");
    let kept =
        services.get("clicks-consumer").await?.spec.and_then(|spec| spec.selector).context("a selector")?;
    ensure!(kept.get("app").is_some_and(|app| app == "theirs"), "the Service was taken over: {kept:?}");

    services.delete("clicks-consumer", &DeleteParams::default()).await?;
    place.condition("clicks", "Reconciled", "True", "AsExpected").await?;
    place.ready("clicks").await
}

/// What was made for a pipeline and changed or deleted by hand comes back, and an Event says so.
pub(crate) async fn changes_by_hand_are_put_right(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline("clicks", json!({"scaling": {"mode": "Fixed", "replicas": 1}}))?).await?;
    place.condition("clicks", "Ready", "True", "ConsumersReady").await?;

    let deployments = Api::<k8s_openapi::api::apps::v1::Deployment>::namespaced(
        place.world.client.clone(),
        &place.namespace,
    );
    let by_hand = Patch::Merge(json!({"spec": {"replicas": 3, "minReadySeconds": 0}}));
    deployments.patch("clicks-consumer", &PatchParams::default(), &by_hand).await?;
    wait::until_true("the Deployment is as described again", LATER, || async {
        let replicas = place.deployment("clicks").await?.spec.and_then(|spec| spec.replicas);
        ensure!(replicas == Some(1), "{replicas:?} replicas");
        Ok(true)
    })
    .await?;

    let config_maps = Api::<ConfigMap>::namespaced(place.world.client.clone(), &place.namespace);
    let before = config_maps.get("clicks-consumer").await?.data;
    config_maps.delete("clicks-consumer", &DeleteParams::default()).await?;
    wait::until_true("the ConfigMap is back", LATER, || async {
        let after = config_maps.get("clicks-consumer").await?.data;
        ensure!(after == before, "{after:?}");
        Ok(true)
    })
    .await?;
    place.events("clicks", &["PutRight"]).await
}
