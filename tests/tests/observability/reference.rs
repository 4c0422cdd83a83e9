//! The metrics reference is what the binaries say, and everything that names a metric names one that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::dashboards::{Dashboard, fill, list, queries};
use testbed::process;
use testbed::promql::metric_names;

use crate::rules::rules;
use crate::support::Bed;

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Made by Prometheus itself.
const OF_PROMETHEUS: [&str; 1] = ["up"];

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
