//! Monitoring as a cluster with Prometheus Operator has it: the real operator writes the configuration of a real Prometheus,
//! which finds real consumers and the real controller by what the controller and the chart have made.
//!
//! The operator comes to the cluster after the pipeline, and the controller must take it up without a restart.

#![allow(clippy::print_stderr)] // what was seen when something failed

mod annotations;
mod checks;
mod panels;
mod pictures;
mod stack;
mod traces;
mod world;

use anyhow::{Context, Result};
use world::World;

/// How many records the pipeline gets before anybody watches it.
const EVENTS: u64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn prometheus_operator_finds_what_runs() -> Result<()> {
    let world = World::start().await?;
    let outcome = play(&world).await;
    if outcome.is_err() {
        for namespace in [world::OPERATOR, world::PIPELINES, stack::NAMESPACE] {
            eprintln!("{}", world.bed.cluster.diagnose(namespace).await);
        }
        eprintln!("{}", world.logs().await);
    }
    outcome
}

async fn play(world: &World) -> Result<()> {
    world.install().await.context("install")?;
    world.apply_pipeline().await.context("pipeline")?;
    world.produce_and_await(1, EVENTS).await.context("events")?;
    traces::a_reconcile_tells_what_was_decided_and_written(world).await.context("traces")?;
    let before = world.controller().await?;

    stack::install(world).await.context("Prometheus Operator")?;
    world.switch_monitoring_on().await.context("upgrade")?;
    checks::the_pipeline_has_its_monitor_and_its_alerts(world).await.context("objects of the pipeline")?;
    let prometheus = stack::prometheus(world).await.context("Prometheus")?;

    checks::every_consumer_is_scraped_once(world, &prometheus).await.context("targets")?;
    checks::the_controller_is_scraped(&prometheus).await.context("target of the chart")?;
    checks::the_figures_are_those_of_the_table(world, &prometheus, EVENTS).await.context("figures")?;
    checks::all_rules_are_loaded_and_evaluated(&prometheus).await.context("rules")?;
    tokio::try_join!(async { checks::promtool_finds_no_fault(world).await.context("promtool") }, async {
        panels::those_of_the_controller_show_data(world, &prometheus).await.context("panels")
    },)?;
    annotations::scaling_and_rollouts_leave_their_marks(world, &prometheus).await.context("annotations")?;
    checks::a_pipeline_that_never_ran_has_its_alerts(world, &prometheus).await.context("refused")?;

    let after = world.controller().await?;
    anyhow::ensure!(before == after, "the controller was {before:?} and is {after:?}");
    checks::what_is_disabled_or_deleted_goes(world).await.context("removal")
}
