//! The configuration of Prometheus that the how-to shows to those who have no Prometheus Operator.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::dashboards::list;

const PAGE: &str = include_str!("../../../docs/how-to/monitoring.md");

fn configuration() -> Result<&'static str> {
    let (_, rest) = PAGE.split_once("```yaml\n").context("no YAML")?;
    Ok(rest.split_once("```").context("no end of it")?.0)
}

/// A pod that has been evicted stays until somebody removes it, and answers nobody: AnalyticsConsumerDown would fire for it.
#[test]
fn pods_that_have_ended_are_left_out() -> Result<()> {
    let configuration: Value = serde_saphyr::from_str(configuration()?)?;
    let jobs = list(&configuration["scrape_configs"]);
    ensure!(jobs.len() == 2, "{configuration}");
    for job in jobs {
        let drops = list(&job["relabel_configs"]).iter().any(|rule| {
            rule["action"] == "drop"
                && rule["source_labels"][0] == "__meta_kubernetes_pod_phase"
                && rule["regex"] == "Failed|Succeeded"
        });
        ensure!(drops, "{job}");
    }
    Ok(())
}
