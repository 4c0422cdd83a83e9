//! A partition that no consumer could move.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::place::LATER;
use testbed::wait;

use crate::load::{CAPACITY, Load, PARTITIONS, changes, decisions, slow_down, spec, status, stays};
use crate::world::Place;

/// The partition that stands still.
const POISONED: i32 = 3;
/// Three quarters of what one consumer can do: it has little to spare for a backlog, so that any that counted would call for more.
const RATE: f64 = 0.75 * CAPACITY;
/// More than what waits while the pipeline is stopped, and less than what waits in the partition until it is known to stand still.
const OBJECTIVE: i32 = 60;
/// By then its events are three times as old as the objective.
const WATCHED: Duration = Duration::from_secs(60);

/// What is stored of a partition is lost from the topic, and the pipeline is told to wait for a person then. Lag grows there,
/// beyond the objective, and more consumers would wait too: none are started, and the person is told. When they have decided,
/// all goes on.
pub(crate) async fn a_partition_that_stands_still_brings_no_consumers(place: &Place<'_>) -> Result<()> {
    let kafka = &place.world.bed.kafka;
    kafka.add_partitions(&place.topic, PARTITIONS).await?;
    let apply = async |suspend: bool, gap: &str| {
        let more = json!({"suspend": suspend, "source": {"onOffsetGap": gap}});
        let mut wanted = place.pipeline("clicks", spec())?;
        merge(&mut wanted["spec"], &more);
        merge(&mut wanted["spec"], &json!({"scaling": {"targetLagSeconds": OBJECTIVE}}));
        place.apply(&wanted).await
    };
    apply(false, "fail").await?;
    place.ready("clicks").await?;
    slow_down(place).await?;
    let load = Load::start(place, 1, RATE)?;
    // Without it nobody could say that more consumers would help.
    status(place, "clicks", "capacity is known", |pipeline| {
        let rates = pipeline.status.as_ref().and_then(|status| status.rates.as_ref());
        rates.is_some_and(|rates| rates.capacity_per_replica.is_some())
    })
    .await?;
    wait::until_true("every partition has an offset", LATER, || async {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM pipeline_offsets WHERE next_offset > 0")
            .fetch_one(&place.database)
            .await?;
        ensure!(count == i64::from(PARTITIONS), "{count} of {PARTITIONS}");
        Ok(true)
    })
    .await?;
    apply(true, "fail").await?;
    place.consumers("none while suspended", |count| count == 0).await?;
    let end = *kafka.end_offsets(&place.topic).await?.get(&POISONED).context("the partition has an end")?;
    wait::until_true("more arrives", LATER, || async {
        Ok(kafka.end_offsets(&place.topic).await?.get(&POISONED).is_some_and(|now| *now > end + 20))
    })
    .await?;
    kafka.delete_records(&place.topic, POISONED, end + 10).await?;
    apply(false, "fail").await?;

    let message = place.condition("clicks", "Stalled", "True", "Detected").await?;
    ensure!(message.contains(&format!("[{POISONED}]")) && message.contains("would not help"), "{message}");
    stays(place, "clicks", 1, WATCHED).await.context("more consumers would stand still too")?;
    let last = decisions(place, "clicks").await?.pop().context("nothing was decided")?;
    let oldest = last.decision.estimates.lag_seconds.unwrap_or_default();
    ensure!(oldest > f64::from(OBJECTIVE), "nobody would have grown for {oldest} s");
    let growth: Vec<_> =
        changes(place).await?.into_iter().filter(|note| note.starts_with("Consumers 1 -> ")).collect();
    ensure!(growth.iter().all(|note| note.starts_with("Consumers 1 -> 0")), "futile: {growth:#?}");

    apply(false, "earliest").await?;
    place.condition("clicks", "Stalled", "False", "NotDetected").await?;
    load.end().await?;
    place.lag_at_most(0).await
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            patch
                .iter()
                .for_each(|(key, value)| merge(target.entry(key.clone()).or_insert(Value::Null), value));
        }
        (target, patch) => *target = patch.clone(),
    }
}
