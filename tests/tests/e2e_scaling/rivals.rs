//! Somebody who scales the Deployment itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::place::LATER;
use testbed::wait;

use crate::load::{replicas, status, stays};
use crate::world::Place;

/// So often a hand may slip.
const PUT_RIGHT: usize = 2;
/// Longer than any look at the Deployment takes to come.
const WATCHED: Duration = Duration::from_secs(30);

/// One who scales the Deployment is put right twice; then it is said who fights, and the number is left alone. Only a pipeline
/// that shall not run does not.
pub(crate) async fn who_insists_on_scaling_the_deployment_is_named_and_left_alone(
    place: &Place<'_>,
) -> Result<()> {
    let apply = async |suspend: bool| {
        let wanted = json!({"suspend": suspend, "scaling": {"mode": "Fixed", "replicas": 1}});
        place.apply(&place.pipeline("clicks", wanted)?).await
    };
    apply(false).await?;
    place.consumers("as many as the user wants", |count| count == 1).await?;
    for round in 0..=PUT_RIGHT {
        place.kubectl(&["scale", "deployment/clicks-consumer", "--replicas=2"]).await?;
        if round < PUT_RIGHT {
            wait::until_true("the Deployment is put right", LATER, || async {
                Ok(replicas(place, "clicks").await? == 1)
            })
            .await?;
        }
    }
    let message = place.condition("clicks", "ScalingConflict", "True", "ScaledByOthers").await?;
    ensure!(message.contains("`kubectl`") && message.contains("clicks-consumer"), "{message}");
    stays(place, "clicks", 2, WATCHED).await?;
    let pipeline = status(place, "clicks", "the status says whose number it is", |pipeline| {
        let scaling = pipeline.status.as_ref().and_then(|status| status.scaling.as_ref());
        scaling.is_some_and(|scaling| scaling.reason_code.as_deref() == Some("SetByOthers"))
    })
    .await?;
    let desired = pipeline.status.and_then(|status| status.scaling).context("no status")?.desired;
    ensure!(desired == 2, "{desired} are shown");
    place.events("clicks", &["PutRight", "ScalingConflict"]).await?;

    apply(true).await?;
    place.consumers("none, whoever wants some", |count| count == 0).await.map(drop)
}
