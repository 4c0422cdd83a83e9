//! kube-score over what the chart renders: every critical finding is either gone or explained here.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testbed::{cache, helm};

/// Findings that stay, and why.
const EXPLAINED: [(&str, &str); 3] = [
    ("container-resources", "no CPU limit on purpose: throttling would make reactions late; memory has one"),
    (
        "container-ephemeral-storage-request-and-limit",
        "the root file system is read-only; only log lines take space",
    ),
    (
        "container-image-pull-policy",
        "releases are named by version or digest, which never changes what it names",
    ),
];

/// A finding is critical from this grade downwards.
const CRITICAL: i64 = 1;

#[tokio::test]
async fn no_critical_finding_is_left_unexplained() -> Result<()> {
    let values = json!({"replicas": 2, "networkPolicy": {"enabled": true}, "image": {"registry": "registry.example.com"}});
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rendered.yaml");
    std::fs::write(&file, helm::render(&values).await?)?;
    let mut command = Command::new(cache::part("kube_score")?.join("kube-score"));
    command.args(["score", "--output-format", "json"]).arg(&file);
    // It fails when it finds anything, which is what is looked at here.
    let output = command.output().context("failed to run kube-score")?;
    let scored: Value = serde_json::from_slice(&output.stdout).context("kube-score printed no JSON")?;
    let mut found = BTreeSet::new();
    let mut unexplained = Vec::new();
    for object in scored.as_array().context("no list of objects")? {
        for check in object["checks"].as_array().into_iter().flatten() {
            let critical =
                check["skipped"] == false && check["grade"].as_i64().is_some_and(|grade| grade <= CRITICAL);
            let id = check["check"]["id"].as_str().unwrap_or_default();
            if critical {
                found.insert(id.to_owned());
            }
            if critical && !EXPLAINED.iter().any(|(explained, _)| *explained == id) {
                unexplained.push(format!("{}: {id}: {}", object["object_name"], check["comments"]));
            }
        }
    }
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    let idle: Vec<_> = EXPLAINED.iter().filter(|(id, _)| !found.contains(*id)).collect();
    assert!(idle.is_empty(), "explained, but no longer found: {idle:?}");
    Ok(())
}
