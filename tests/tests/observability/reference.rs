//! The metrics reference is what the binaries say, and everything that names a metric names one that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::dashboards::{Dashboard, fill, list, queries};
use testbed::process;
use testbed::promql::{grouping, metric_names};

use crate::links::pages;
use crate::rules::rules;
use crate::support::Bed;

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Made by Prometheus itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];
/// Labels that Prometheus gives to what it scrapes.
const OF_TARGETS: [&str; 5] = ["namespace", "pipeline", "pod", "instance", "job"];

/// How the name of a metric begins or ends, among the words of a document.
const BEGINNINGS: [&str; 3] = ["analytics_controller_", "analytics_pipeline_", "kafka_consumer_"];
const ENDINGS: [&str; 7] = ["_total", "_seconds", "_bytes", "_bucket", "_sum", "_count", "_ratio"];
/// Documents name these of others, and this of none.
const OF_OTHERS: [&str; 5] =
    ["kubelet_volume_stats_available_bytes", "node_filesystem_avail_bytes", "x_bucket", "x_sum", "x_count"];

async fn said(part: &str) -> Result<String> {
    let program =
        if part == "consumer" { testbed::consumer_binary()? } else { testbed::controller_binary()? };
    let mut command = Command::new(program);
    command.arg("metrics-reference");
    process::output(command).await
}

#[tokio::test]
async fn the_metrics_page_is_what_the_binaries_say() -> Result<()> {
    for part in ["consumer", "controller"] {
        let (_, rest) = PAGE.split_once(&format!("<!-- begin {part} -->\n")).context("no begin marker")?;
        let (written, _) = rest.split_once(&format!("<!-- end {part} -->")).context("no end marker")?;
        assert!(
            written == said(part).await?,
            "docs/metrics.md is out of date for the {part}: run `make metrics`"
        );
    }
    Ok(())
}

/// Type of each metric by name, the series of histograms included.
async fn series() -> Result<BTreeMap<String, String>> {
    let mut series = BTreeMap::new();
    for part in ["consumer", "controller"] {
        for row in said(part).await?.lines().skip(2) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let (name, kind) = (cells[1].trim_matches('`').to_owned(), cells[2].to_owned());
            if kind == "histogram" {
                for suffix in ["_bucket", "_sum", "_count"] {
                    series.insert(format!("{name}{suffix}"), "counter".to_owned());
                }
            } else {
                series.insert(name, kind);
            }
        }
    }
    ensure!(series.len() > 30, "only {} series are described", series.len());
    Ok(series)
}

#[tokio::test]
async fn dashboards_and_rules_name_only_metrics_that_exist() -> Result<()> {
    let mut known: BTreeSet<String> = series().await?.into_keys().collect();
    known.extend(OF_PROMETHEUS.map(str::to_owned));
    let rules = rules()?;
    known.extend(rules.iter().filter_map(|rule| Some(rule["record"].as_str()?.to_owned())));
    let mut expressions: Vec<(String, String)> = Vec::new();
    for rule in &rules {
        expressions.push(("a rule".to_owned(), rule["expr"].as_str().unwrap_or_default().to_owned()));
    }
    for dashboard in Dashboard::all()? {
        for expression in dashboard.annotations() {
            expressions.push((dashboard.name.clone(), fill(expression)));
        }
        for query in dashboard.panels().into_iter().flat_map(queries) {
            if let testbed::dashboards::Query::Metrics { expression, .. } = query {
                expressions.push((dashboard.name.clone(), expression));
            }
        }
    }
    for (place, expression) in expressions {
        for name in metric_names(&expression) {
            assert!(known.contains(&name), "{place} reads `{name}`, which nothing exports: {expression}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn documents_name_only_metrics_that_exist() -> Result<()> {
    let series = series().await?;
    let mut named = 0;
    for page in pages()? {
        let text = std::fs::read_to_string(&page)?;
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|word| !OF_OTHERS.contains(word)) {
            let is_metric = BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
                || ENDINGS
                    .iter()
                    .any(|ending| word.strip_suffix(ending).is_some_and(|name| !name.is_empty()));
            if is_metric {
                // Histograms are described by the name of all their series.
                let exists = series.contains_key(word) || series.contains_key(&format!("{word}_bucket"));
                assert!(exists, "{} names `{word}`, which nothing exports", page.display());
                named += 1;
            }
        }
    }
    ensure!(named > 80, "only {named} metrics were found in the documents");
    Ok(())
}

/// Labels of each metric, as the page says.
fn labels() -> BTreeMap<String, BTreeSet<String>> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split_whitespace().map(|label| label.trim_matches('`').to_owned());
        (cells[1].trim_matches('`').to_owned(), labels.collect())
    };
    rows.map(row).collect()
}

/// What groups by a label that is not there draws one line for all, and a legend that names one shows an empty place.
#[test]
fn groups_and_legends_are_of_labels_that_the_metrics_have() -> Result<()> {
    let labels = labels();
    for dashboard in Dashboard::all()? {
        for target in dashboard.panels().into_iter().flat_map(|panel| list(&panel["targets"])) {
            let expression = target["expr"].as_str().unwrap_or_default();
            let (names, groups) = (metric_names(&fill(expression)), grouping(expression));
            let mut known: BTreeSet<&str> = OF_TARGETS.into();
            for name in names {
                let histogram = name.strip_suffix("_bucket");
                known.extend(histogram.map(|_| "le"));
                let suffixes = ["_bucket", "_sum", "_count"];
                let whole = suffixes.iter().find_map(|suffix| labels.get(name.strip_suffix(suffix)?));
                let of_metric = labels.get(&name).or(whole);
                known.extend(of_metric.into_iter().flatten().map(String::as_str));
            }
            let at = format!("{}: {expression}", dashboard.name);
            for label in &groups {
                assert!(known.contains(label.as_str()), "{at} groups by {label}");
            }
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                let shown = if groups.is_empty() { known.contains(label) } else { groups.contains(label) };
                assert!(shown, "{at} has no {label} for its legend {legend}");
            }
        }
    }
    Ok(())
}

/// A counter's value says how long a process has run; only its growth says something about the system.
#[tokio::test]
async fn counters_are_read_by_their_growth() -> Result<()> {
    let series = series().await?;
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            for target in list(&panel["targets"]) {
                let expression = target["expr"].as_str().unwrap_or_default();
                for name in metric_names(&fill(expression)) {
                    let grows = ["rate(", "increase("]
                        .iter()
                        .any(|call| expression.contains(&format!("{call}{name}")));
                    let counter = series.get(&name).is_some_and(|kind| kind == "counter");
                    assert!(grows || !counter, "{}: {name} in {expression}", dashboard.name);
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn prometheus_has_nothing_to_find_fault_with_in_the_consumers_metrics() -> Result<()> {
    let bed = Bed::start("checked", 2, 3_000).await?;
    let (status, metrics) = bed.consumer.get("/metrics").await?;
    ensure!(status == 200, "{metrics}");
    testbed::prometheus::check_metrics(&metrics).await
}
