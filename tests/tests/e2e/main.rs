//! The whole path on a real cluster: what a user applies, what comes of it, and what they are told when it cannot.
//!
//! One cluster, one Kafka and one PostgreSQL serve all scenarios; each has a namespace, a topic and a database of its own, so
//! they run side by side. The operator is installed as a user would install it, with its own rights and no more.

mod bad_input;
mod causes;
mod commands;
mod configuration;
mod lifecycle;
mod readme;
mod runbooks;
mod strangers;
mod world;

use anyhow::Result;
use futures::future::FutureExt;
use testbed::scenario::{Named, play_all};
use world::World;

/// Name of the namespace, and what happens in it.
const SCENARIOS: [Named<World>; 12] = [
    ("lifecycle", |place| lifecycle::from_nothing_to_rows_and_back(place).boxed()),
    ("deletion", |place| lifecycle::deletion_leaves_only_the_data(place).boxed()),
    ("rollout", |place| configuration::a_changed_configuration_replaces_the_consumers(place).boxed()),
    ("rotation", |place| configuration::a_rotated_secret_replaces_the_consumers(place).boxed()),
    ("suspension", |place| configuration::suspending_loses_nothing(place).boxed()),
    ("commands", |place| commands::kubectl_is_enough(place).boxed()),
    ("secrets", |place| bad_input::missing_secrets_are_named(place).boxed()),
    ("servers", |place| bad_input::servers_that_refuse_are_named(place).boxed()),
    ("foreigners", |place| strangers::foreign_objects_are_left_alone(place).boxed()),
    ("hands", |place| strangers::changes_by_hand_are_put_right(place).boxed()),
    ("readme", |place| readme::a_stranger_gets_rows(place).boxed()),
    ("refusals", |place| bad_input::contradictions_are_refused(place).boxed()),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pipelines_on_a_real_cluster() -> Result<()> {
    play_all(&World::start().await?, &SCENARIOS, &[], false).await
}
