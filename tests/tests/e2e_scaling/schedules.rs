//! Floors by the clock.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::load::{changes, status};
use crate::world::Place;

/// An open window holds more consumers than an idle pipeline needs; without it they go. A time zone that does not exist is
/// named.
pub(crate) async fn an_open_window_raises_the_floor(place: &Place<'_>) -> Result<()> {
    let with = |schedules: serde_json::Value| {
        let behavior = json!({"scaleDownStabilizationSeconds": 5, "cooldownSeconds": 5, "idleSeconds": 5});
        let scaling = json!({"minReplicas": 0, "behavior": behavior, "schedules": schedules});
        place.pipeline("clicks", json!({"scaling": scaling}))
    };
    // Open since the last full minute, whenever this runs, but for one minute of the year.
    let always = json!({"name": "always", "start": "* * * * *", "end": "0 0 1 1 *", "minReplicas": 3});
    place.apply(&with(json!([]))?).await?;
    place.condition("clicks", "Ready", "True", "Idle").await?;
    place.apply(&with(json!([always]))?).await?;
    place.consumers("as many as the schedule wants", |count| count == 3).await?;
    let pipeline = status(place, "clicks", "the schedule is named", |pipeline| {
        let scaling = pipeline.status.as_ref().and_then(|status| status.scaling.as_ref());
        scaling.is_some_and(|scaling| scaling.schedule.as_deref() == Some("always"))
    })
    .await?;
    ensure!(pipeline.spec.scaling.schedules[0].time_zone == "UTC", "the default of the schema");

    let mut lost = always.clone();
    lost["timeZone"] = json!("Europe/Atlantis");
    place.apply(&with(json!([lost]))?).await?;
    let message = place.condition("clicks", "Reconciled", "False", "InvalidSpec").await?;
    ensure!(message.contains("`Europe/Atlantis`") && message.contains("go on as they were"), "{message}");

    place.apply(&with(json!([]))?).await?;
    place.condition("clicks", "Reconciled", "True", "AsExpected").await?;
    place.consumers("none without the schedule", |count| count == 0).await?;
    let changes = changes(place).await?;
    ensure!(changes.iter().any(|note| note.contains("schedule `always`")), "{changes:#?}");
    Ok(())
}
