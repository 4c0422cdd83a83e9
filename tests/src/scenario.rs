//! Plays scenarios side by side, each in a place of its own, and says of each whether, how long and why not.

#![allow(clippy::print_stderr)] // what was seen, for whoever reads a test's output

use std::time::Instant;

use anyhow::{Result, ensure};
use futures::future::{BoxFuture, join_all};

use crate::place::{Place, World};

/// What happens in one place.
pub type Scenario<W> = for<'a> fn(&'a Place<'a, W>) -> BoxFuture<'a, Result<()>>;

/// A scenario by the name of its namespace.
pub type Named<W> = (&'static str, Scenario<W>);

/// Whether a scenario is wanted: those whose name contains the variable `SCENARIO`, all without it.
#[must_use]
pub fn is_wanted(name: &str) -> bool {
    name.contains(&std::env::var("SCENARIO").unwrap_or_default())
}

/// Plays all that are wanted: `together` side by side, in namespaces that are made for them or, with `made`, are there, and then
/// `last`, one after the other.
///
/// # Errors
/// Which failed, and why.
pub async fn play_all<W: World>(
    world: &W,
    together: &[Named<W>],
    last: &[Named<W>],
    made: bool,
) -> Result<()> {
    let wanted = |scenarios: &[Named<W>]| -> Vec<Named<W>> {
        scenarios.iter().copied().filter(|(name, _)| is_wanted(name)).collect()
    };
    let play = |(name, scenario)| play(world, name, scenario, made);
    let mut outcomes = join_all(wanted(together).into_iter().map(play)).await;
    for scenario in wanted(last) {
        outcomes.push(play(scenario).await);
    }
    let failed: Vec<_> =
        outcomes.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if !failed.is_empty() {
        eprintln!("{}", world.controller_log().await);
    }
    ensure!(failed.is_empty(), "{} scenarios failed:\n\n{}", failed.len(), failed.join("\n\n"));
    Ok(())
}

/// Plays one.
///
/// # Errors
/// Why it failed.
pub async fn play<W: World>(world: &W, name: &str, scenario: Scenario<W>, made: bool) -> Result<()> {
    let started = Instant::now();
    let place = if made { Place::within(world, name).await? } else { Place::make(world, name).await? };
    let outcome = scenario(&place).await;
    let seconds = started.elapsed().as_secs();
    match &outcome {
        Ok(()) => eprintln!("ok     {name} ({seconds} s)"),
        Err(error) => {
            eprintln!("FAILED {name} ({seconds} s): {error:#}");
            eprintln!("{}", world.cluster().diagnose(&place.namespace).await);
        }
    }
    outcome.map_err(|error| error.context(format!("scenario {name}")))
}
