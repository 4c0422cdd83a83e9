//! Helm, and the repository's chart.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{cache, process};

/// The folder of the chart.
#[must_use]
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/analytics-pipeline")
}

/// A `helm` that knows nothing of this user's repositories and plugins, to be given arguments.
///
/// # Errors
/// When Helm has not been prepared.
pub fn command() -> Result<Command> {
    let folder = cache::part("helm")?;
    let mut command = Command::new(folder.join("helm"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HELM_")) {
        command.env_remove(name);
    }
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, folder.join("home"));
    }
    Ok(command)
}

/// Runs `helm` and returns what it printed.
///
/// # Errors
/// When it fails; the error holds what it printed.
pub async fn run(arguments: &[&str]) -> Result<String> {
    let mut command = command()?;
    command.args(arguments);
    process::output(command).await
}

/// Renders the chart as the release `analytics` in the namespace `analytics-system`, with these values.
///
/// # Errors
/// When Helm refuses the values; the error holds what it says.
pub async fn render(values: &Value) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    // JSON is YAML.
    std::fs::write(file.path(), values.to_string())?;
    let mut command = command()?;
    command.args(["template", "analytics"]).arg(chart()).args([
        "--namespace",
        "analytics-system",
        "--values",
    ]);
    command.arg(file.path());
    process::output(command).await
}

/// The objects of a text that holds several YAML documents.
///
/// # Errors
/// When it is no YAML.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("what was rendered is no YAML")?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}
