//! kube-score over what the chart renders and over what the controller makes of a pipeline: every critical finding is either
//! gone or explained here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::{cache, helm};

/// A check of kube-score, and why its finding stays.
type Explained = (&'static str, &'static str);

/// Findings about the controller that stay.
const CONTROLLER: [Explained; 3] = [
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

/// Findings about the objects of a pipeline that stay.
const PIPELINE: [Explained; 4] = [
    ("container-resources", "no CPU limit on purpose: throttling shows up as lag; memory has one"),
    (
        "container-ephemeral-storage-request-and-limit",
        "the root file system is read-only; only log lines take space",
    ),
    (
        "container-image-pull-policy",
        "the user's choice (`consumer.imagePullPolicy`); a version or digest never changes what it names",
    ),
    (
        "pod-networkpolicy",
        "the user's choice (`networkPolicy.mode`): many clusters have no plugin that enforces one",
    ),
];

/// A finding is critical from this grade downwards.
const CRITICAL: i64 = 1;

#[tokio::test]
async fn no_critical_finding_about_the_controller_is_left_unexplained() -> Result<()> {
    let values = json!({"replicas": 2, "networkPolicy": {"enabled": true}, "image": {"registry": "registry.example.com"}});
    let found = score(&helm::render(&values).await?, &CONTROLLER)?;
    idle(&found, &CONTROLLER)
}

/// The golden files are the objects as the controller sends them, once with the fewest fields and once with every one.
#[test]
fn no_critical_finding_about_a_pipelines_objects_is_left_unexplained() -> Result<()> {
    let mut found = BTreeSet::new();
    for which in ["minimal", "full"] {
        let text = golden(which)?;
        for kind in ["Deployment", "Job", "Service", "PodDisruptionBudget"] {
            ensure!(text.contains(&format!("kind: {kind}\n")), "no {kind} among the {which} objects");
        }
        found.append(&mut score(&text, &PIPELINE).context(which)?);
    }
    idle(&found, &PIPELINE)
}

/// What the controller makes of one pipeline, as one YAML text.
fn golden(which: &str) -> Result<String> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/controller/src/pipeline/build/snapshots");
    let prefix = format!("analytics_controller__pipeline__build__tests__{which}_");
    let mut text = String::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("no folder {}", folder.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
            let snapshot = std::fs::read_to_string(&path)?;
            let object = snapshot.splitn(3, "---\n").nth(2).context("a snapshot without a head")?;
            text.push_str("---\n");
            text.push_str(object);
        }
    }
    Ok(text)
}

/// The critical findings about these objects; an error if one is not explained.
fn score(objects: &str, explained: &[Explained]) -> Result<BTreeSet<String>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("objects.yaml");
    std::fs::write(&file, objects)?;
    let mut command = Command::new(cache::part("kube_score")?.join("kube-score"));
    command.args(["score", "--output-format", "json"]).arg(&file);
    // It fails when it finds anything, which is what is looked at here.
    let output = command.output().context("failed to run kube-score")?;
    let scored: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("kube-score printed no JSON: {}", String::from_utf8_lossy(&output.stderr))
    })?;
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
            if critical && !explained.iter().any(|(explained, _)| *explained == id) {
                unexplained.push(format!("{}: {id}: {}", object["object_name"], check["comments"]));
            }
        }
    }
    ensure!(unexplained.is_empty(), "not explained: {unexplained:#?}");
    Ok(found)
}

/// An explanation that nothing needs any more would hide the next finding of its kind.
fn idle(found: &BTreeSet<String>, explained: &[Explained]) -> Result<()> {
    let idle: Vec<_> = explained.iter().filter(|(id, _)| !found.contains(*id)).collect();
    ensure!(idle.is_empty(), "explained, but no longer found: {idle:?}");
    Ok(())
}
