//! Changes to a pipeline that runs.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde_json::json;
use testbed::place::{CONSUMERS, LATER};
use testbed::wait;

use crate::world::Place;

/// A new setting reaches the consumers by new pods, and nothing is lost or stored twice on the way.
pub(crate) async fn a_changed_configuration_replaces_the_consumers(place: &Place<'_>) -> Result<()> {
    let fixed = json!({"mode": "Fixed", "replicas": 2});
    place.apply(&place.pipeline("clicks", json!({"scaling": fixed}))?).await?;
    place.consumers("two consumers", |count| count == 2).await?;
    let before = place.pod_names().await?;
    let rows = place.produce(1, 20_000).await?;

    place
        .apply(
            &place
                .pipeline("clicks", json!({"scaling": fixed, "delivery": {"batch": {"maxEvents": 777}}}))?,
        )
        .await?;

    replaced(place, &before, 2).await?;
    place.stored(rows).await?;
    let after = place.pod_names().await?;
    // What does not concern the consumers leaves them alone.
    let more =
        json!({"scaling": fixed, "sink": {"maxConnections": 50}, "delivery": {"batch": {"maxEvents": 777}}});
    place.apply(&place.pipeline("clicks", more)?).await?;
    place.condition("clicks", "Reconciled", "True", "AsExpected").await?;
    ensure!(place.pod_names().await? == after, "the consumers stay");
    Ok(())
}

/// The old password goes, the new one comes, and the consumers follow without being told.
pub(crate) async fn a_rotated_secret_replaces_the_consumers(place: &Place<'_>) -> Result<()> {
    let role = |name: &'static str| async move {
        let statements = [
            format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{name}'"),
            format!("GRANT ALL ON SCHEMA public TO {name}"),
        ];
        for statement in statements {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&place.database).await?;
        }
        anyhow::Ok(())
    };
    role("rotation_old").await?;
    role("rotation_new").await?;
    place.secret("analytics-db", json!({"url": as_role(place, "rotation_old")?})).await?;
    place.apply(&place.pipeline("clicks", json!({"scaling": {"mode": "Fixed", "replicas": 1}}))?).await?;
    place.consumers("a consumer", |count| count == 1).await?;
    let rows = place.produce(1, 1_000).await?;
    place.stored(rows).await?;
    let before = place.pod_names().await?;

    place.secret("analytics-db", json!({"url": as_role(place, "rotation_new")?})).await?;

    replaced(place, &before, 1).await?;
    sqlx::query("ALTER ROLE rotation_old NOLOGIN").execute(&place.database).await?;
    let more = place.produce(2, 1_000).await?;
    place.stored(rows + more).await
}

/// A suspended pipeline has no consumers and keeps its place; resumed, it goes on there.
pub(crate) async fn suspending_loses_nothing(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline("clicks", json!({}))?).await?;
    place.condition("clicks", "Ready", "True", "ConsumersReady").await?;
    let rows = place.produce(1, 2_000).await?;
    place.stored(rows).await?;

    place.apply(&place.pipeline("clicks", json!({"suspend": true}))?).await?;
    place.condition("clicks", "Suspended", "True", "Suspended").await?;
    // Those that still stop count too: they could still store.
    let api = Api::<Pod>::namespaced(place.world.client.clone(), &place.namespace);
    let mut pods = api.list(&ListParams::default().labels(CONSUMERS)).await?.items;
    pods.retain(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !phase.is_some_and(|phase| ["Succeeded", "Failed"].contains(&phase))
    });
    ensure!(pods.is_empty(), "Suspended is True beside {} pods", pods.len());
    let more = place.produce(2, 2_000).await?;
    wait::until_true("the status shows what waits", LATER, || async {
        let status = place.pipelines().get("clicks").await?.status.context("no status")?;
        ensure!(status.lag.as_ref().is_some_and(|lag| lag.events == 2_000), "{:?}", status.lag);
        Ok(true)
    })
    .await?;
    ensure!(place.rows().await? == rows, "nothing is stored while suspended");

    place.apply(&place.pipeline("clicks", json!({"suspend": false}))?).await?;
    place.stored(rows + more).await?;
    place.condition("clicks", "Suspended", "False", "NotSuspended").await?;
    place.events("clicks", &["Suspended", "Resumed"]).await
}

async fn replaced(place: &Place<'_>, before: &[String], count: usize) -> Result<()> {
    wait::until_true("every consumer is a new one", LATER, || async {
        let now = place.pod_names().await?;
        ensure!(now.len() == count && now.iter().all(|name| !before.contains(name)), "{before:?} -> {now:?}");
        Ok(true)
    })
    .await
}

fn as_role(place: &Place<'_>, role: &str) -> Result<String> {
    let url = place.url_for_pods()?;
    let (_, server) = url.rsplit_once('@').context("the URL names a user")?;
    Ok(format!("postgres://{role}:{role}@{server}"))
}
