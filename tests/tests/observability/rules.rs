//! Alerts: Prometheus' own tool runs their cases; each has a runbook, and each runbook an alert.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{cache, process};

use crate::dashboards::{list, repository};

/// The files of a folder that end like this.
fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(repository().join(folder)).with_context(|| folder.to_owned())?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    ensure!(!files.is_empty(), "{folder} holds nothing that ends with {ending}");
    Ok(files)
}

/// All rules of all files.
pub(crate) fn rules() -> Result<Vec<Value>> {
    let mut rules = Vec::new();
    for file in files("grafana/alerts", ".yaml")? {
        let content: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
        for group in list(&content["groups"]) {
            rules.extend(list(&group["rules"]).iter().cloned());
        }
    }
    Ok(rules)
}

fn alerts() -> Result<BTreeSet<String>> {
    Ok(rules()?.iter().filter_map(|rule| Some(rule["alert"].as_str()?.to_owned())).collect())
}

async fn promtool(arguments: &[&str], files: Vec<PathBuf>) -> Result<String> {
    let mut command = Command::new(cache::program("promtool")?);
    command.args(arguments).args(files);
    process::output(command).await
}

#[tokio::test]
async fn rules_are_valid_and_fire_when_they_should_and_only_then() -> Result<()> {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], files("grafana/alerts", ".yaml")?).await?;
    promtool(&["test", "rules"], files("grafana/alerts/tests", ".yaml")?).await.map(drop)
}

#[test]
fn each_alert_has_a_case_in_which_it_fires() -> Result<()> {
    let mut cases = String::new();
    for file in files("grafana/alerts/tests", ".yaml")? {
        cases.push_str(&std::fs::read_to_string(file)?);
    }
    for alert in alerts()? {
        assert!(cases.contains(&format!("alertname=\"{alert}\"")), "{alert} has no case in which it fires");
    }
    Ok(())
}

#[test]
fn each_alert_says_what_it_is_how_bad_it_is_and_where_its_runbook_is() -> Result<()> {
    for rule in rules()?.iter().filter(|rule| rule.get("alert").is_some()) {
        let name = rule["alert"].as_str().unwrap_or_default();
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity}");
        for annotation in ["summary", "description"] {
            assert!(
                rule["annotations"][annotation].as_str().is_some_and(|text| text.len() > 20),
                "{name}: {annotation}"
            );
        }
        let runbook = rule["annotations"]["runbook_url"].as_str().unwrap_or_default();
        assert_eq!(runbook, format!("docs/runbooks/{name}.md"));
    }
    Ok(())
}

#[test]
fn runbooks_and_alerts_are_one_to_one_and_each_runbook_is_complete() -> Result<()> {
    let mut pages = BTreeSet::new();
    let index = std::fs::read_to_string(repository().join("docs/runbooks/README.md"))?;
    for file in files("docs/runbooks", ".md")? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "README" {
            continue;
        }
        let page = std::fs::read_to_string(&file)?;
        let mut rest = page.as_str();
        for part in [
            &format!("# {name}\n") as &str,
            "\n## Meaning\n",
            "\n## Impact\n",
            "\n## Diagnosis\n",
            "\n## Mitigation\n",
        ] {
            rest = rest.split_once(part).with_context(|| format!("{name}: no {part}"))?.1;
        }
        let commands = page.split("```").nth(1).map_or(0, |block| block.lines().count() - 1);
        assert!(commands >= 3, "{name}: {commands} commands");
        assert!(index.contains(&format!("]({name}.md)")), "the index lacks {name}");
        pages.insert(name);
    }
    assert_eq!(pages, alerts()?);
    Ok(())
}
