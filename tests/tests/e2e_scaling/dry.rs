//! To look at what would be done.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::load::{Load, PARTITIONS, changes, replicas, slow_down, spec, status, stays};
use crate::step::STEP;
use crate::world::Place;

/// Several looks, and long enough for a change that was meant to be made.
const WATCHED: Duration = Duration::from_secs(20);

/// A dry run says what it would do under a load and does nothing, neither then nor after the user has stopped the consumers and
/// let them go on.
pub(crate) async fn a_dry_run_decides_and_changes_nothing(place: &Place<'_>) -> Result<()> {
    place.world.bed.kafka.add_partitions(&place.topic, PARTITIONS).await?;
    let apply = async |suspend: bool| {
        let mut wanted: Value = spec();
        wanted["scaling"]["dryRun"] = json!(true);
        wanted["suspend"] = json!(suspend);
        place.apply(&place.pipeline("clicks", wanted)?).await
    };
    apply(false).await?;
    place.condition("clicks", "Ready", "True", "ConsumersReady").await?;
    slow_down(place).await?;
    let load = Load::start(place, 1, STEP)?;
    let told = status(place, "clicks", "more consumers are wanted", |pipeline| {
        let scaling = pipeline.status.as_ref().and_then(|status| status.scaling.as_ref());
        scaling.is_some_and(|scaling| scaling.desired > 1)
    })
    .await?;
    let scaling = told.status.and_then(|status| status.scaling).unwrap_or_default();
    ensure!(scaling.reason_code.as_deref() == Some("LagAboveTarget"), "{scaling:?}");
    ensure!(
        scaling.reason.is_some_and(|reason| reason.contains("Growing from 1 to ")),
        "no words for people"
    );
    stays(place, "clicks", 1, WATCHED).await?;
    ensure!(changes(place).await?.is_empty(), "nothing was changed, so there is nothing to tell");

    apply(true).await?;
    place.condition("clicks", "Suspended", "True", "Suspended").await?;
    ensure!(replicas(place, "clicks").await? == 0, "suspended");
    apply(false).await?;
    place.consumers("as many as before", |count| count == 1).await?;
    stays(place, "clicks", 1, WATCHED).await?;
    // What has piled up is not worth the time that one slow consumer takes for it.
    sqlx::query("DROP TRIGGER pause ON events").execute(&place.database).await?;
    let rows = load.end().await?;
    place.stored(rows).await
}
