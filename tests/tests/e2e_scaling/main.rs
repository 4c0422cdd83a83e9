//! The number of consumers on a real cluster: a step of load, its end, and what must not move it.
//!
//! One cluster serves all scenarios, each with a namespace, a topic and a database of its own. What one consumer can store is
//! set by a pause with every row (see `load.rs`) and not by how fast this machine is, so that the right number of
//! consumers is known beforehand. How long something takes is printed, and asserted only where the machine is idle.

mod broker;
mod commands;
mod dry;
mod external;
mod load;
mod restart;
mod rivals;
mod schedules;
mod stall;
mod step;
mod wake;
#[allow(dead_code, reason = "shared with the other end-to-end tests, which need more of it")]
#[path = "../e2e/world.rs"]
mod world;

use anyhow::Result;
use futures::future::FutureExt;
use testbed::scenario::{self, Named};
use world::World;

/// Name of the namespace, and what happens in it.
const SCENARIOS: [Named<World>; 8] = [
    ("step", |place| step::a_step_of_load_is_met_with_one_jump_and_its_end_quietly(place).boxed()),
    ("schedules", |place| schedules::an_open_window_raises_the_floor(place).boxed()),
    ("external", |place| external::a_horizontal_pod_autoscaler_decides_alone(place).boxed()),
    ("broker", |place| broker::without_a_broker_nothing_is_taken_away(place).boxed()),
    ("stall", |place| stall::a_partition_that_stands_still_brings_no_consumers(place).boxed()),
    ("wake", |place| wake::a_sleeping_pipeline_wakes_at_once_with_what_it_takes(place).boxed()),
    ("dry", |place| dry::a_dry_run_decides_and_changes_nothing(place).boxed()),
    ("rivals", |place| rivals::who_insists_on_scaling_the_deployment_is_named_and_left_alone(place).boxed()),
];

/// When the others have ended, for it ends the controller of all.
const LAST: [Named<World>; 1] =
    [("restart", |place| restart::a_new_controller_goes_on_where_the_killed_one_was(place).boxed())];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consumers_follow_the_load_and_nothing_else() -> Result<()> {
    scenario::play_all(&World::start().await?, &SCENARIOS, &LAST, false).await
}

/// `make soak`: minutes of a constant load, which is no reason to change anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes SOAK_SECONDS (1200)"]
async fn soak() -> Result<()> {
    let world = World::start().await?;
    scenario::play(&world, "soak", |place| step::a_constant_load_changes_nothing(place).boxed(), false).await
}
