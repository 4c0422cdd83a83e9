//! The marks that dashboards set where consumers were added or replaced.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testbed::dashboards::{Dashboard, Ranges, fill_within, list};
use testbed::{Prometheus, wait};

use crate::world::{PIPELINE, PIPELINES, SOON, World};

/// Grafana asks in steps of a minute, and takes `$__rate_interval` to be a step and a scrape.
const STEP: i64 = 60;
const RANGES: Ranges = Ranges { rate_interval: "75s", ..Ranges::DEFAULT };

/// Causes both, one after the other, and looks what each dashboard makes of it.
pub(crate) async fn scaling_and_rollouts_leave_their_marks(
    world: &World,
    prometheus: &Prometheus,
) -> Result<()> {
    let scaled = json!({"scaling": {"minReplicas": 3, "maxReplicas": 3}});
    world.change_pipeline(&scaled).await?;
    marked(prometheus, "Scaling").await?;
    // Another variable of the environment is another pod.
    let mut replaced = scaled;
    replaced["consumer"] = json!({"env": [{"name": "NO_PROXY", "value": "localhost"}]});
    world.change_pipeline(&replaced).await?;
    marked(prometheus, "Rollouts").await
}

async fn marked(prometheus: &Prometheus, name: &str) -> Result<()> {
    for dashboard in Dashboard::all()? {
        let annotations = list(&dashboard.json["annotations"]["list"]);
        let annotation = annotations.iter().find(|annotation| annotation["name"] == name);
        let expression =
            annotation.and_then(|annotation| annotation["expr"].as_str()).context("no such mark")?;
        let expression = fill_within(expression, RANGES);
        let what = format!("{}, {name}: {expression}", dashboard.name);
        wait::until_true(&what, SOON, || async {
            let found = prometheus.query_range(&expression, 5 * STEP, STEP).await?;
            let ours = |labels: &Value| labels["namespace"] == PIPELINES && labels["pipeline"] == PIPELINE;
            ensure!(found.iter().all(|(labels, _)| ours(labels)), "{found:?}");
            Ok(!found.is_empty())
        })
        .await?;
    }
    Ok(())
}
