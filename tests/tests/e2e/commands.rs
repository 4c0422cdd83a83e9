//! `kubectl` is enough to run a pipeline.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::place::LATER;
use testbed::wait;

use crate::world::Place;

pub(crate) async fn kubectl_is_enough(place: &Place<'_>) -> Result<()> {
    place.apply(&place.pipeline("clicks", json!({"scaling": {"mode": "Fixed", "replicas": 1}}))?).await?;
    place.kubectl(&["wait", "--for=condition=Ready", "apl/clicks", "--timeout=240s"]).await?;
    let rows = place.produce(1, 1_000).await?;
    place.stored(rows).await?;

    get(place).await?;
    let everything = place.kubectl(&["get", "analytics"]).await?;
    ensure!(everything.contains("clicks"), "the category lists pipelines: {everything}");
    explain(place).await?;
    scale(place).await?;
    let described = place.kubectl(&["describe", "apl", "clicks"]).await?;
    ensure!(described.contains("ConsumersReady") && described.contains("Events:"), "{described}");
    Ok(())
}

async fn get(place: &Place<'_>) -> Result<()> {
    wait::until_true("kubectl get shows what matters", LATER, || async {
        let table = place.kubectl(&["get", "apl"]).await?;
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let head = lines.next().context("no head")?;
        ensure!(head == ["NAME", "READY", "REPLICAS", "LAG", "LAG-SECONDS", "RATE", "AGE"], "{head:?}");
        let row = lines.next().context("no row")?;
        ensure!(row[..4] == ["clicks", "True", "1", "0"], "{row:?}");
        Ok(true)
    })
    .await
}

async fn explain(place: &Place<'_>) -> Result<()> {
    for (field, word) in [
        ("apl.spec.scaling.targetLagSeconds", "objective, in seconds"),
        ("apl.spec.source.security", "transport security"),
        ("apl.status.lag", "waits in the topic"),
    ] {
        let text = place.kubectl(&["explain", field]).await?;
        ensure!(text.contains(word), "{field}: {text}");
    }
    Ok(())
}

// By the scale subresource, as a HorizontalPodAutoscaler does it.
async fn scale(place: &Place<'_>) -> Result<()> {
    place.kubectl(&["scale", "apl/clicks", "--replicas=2"]).await?;
    place.consumers("as many as asked for", |count| count == 2).await?;
    wait::until_true("the scale subresource counts them", LATER, || async {
        let raw = format!(
            "/apis/analyticspipeline.dev/v1alpha1/namespaces/{}/analyticspipelines/clicks/scale",
            place.namespace
        );
        let scale: serde_json::Value = serde_json::from_str(&place.kubectl(&["get", "--raw", &raw]).await?)?;
        let selector = scale["status"]["selector"].as_str().unwrap_or_default();
        ensure!(scale["status"]["replicas"] == 2 && selector.contains("component=consumer"), "{scale}");
        Ok(true)
    })
    .await?;
    place.apply(&place.pipeline("lagging", json!({"source": {"groupId": "other"}}))?).await?;
    let refused = place.kubectl(&["scale", "apl/lagging", "--replicas=2"]).await;
    let refused =
        format!("{:#}", refused.err().context("scaling a pipeline that is scaled by lag was accepted")?);
    ensure!(refused.contains("`replicas` may not be set when `mode` is Lag"), "{refused}");
    Ok(())
}
