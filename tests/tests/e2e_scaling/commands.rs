//! What a person can ask about decisions.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use testbed::{plugin_binary, process};

use crate::world::Place;

/// The plugin tells the last decision from what the leading controller has recorded, and makes all of them again.
pub(crate) async fn explain_tells_the_decisions_and_replays_them(
    place: &Place<'_>,
    name: &str,
) -> Result<()> {
    let explained = plugin(place, &["explain", name]).await?;
    for words in [
        "Wanted: no event waits longer than",
        "Decided: 1 consumers",
        "Last look, at ",
        "  seen:  ",
        "  needed:  ",
        "Growing from 1 to ",
    ] {
        ensure!(explained.contains(words), "`{words}` is not in\n{explained}");
    }
    let recording = plugin(place, &["explain", name, "--record"]).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("decisions.jsonl");
    fs::write(&file, recording)?;
    let path = file.display().to_string();
    let replayed = plugin(place, &["explain", "--replay", &path]).await?;
    ensure!(replayed.contains("Every decision is the recorded one, bit for bit."), "{replayed}");

    // Somebody says that nobody was ready when it was decided.
    let changed = fs::read_to_string(&file)?.replacen("\"ready\":1", "\"ready\":0", 1);
    fs::write(&file, changed)?;
    let refused = plugin(place, &["explain", "--replay", &path]).await;
    ensure!(refused.is_err(), "a changed recording is taken for a true one");
    Ok(())
}

/// What `kubectl apl` says.
pub(crate) async fn plugin(place: &Place<'_>, words: &[&str]) -> Result<String> {
    let mut command = Command::new(plugin_binary()?);
    command
        .env("KUBECONFIG", place.world.bed.cluster.kubeconfig())
        .args(["-n", &place.namespace])
        .args(words);
    process::output(command).await
}
