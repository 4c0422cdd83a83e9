//! What is not known is not zero.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::place::LATER;
use testbed::wait;
use testbed::{Kafka, KafkaOptions};

use crate::load::{Load, PARTITIONS, replicas, slow_down, spec};
use crate::world::Place;

/// Far longer than consumers stay when it is known that nothing waits: the window of 20 s, four of them where little is saved.
const WATCHED: Duration = Duration::from_secs(120);

/// A broker of its own is taken away under load: lag becomes unknown, the number of consumers stays, and when the broker is
/// back all goes on.
pub(crate) async fn without_a_broker_nothing_is_taken_away(place: &Place<'_>) -> Result<()> {
    let pod_address = place.world.bed.cluster.host_address();
    let mut kafka =
        Kafka::start(KafkaOptions { pod_address, heap_megabytes: 256, ..KafkaOptions::default() }).await?;
    kafka.create_topic(&place.topic, PARTITIONS).await?;
    let mut wanted = spec();
    let brokers = kafka.bootstrap_for_pods().context("no address for pods")?;
    wanted["source"] = json!({"bootstrapServers": brokers});
    place.apply(&place.pipeline("clicks", wanted)?).await?;
    place.ready("clicks").await?;
    slow_down(place).await?;
    let load = Load::start_at(kafka.bootstrap(), &place.topic, 1, 350.0)?;
    let before = place.consumers("more than one under load", |count| count > 1).await?;
    let rows = load.end().await?;
    let before = replicas(place, "clicks").await?.max(i32::try_from(before)?);

    kafka.kill();
    place.condition("clicks", "LagAvailable", "False", "KafkaUnreachable").await?;
    let since = std::time::Instant::now();
    while since.elapsed() < WATCHED {
        let now = replicas(place, "clicks").await?;
        ensure!(now >= before, "{now} of {before} consumers are left because nobody could be asked");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    kafka.restart().await?;
    place.condition("clicks", "LagAvailable", "True", "LagRead").await?;
    wait::until_true(&format!("{rows} rows"), LATER, || async {
        let found = place.rows().await?;
        ensure!(found == rows, "there are {found}");
        Ok(true)
    })
    .await?;
    // Nothing else had held them: now that it is known that nothing waits, they go, in less time than that.
    let known = std::time::Instant::now();
    place.consumers("one when nothing waits", |count| count == 1).await?;
    let seconds = known.elapsed().as_secs();
    eprintln!(
        "consumers went {seconds} s after all was stored; without the broker they stayed for {} s",
        WATCHED.as_secs()
    );
    Ok(())
}
