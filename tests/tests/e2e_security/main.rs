//! The operator among servers that insist on encryption and login, and what must hold when things go wrong: credentials that
//! are refused or rotated, a controller that is killed at any moment, a new version of the consumers, and the plugin by which
//! people look at all that.
//!
//! One cluster, one Kafka and one PostgreSQL serve all scenarios; each has a namespace, a topic and a database of its own.

#![allow(clippy::print_stderr)] // how long each scenario took, and what was seen when one failed

mod convergence;
mod place;
mod plugin;
mod refusals;
mod rotation;
mod trust;
mod upgrade;
mod world;

use anyhow::{Result, ensure};
use futures::future::{BoxFuture, FutureExt, join_all};
use place::Place;
use world::World;

type Scenario = for<'a> fn(&'a Place<'a>) -> BoxFuture<'a, Result<()>>;

/// Name of the namespace, and what happens in it.
const SCENARIOS: [(&str, Scenario); 4] = [
    ("plugin", |place| plugin::the_frequent_things_are_short(place).boxed()),
    ("refusals", |place| refusals::what_servers_refuse_is_named(place).boxed()),
    ("rotation", |place| rotation::credentials_are_rotated_without_a_gap(place).boxed()),
    (world::DISTURBED, |place| convergence::a_controller_killed_at_any_moment_converges(place).boxed()),
];

/// After the others, since it replaces the operator and every consumer.
const LAST: (&str, Scenario) =
    ("upgrade", |place| upgrade::a_new_image_comes_one_by_one_and_without_decisions(place).boxed());

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pipelines_among_servers_that_insist() -> Result<()> {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let is_wanted = |(name, _): &&(&'static str, Scenario)| name.contains(&wanted);
    let world = World::start().await?;
    let together = SCENARIOS.iter().filter(is_wanted).map(|scenario| play(&world, scenario));
    let mut outcomes = join_all(together).await;
    for scenario in [&LAST].into_iter().filter(is_wanted) {
        outcomes.push(play(&world, scenario).await);
    }
    let failed: Vec<_> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !failed.is_empty() {
        eprintln!("{}", world.controller_log().await);
    }
    ensure!(failed.is_empty(), "{} scenarios failed:\n\n{}", failed.len(), failed.join("\n\n"));
    Ok(())
}

async fn play(world: &World, (name, scenario): &(&'static str, Scenario)) -> Result<()> {
    let started = std::time::Instant::now();
    let place = Place::make(world, name).await?;
    let mut outcome = scenario(&place).await;
    if outcome.is_ok() {
        // What has been seen shall not take the machine from those who are still at work.
        outcome = place.clear().await;
    }
    let verdict = if outcome.is_ok() { "ok    " } else { "FAILED" };
    eprintln!("{verdict} {name} ({:.0} s)", started.elapsed().as_secs_f32());
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            eprintln!("{}", world.cluster.diagnose(&place.namespace).await);
            Err(error.context(format!("scenario {name}")))
        }
    }
}
