//! A load of one size, then of another, then none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::commands;
use crate::load::{CAPACITY, Load, PARTITIONS, changes, replicas, slow_down, spec, status};
use crate::world::Place;

/// What three consumers could just not do: four are right, because three of them cannot share eight partitions evenly.
const STEP: f64 = 2.6 * CAPACITY;
/// Fewer could not do it at all.
const ENOUGH: usize = 3;

/// From what little arrives, capacity becomes known; then far more arrives, and one jump leads to what is needed. When the
/// load ends, consumers go quietly, and explain themselves.
pub(crate) async fn a_step_of_load_is_met_with_one_jump_and_its_end_quietly(place: &Place<'_>) -> Result<()> {
    let calm = begin(place, 0.5 * CAPACITY).await?;
    ensure!(replicas(place, "clicks").await? == 1, "half of what one consumer can do needs no second one");

    let load = Load::start(place, 2, STEP - 0.5 * CAPACITY)?;
    let started = Instant::now();
    let ready = place.consumers("as many as are needed", |count| count >= ENOUGH).await?;
    let seconds = started.elapsed().as_secs_f32();
    drained(place).await?;
    let mut up = changes(place).await?;
    up.retain(|note| note.contains("Growing"));
    eprintln!("{ready} consumers ready {seconds:.1} s after a step to {STEP} events/s: {up:#?}");
    ensure!(up.len() <= 3, "one jump, and few more if this machine stumbled: {up:#?}");
    let first = up.first().context("a change of scale is told in an Event")?;
    ensure!(first.contains("Before: ") && first.contains("After (expected): "), "{first}");

    let rows = load.end().await? + calm.end().await?;
    place.stored(rows).await?;
    place.consumers("one when the load is gone", |count| count == 1).await?;
    let all = changes(place).await?;
    let down: Vec<_> = all.iter().skip_while(|note| !note.contains("Shrinking")).collect();
    ensure!((1..=4).contains(&down.len()), "down in a few steps: {down:#?}");
    ensure!(down.iter().all(|note| note.contains("Shrinking")), "down, and never up again: {down:#?}");
    ensure!(place.rows().await? == rows, "nothing was lost and nothing stored twice");
    commands::explain_tells_the_decisions_and_replays_them(place, "clicks").await
}

/// `SOAK_SECONDS` of a load that needs several consumers: at most two changes, the first included.
pub(crate) async fn a_constant_load_changes_nothing(place: &Place<'_>) -> Result<()> {
    let seconds: u64 = std::env::var("SOAK_SECONDS").map_or(Ok(1200), |text| text.parse())?;
    let load = begin(place, STEP).await?;
    let (started, mut seen, mut longest) = (Instant::now(), replicas(place, "clicks").await?, 0);
    let mut course = vec![format!("0 s: {seen}")];
    while started.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = replicas(place, "clicks").await?;
        let pipeline = place.pipelines().get("clicks").await?;
        let lag = pipeline.status.and_then(|status| status.lag?.seconds).unwrap_or_default();
        longest = longest.max(lag);
        if now != seen {
            course.push(format!("{} s: {now}", started.elapsed().as_secs()));
            seen = now;
        }
    }
    let rows = load.end().await?;
    place.stored(rows).await?;
    let changes = changes(place).await?;
    eprintln!("{seconds} s of {STEP} events/s: {rows} rows; {}; oldest event {longest} s", course.join(", "));
    ensure!(changes.len() <= 2, "a constant load is no reason for {} changes: {changes:#?}", changes.len());
    Ok(())
}

/// A pipeline under this load, once the capacity of its consumer is known.
async fn begin(place: &Place<'_>, rate: f64) -> Result<Load> {
    place.world.bed.kafka.add_partitions(&place.topic, PARTITIONS).await?;
    place.apply(&place.pipeline("clicks", spec())?).await?;
    place.ready("clicks").await?;
    slow_down(place).await?;
    let load = Load::start(place, 1, rate)?;
    status(place, "clicks", "load and capacity are known", |pipeline| {
        let rates = pipeline.status.as_ref().and_then(|status| status.rates.as_ref());
        let close = |arrivals: i64| (arrivals as f64 / rate - 1.0).abs() < 0.2;
        rates.is_some_and(|rates| rates.capacity_per_replica.is_some() && rates.arrivals.is_some_and(close))
    })
    .await?;
    Ok(load)
}

/// Waits until the backlog that the step has left is gone while the load goes on.
async fn drained(place: &Place<'_>) -> Result<()> {
    let objective = json!(20);
    ensure!(spec()["scaling"]["targetLagSeconds"] == objective, "the objective of the specification");
    status(place, "clicks", "the backlog of the step is gone", |pipeline| {
        let lag = pipeline.status.as_ref().and_then(|status| status.lag.as_ref());
        lag.is_some_and(|lag| lag.seconds.is_some_and(|seconds| seconds <= 3))
    })
    .await
    .map(drop)
}
