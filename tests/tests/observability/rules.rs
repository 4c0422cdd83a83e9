//! Alerts: Prometheus' own tool runs their cases; each has a runbook, and each runbook an alert.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::dashboards::{list, repository};
use testbed::promql::{Selector, selectors};
use testbed::{helm, prometheus};

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

async fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result<String> {
    let files: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
    prometheus::promtool(&[arguments, &files].concat()).await
}

#[tokio::test]
async fn rules_are_valid_and_fire_when_they_should_and_only_then() -> Result<()> {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &files("grafana/alerts", ".yaml")?).await?;
    promtool(&["test", "rules"], &files("grafana/alerts/tests", ".yaml")?).await.map(drop)
}

/// What the chart makes of them is still what Prometheus takes.
#[tokio::test]
async fn the_rules_of_the_chart_are_valid() -> Result<()> {
    let values = serde_json::json!({"prometheusRule": {"enabled": true}});
    let objects = helm::objects(&helm::render(&values).await?)?;
    let rule =
        objects.iter().find(|object| object["kind"] == "PrometheusRule").context("no PrometheusRule")?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), rule["spec"].to_string())?;
    let said = promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &[file.path().to_owned()]).await?;
    ensure!(said.contains("3 rules found"), "{said}");
    Ok(())
}

/// A series of a case and, for one moment of it, the alerts that fire then: names and labels as they are written.
struct Moment {
    series: String,
    firing: Vec<String>,
}

fn moments() -> Result<Vec<Moment>> {
    let mut moments = Vec::new();
    for file in files("grafana/alerts/tests", ".yaml")? {
        let content: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
        for case in list(&content["tests"]) {
            for expectation in list(&case["promql_expr_test"]) {
                let samples = list(&expectation["exp_samples"]).iter();
                let firing: Vec<_> =
                    samples.filter_map(|sample| Some(sample["labels"].as_str()?.to_owned())).collect();
                let series =
                    list(&case["input_series"]).iter().filter_map(|series| series["series"].as_str());
                moments.extend(
                    series.map(|series| Moment { series: series.to_owned(), firing: firing.clone() }),
                );
            }
        }
    }
    Ok(moments)
}

/// Whether the labels of an alert that fires, apart from its name and severity, are those of the series.
fn is_about(firing: &str, series: &str) -> bool {
    let labels = firing.trim_matches(['{', '}']).split(',').map(str::trim);
    let mut labels =
        labels.filter(|label| !label.starts_with("alertname=") && !label.starts_with("severity="));
    labels.all(|label| series.contains(label))
}

/// An alert that cannot fire is worthless, and one that fires where nothing is wrong is worse.
#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_must_not() -> Result<()> {
    let moments = moments()?;
    let recorded: Vec<Value> = rules()?.into_iter().filter(|rule| rule.get("record").is_some()).collect();
    for alert in alerts()? {
        let fires = |moment: &Moment| {
            let name = format!("alertname=\"{alert}\"");
            moment.firing.iter().any(|firing| firing.contains(&name) && is_about(firing, &moment.series))
        };
        let all = rules()?;
        let of_this = all.iter().filter(|rule| rule["alert"] == *alert);
        let direct: Vec<_> =
            of_this.flat_map(|rule| selectors(rule["expr"].as_str().unwrap_or_default())).collect();
        let record = |selector: &Selector| recorded.iter().find(|rule| rule["record"] == selector.name);
        let (records, mut read): (Vec<_>, Vec<_>) =
            direct.into_iter().partition(|selector| record(selector).is_some());
        if read.is_empty() {
            let rules = records.iter().filter_map(record);
            read = rules.flat_map(|rule| selectors(rule["expr"].as_str().unwrap_or_default())).collect();
        }
        // One of its own series: that another fault of the database raises nothing says nothing about this one.
        let of_alert = |moment: &&Moment| read.iter().any(|selector| selector.reads(&moment.series));
        assert!(moments.iter().filter(of_alert).any(fires), "{alert} has no case in which it fires");
        let quiet = moments.iter().filter(of_alert).any(|moment| !fires(moment));
        assert!(quiet, "{alert} has no case in which it must not fire");
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

/// A page that nobody can try may lead astray: `make check-runbooks` causes each.
#[test]
fn each_alert_is_caused_on_purpose_somewhere() -> Result<()> {
    let source = include_str!("../e2e/causes.rs");
    let quoted = source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("Analytics"));
    let tried: BTreeSet<String> = quoted.map(str::to_owned).collect();
    assert_eq!(tried, alerts()?, "alerts that tests/tests/e2e/causes.rs tries, and those there are");
    Ok(())
}
