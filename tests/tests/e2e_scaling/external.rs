//! Another autoscaler: the real HorizontalPodAutoscaler controller writes the scale subresource.
//!
//! No metrics API is needed for that: a number outside of its own bounds is brought into them before any metric is read.

use anyhow::{Result, ensure};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use testbed::place::LATER;
use testbed::wait;

use crate::load::replicas;
use crate::world::Place;

/// With the mode External the number is whatever the HorizontalPodAutoscaler says; with the mode Lag it finds
/// no number that it could change.
pub(crate) async fn a_horizontal_pod_autoscaler_decides_alone(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline("clicks", json!({"scaling": {"mode": "External", "replicas": 1}}))?).await?;
    place.consumers("one to begin with", |count| count == 1).await?;

    autoscaler(place, "clicks", 3, 4).await?;
    place.consumers("as many as the autoscaler wants at least", |count| count == 3).await?;
    let message = condition(place, "clicks", "AbleToScale", "True").await?;
    eprintln!("HorizontalPodAutoscaler: AbleToScale, {message}");
    autoscaler(place, "clicks", 1, 2).await?;
    wait::until_true("as many are asked for as the autoscaler wants at most", LATER, || async {
        Ok(replicas(place, "clicks").await? == 2)
    })
    .await?;
    let pipeline = place.pipelines().get("clicks").await?;
    ensure!(
        pipeline.spec.scaling.replicas == Some(2),
        "the scale subresource writes `spec.scaling.replicas`"
    );
    // Two masters would show as one undoing the other.
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let (wanted, asked) =
            (place.pipelines().get("clicks").await?.spec.scaling.replicas, replicas(place, "clicks").await?);
        ensure!(wanted == Some(2) && asked == 2, "somebody fights: {wanted:?} wanted, {asked} asked for");
    }

    let own = json!({"source": {"groupId": "by-lag"}, "scaling": {"minReplicas": 1}});
    place.apply(&place.pipeline("lagging", own)?).await?;
    place.condition("lagging", "Ready", "True", "ConsumersReady").await?;
    autoscaler(place, "lagging", 3, 4).await?;
    let message = condition(place, "lagging", "AbleToScale", "False").await?;
    eprintln!("HorizontalPodAutoscaler where lag decides: not AbleToScale, {message}");
    ensure!(place.pipelines().get("lagging").await?.spec.scaling.replicas.is_none(), "lag decides");
    ensure!(replicas(place, "lagging").await? == 1, "one is enough, whatever another autoscaler thinks");
    Ok(())
}

async fn autoscaler(place: &Place<'_>, name: &str, least: i32, most: i32) -> Result<()> {
    let object = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}],
        }
    });
    api(place).patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?;
    Ok(())
}

fn api(place: &Place<'_>) -> Api<HorizontalPodAutoscaler> {
    Api::namespaced(place.world.client.clone(), &place.namespace)
}

async fn condition(place: &Place<'_>, name: &str, condition: &str, status: &str) -> Result<String> {
    let what = format!("HorizontalPodAutoscaler {name}: {condition}={status}");
    wait::until(&what, LATER, || async {
        let conditions =
            api(place).get(name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        let found = conditions.iter().find(|found| found.type_ == condition);
        ensure!(found.is_some_and(|found| found.status == status), "it is {found:?}");
        Ok(found.and_then(|found| found.message.clone()))
    })
    .await
}
