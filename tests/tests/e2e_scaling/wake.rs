//! Sleep.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::load::{Load, PARTITIONS, changes, slow_down, spec, status};
use crate::step::{STEP, drained};
use crate::world::Place;

/// From none to many to none, twice. The first time nobody knows what a consumer can do, so one is tried; that is remembered
/// while it sleeps, and the second time it wakes with as many as it takes.
pub(crate) async fn a_sleeping_pipeline_wakes_at_once_with_what_it_takes(place: &Place<'_>) -> Result<()> {
    place.world.bed.kafka.add_partitions(&place.topic, PARTITIONS).await?;
    let mut wanted = spec();
    wanted["scaling"]["minReplicas"] = json!(0);
    place.apply(&place.pipeline("clicks", wanted)?).await?;
    place.condition("clicks", "Ready", "True", "Idle").await?;
    slow_down(place).await?;

    let load = Load::start(place, 1, STEP)?;
    place.consumers("awake", |count| count >= 1).await?;
    status(place, "clicks", "capacity is known", |pipeline| {
        let rates = pipeline.status.as_ref().and_then(|status| status.rates.as_ref());
        rates.is_some_and(|rates| rates.capacity_per_replica.is_some())
    })
    .await?;
    place.consumers("more than one", |count| count >= 2).await?;
    let mut rows = load.end().await?;
    place.stored(rows).await?;
    place.consumers("none when nothing arrives", |count| count == 0).await?;
    place.condition("clicks", "Ready", "True", "Idle").await?;

    let before = changes(place).await?.len();
    let load = Load::start(place, 2, STEP)?;
    place.consumers("awake again", |count| count >= 2).await?;
    drained(place).await?;
    let woken = changes(place).await?.split_off(before);
    eprintln!("the second time: {woken:#?}");
    let first = woken.first().context("a wake is told in an Event")?;
    let count = first.strip_prefix("Consumers 0 -> ").and_then(|rest| rest.split_once(':')?.0.parse().ok());
    // Two could not even keep up with what arrives; more than there are partitions are never right.
    ensure!(count.is_some_and(|count: i32| (3..=PARTITIONS).contains(&count)), "{woken:#?}");
    // The first look cannot tell a load that begins from a dump; the next ones may find that it takes more.
    let more = woken[1..].iter().filter(|note| note.contains("Growing")).count();
    ensure!(more <= 1, "one jump, and one more at most: {woken:#?}");
    rows += load.end().await?;
    place.stored(rows).await?;
    place.consumers("none again", |count| count == 0).await?;
    place.events("clicks", &["ScaledFromZero", "ScaledToZero"]).await
}
