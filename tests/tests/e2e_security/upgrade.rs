//! A new version of the consumers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;
use testbed::Image;
use testbed::place::LATER;
use tokio_util::sync::CancellationToken;

use crate::world::Place;

const PIPELINE: &str = "clicks";
const NEXT: &str = "analytics-pipeline:next";
/// Between two looks at the Deployment.
const LOOK: Duration = Duration::from_millis(100);

/// The consumers are replaced one by one; at each moment there are as many as before, and although events pile up, their number
/// is not changed meanwhile.
pub(crate) async fn a_new_image_comes_one_by_one_and_without_decisions(place: &Place<'_>) -> Result<()> {
    place.world.cluster.tag_image(Image::NAME, NEXT).await?;
    // One event in a transaction makes consumers so slow that a small backlog calls for more of them.
    let spec = json!({
        "delivery": {"batch": {"maxEvents": 1}},
        "scaling": {"minReplicas": 2, "maxReplicas": 4, "targetLagSeconds": 1},
    });
    place.apply(&place.pipeline(PIPELINE, spec)?).await?;
    place.consumers("two consumers", |count| count == 2).await?;
    let before = place.pod_names().await?;

    let stop = CancellationToken::new();
    let load = pile_up(place, &stop);
    let upgrade = async {
        let value = format!("consumerImage={NEXT}");
        let values = [value.as_str()];
        let upgrade = place.world.helm("upgrade", &values, &["--reset-then-reuse-values"]);
        let (upgraded, seen) = tokio::join!(upgrade, watch(place));
        stop.cancel();
        upgraded.and(seen)
    };
    let (rows, seen) = tokio::join!(load, upgrade);
    let (rows, seen) = (rows?, seen?);
    eprintln!("upgrade: {seen:?}");
    ensure!(seen.looks > 0, "the rollout was not seen");
    ensure!(
        seen.numbers.len() == 1,
        "the number of consumers was changed in the rollout: {:?}",
        seen.numbers
    );
    let (wanted, had) = (seen.numbers[0], i32::try_from(before.len())?);
    // More may have been on their way when it began. One that is slow to answer on a busy machine is not gone.
    ensure!(
        seen.fewest_ready >= had - 1,
        "only {} consumers were ready, and {had} before",
        seen.fewest_ready
    );
    ensure!(
        seen.most_pods <= wanted + 1,
        "{} pods instead of {wanted}: more than one at a time",
        seen.most_pods
    );
    let after = place.pod_names().await?;
    ensure!(after.iter().all(|name| !before.contains(name)), "{before:?}, then {after:?}");
    place.stored(rows).await
}

/// Sends events as long as not too many wait, until it is stopped; gives back how many rows there shall be.
async fn pile_up(place: &Place<'_>, stop: &CancellationToken) -> Result<i64> {
    let mut rows = 0;
    for seed in 1.. {
        rows += place.produce(seed, 500).await?;
        while !stop.is_cancelled() && place.lag().await? > 1_500 {
            tokio::time::sleep(LOOK).await;
        }
        if stop.is_cancelled() {
            break;
        }
    }
    Ok(rows)
}

/// What was seen from the first to the last moment of the rollout.
#[derive(Debug, Default)]
struct Seen {
    looks: usize,
    /// Different numbers of consumers that the Deployment asked for.
    numbers: Vec<i32>,
    fewest_ready: i32,
    most_pods: i32,
}

async fn watch(place: &Place<'_>) -> Result<Seen> {
    let mut seen = Seen { fewest_ready: i32::MAX, ..Seen::default() };
    let deadline = tokio::time::Instant::now() + LATER;
    loop {
        let deployment = place.deployment(PIPELINE).await?;
        let status = deployment.status.clone().unwrap_or_default();
        let (pods, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
        let current = status.observed_generation == deployment.metadata.generation;
        if current && image(&deployment)? == NEXT {
            if pods == updated {
                return Ok(seen);
            }
            let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            if !seen.numbers.contains(&wanted) {
                seen.numbers.push(wanted);
            }
            seen.looks += 1;
            seen.fewest_ready = seen.fewest_ready.min(status.ready_replicas.unwrap_or(0));
            seen.most_pods = seen.most_pods.max(pods);
        }
        ensure!(tokio::time::Instant::now() < deadline, "the rollout is not over: {status:?}");
        tokio::time::sleep(LOOK).await;
    }
}

fn image(deployment: &Deployment) -> Result<String> {
    let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    pod.and_then(|pod| pod.containers.first()?.image.clone()).context("a Deployment without a container")
}
