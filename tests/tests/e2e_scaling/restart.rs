//! A controller that ends in the middle of its work.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams};
use testbed::place::LATER;
use testbed::wait;

use crate::load::{decisions, replicas, stays};
use crate::step::{RIGHT, STEP, begin, drained};
use crate::world::Place;

const OPERATOR: &str = "analytics-system";
const CONTROLLER: &str = "app.kubernetes.io/component=controller";
/// Longer than a Lease lasts that nobody gives back, and than windows that were begun anew.
const WATCHED: Duration = Duration::from_secs(60);

/// The controller is killed while lag holds more consumers than the least. Its successor, who has seen nothing, changes nothing, and
/// knows from its first decision on what a consumer can do.
pub(crate) async fn a_new_controller_goes_on_where_the_killed_one_was(place: &Place<'_>) -> Result<()> {
    let load = begin(place, STEP).await?;
    place.consumers("as many as are needed", |count| count >= RIGHT).await?;
    drained(place).await?;
    let before = replicas(place, "clicks").await?;
    let last = decisions(place, "clicks").await?.pop().context("nothing was decided")?;

    let pods = Api::<Pod>::namespaced(place.world.client.clone(), OPERATOR);
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let old = pods.list(&ListParams::default().labels(CONTROLLER)).await?.items;
    for pod in &old {
        let name = pod.metadata.name.as_deref().context("a pod has a name")?;
        pods.delete(name, &at_once).await?;
    }
    stays(place, "clicks", before, WATCHED).await?;

    let first = wait::until("the new controller has decided", LATER, || async {
        let decisions = decisions(place, "clicks").await?;
        Ok(decisions.into_iter().find(|one| one.observation.time > last.observation.time))
    })
    .await?;
    let capacity = |one: &autoscaler::Replayed| one.decision.estimates.capacity_per_replica;
    let (was, is) = (capacity(&last).context("it was known")?, capacity(&first).context("it is forgotten")?);
    eprintln!(
        "capacity of a consumer: {was:.0} events/s before, {is:.0} by the new controller's first decision"
    );
    ensure!((is / was - 1.0).abs() < 0.5, "{was} before, {is} after");
    stays(place, "clicks", before, Duration::from_secs(15)).await?;
    load.end().await.map(drop)
}
