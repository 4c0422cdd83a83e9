//! Reading the dashboards, and filling in their variables as Grafana does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The dashboards by file name, and the title that the service's users know them by.
pub(crate) const TITLES: [(&str, &str); 4] = [
    ("event-processing-overview", "Event Processing Overview"),
    ("event-type-distribution", "Event Type Distribution"),
    ("service-health", "Service Health"),
    ("user-activity-heatmap", "User Activity Heatmap"),
];

/// The folder of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One dashboard.
pub(crate) struct Dashboard {
    /// Its file's name without the ending.
    pub(crate) name: String,
    /// All of it.
    pub(crate) json: Value,
}

/// A query of a panel.
pub(crate) enum Query {
    /// For Prometheus, evaluated now or over the range.
    Metrics { expression: String, instant: bool },
    /// For PostgreSQL, as a time series or as a table.
    Rows { sql: String, time_series: bool },
}

impl Dashboard {
    /// All dashboards of the repository.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let mut dashboards = Vec::new();
        for entry in std::fs::read_dir(repository().join("grafana"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let json = serde_json::from_str(&std::fs::read_to_string(&path)?).context(name.clone())?;
                dashboards.push(Self { name, json });
            }
        }
        dashboards.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(dashboards)
    }

    /// Panels with data, that is without rows.
    pub(crate) fn panels(&self) -> Vec<&Value> {
        list(&self.json["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
    }

    /// Expressions of the annotations.
    pub(crate) fn annotations(&self) -> Vec<&str> {
        list(&self.json["annotations"]["list"])
            .iter()
            .filter_map(|annotation| annotation["expr"].as_str())
            .collect()
    }

    /// Variables.
    pub(crate) fn variables(&self) -> &[Value] {
        list(&self.json["templating"]["list"])
    }
}

/// The queries of a panel with their variables filled in.
pub(crate) fn queries(panel: &Value) -> Vec<Query> {
    let queries = list(&panel["targets"]).iter().map(|target| match target["rawSql"].as_str() {
        Some(sql) => Query::Rows { sql: fill_sql(sql), time_series: target["format"] == "time_series" },
        None => Query::Metrics {
            expression: fill(target["expr"].as_str().unwrap_or_default()),
            instant: target["instant"] == true,
        },
    });
    queries.collect()
}

/// An array, or nothing.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A PromQL expression with all namespaces and pipelines chosen.
pub(crate) fn fill(expression: &str) -> String {
    let values =
        [("$__rate_interval", "15s"), ("$__range", "60s"), ("$namespace", ".+"), ("$pipeline", ".+")];
    values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// SQL with Grafana's macros for PostgreSQL replaced (its documentation, "Macros"), for the last seven days.
fn fill_sql(sql: &str) -> String {
    let (from, to) = ("now() - interval '7 days'", "now()");
    sql.replace("$__timeFilter(hour)", &format!("hour BETWEEN {from} AND {to}"))
        .replace(
            "$__timeGroupAlias(hour, $interval)",
            "floor(extract(epoch FROM hour) / 3600) * 3600 AS \"time\"",
        )
        .replace("$__timeFrom()", &format!("({from})"))
        .replace("$__timeTo()", to)
        // Grafana writes a variable with several values as a quoted list.
        .replace("($group)", "(SELECT group_id FROM pipeline_offsets)")
}

#[test]
fn nothing_is_left_to_fill_in() -> Result<()> {
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            for query in queries(panel) {
                let (Query::Metrics { expression: text, .. } | Query::Rows { sql: text, .. }) = query;
                assert!(!text.contains('$'), "{}: {text}", dashboard.name);
            }
        }
    }
    Ok(())
}
