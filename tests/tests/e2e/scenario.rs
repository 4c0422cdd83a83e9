//! Plays scenarios side by side, each in a place of its own, and says of each whether and how long.

use anyhow::{Result, ensure};
use futures::future::{BoxFuture, join_all};

use crate::world::{Place, World};

/// What happens in one place.
pub(crate) type Scenario = for<'a> fn(&'a Place<'a>) -> BoxFuture<'a, Result<()>>;

/// Plays those scenarios whose name contains the variable `SCENARIO` (all without it); a name is that of the namespace, too.
pub(crate) async fn play_all(scenarios: &[(&str, Scenario)]) -> Result<()> {
    let world = World::start().await?;
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let scenarios = scenarios.iter().filter(|(name, _)| name.contains(&wanted));
    let outcomes = join_all(scenarios.map(|(name, scenario)| play(&world, name, *scenario))).await;
    let failed: Vec<_> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !failed.is_empty() {
        eprintln!("{}", world.controller_log().await);
    }
    ensure!(failed.is_empty(), "{} scenarios failed:\n\n{}", failed.len(), failed.join("\n\n"));
    Ok(())
}

/// Plays one.
pub(crate) async fn play(world: &World, name: &str, scenario: Scenario) -> Result<()> {
    let started = std::time::Instant::now();
    let place = Place::make(world, name).await?;
    let outcome = scenario(&place).await;
    let seconds = started.elapsed().as_secs();
    match &outcome {
        Ok(()) => eprintln!("ok     {name} ({seconds} s)"),
        Err(error) => eprintln!("FAILED {name} ({seconds} s): {error:#}"),
    }
    if let Err(error) = outcome {
        eprintln!("{}", world.bed.cluster.diagnose(&place.namespace).await);
        return Err(error.context(format!("scenario {name}")));
    }
    Ok(())
}
