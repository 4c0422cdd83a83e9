//! The operator among servers that insist on encryption and login, and what must hold when things go wrong: credentials that
//! are refused or rotated, a controller that is killed at any moment, a new version of the consumers, and the plugin by which
//! people look at all that.
//!
//! One cluster, one Kafka and one PostgreSQL serve all scenarios; each has a namespace, a topic and a database of its own.

mod convergence;
mod plugin;
mod refusals;
mod rotation;
mod trust;
mod upgrade;
mod world;

use std::future::Future;

use anyhow::Result;
use futures::future::FutureExt;
use testbed::scenario::{Named, play_all};
use world::{Place, World};

/// Name of the namespace, and what happens in it.
const SCENARIOS: [Named<World>; 4] = [
    ("plugin", |place| cleared(place, plugin::the_frequent_things_are_short(place)).boxed()),
    ("refusals", |place| cleared(place, refusals::what_servers_refuse_is_named(place)).boxed()),
    ("rotation", |place| cleared(place, rotation::credentials_are_rotated_without_a_gap(place)).boxed()),
    (world::DISTURBED, |place| {
        cleared(place, convergence::a_controller_killed_at_any_moment_converges(place)).boxed()
    }),
];

/// After the others, since it replaces the operator and every consumer.
const LAST: [Named<World>; 1] =
    [("upgrade", |place| upgrade::a_new_image_comes_one_by_one_and_without_decisions(place).boxed())];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pipelines_among_servers_that_insist() -> Result<()> {
    play_all(&World::start().await?, &SCENARIOS, &LAST, true).await
}

// What has been seen shall not take the machine from those who are still at work.
async fn cleared(place: &Place<'_>, scenario: impl Future<Output = Result<()>>) -> Result<()> {
    scenario.await?;
    place.clear().await
}
