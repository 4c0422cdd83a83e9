//! The chart on a real cluster with a real Helm: install, upgrade, rollback, uninstall, and two controllers of which one leads.
//!
//! The API server writes down every request of the operator, so that the rights of the chart can be held against the rights
//! that it uses.

#![allow(clippy::print_stderr)] // how long a takeover took, and what was seen when something failed

mod audit;
mod leader;
mod lifecycle;
mod world;

use anyhow::{Context, Result};
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_chart_on_a_real_cluster() -> Result<()> {
    let world = World::start().await?;
    let outcome = play(&world).await;
    if outcome.is_err() {
        for namespace in [world::OPERATOR, world::PIPELINES] {
            eprintln!("{}", world.bed.cluster.diagnose(namespace).await);
        }
        eprintln!("{}", world.controller_logs().await);
    }
    outcome
}

async fn play(world: &World) -> Result<()> {
    lifecycle::an_older_chart_is_installed_and_events_flow(world).await.context("install")?;
    lifecycle::an_upgrade_brings_the_new_definition_and_leaves_consumers_alone(world)
        .await
        .context("upgrade")?;
    leader::a_killed_leader_is_replaced_within_seconds(world).await.context("killed leader")?;
    leader::a_leader_that_was_frozen_gives_way(world).await.context("frozen leader")?;
    lifecycle::every_kind_of_object_is_changed_and_removed(world).await.context("changes")?;
    audit::the_operator_uses_every_right_it_has_and_asks_for_no_other(world).await.context("rights")?;
    audit::never_two_controllers_write(world).await.context("writers")?;
    lifecycle::a_rollback_goes_back(world).await.context("rollback")?;
    lifecycle::an_uninstall_leaves_pipelines_running(world).await.context("uninstall")?;
    lifecycle::with_named_namespaces_and_secrets_nothing_else_can_be_read(world)
        .await
        .context("narrow rights")
}
