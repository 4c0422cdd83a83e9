//! The controller's part of the dashboards, from a controller that was really scraped.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use testbed::dashboards::{Dashboard, Query, Ranges, queries_within};
use testbed::promql::{grouping, metric_names};
use testbed::{Prometheus, wait};

use crate::world::World;

/// Of the controller, which is scraped every two seconds.
const RANGES: Ranges = Ranges { rate_interval: "10s", range: "60s", ..Ranges::DEFAULT };

/// Each query that reads a metric of the controller gives what its kind of panel can draw.
pub(crate) async fn those_of_the_controller_show_data(world: &World, prometheus: &Prometheus) -> Result<()> {
    // Something to write about: what is put right is a write.
    let words = ["-n", "shop", "delete", "service", "clicks-consumer"];
    world.bed.cluster.kubectl(&words).await?;
    let mut shown = 0;
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            for query in queries_within(panel, RANGES) {
                let Query::Metrics { expression, instant } = query else { continue };
                if !metric_names(&expression).iter().any(|name| name.starts_with("analytics_")) {
                    continue;
                }
                let what = format!("{}, panel {}: {expression}", dashboard.name, panel["title"]);
                wait::until_true(&what, Duration::from_secs(60), || async {
                    fits(prometheus, panel, &expression, instant).await
                })
                .await?;
                shown += 1;
            }
        }
    }
    ensure!(shown >= 12, "only {shown} queries are about the controller");
    Ok(())
}

async fn fits(prometheus: &Prometheus, panel: &Value, expression: &str, instant: bool) -> Result<bool> {
    let series: Vec<Value> = if instant {
        prometheus.query(expression).await?.into_iter().map(|(labels, _)| labels).collect()
    } else {
        // A line needs two points.
        let mut series = prometheus.query_range(expression, 20, 1).await?;
        series.retain(|(_, values)| values.len() >= 2);
        series.into_iter().map(|(labels, _)| labels).collect()
    };
    ensure!(!series.is_empty(), "nothing is shown");
    ensure!(panel["type"] != "stat" || series.len() == 1, "{} values for one figure", series.len());
    for label in grouping(expression).iter().filter(|label| *label != "le") {
        let named = series.iter().all(|labels| labels[label].is_string());
        ensure!(named, "a line without {label} in {series:?}");
    }
    Ok(true)
}
