//! Reading the dashboards, and filling in their variables as Grafana does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The dashboards by file name, and the title that the service's users know them by.
pub const TITLES: [(&str, &str); 4] = [
    ("event-processing-overview", "Event Processing Overview"),
    ("event-type-distribution", "Event Type Distribution"),
    ("service-health", "Service Health"),
    ("user-activity-heatmap", "User Activity Heatmap"),
];

/// The folder of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One dashboard.
pub struct Dashboard {
    /// Its file's name without the ending.
    pub name: String,
    /// All of it.
    pub json: Value,
}

/// A query of a panel.
pub enum Query {
    /// For Prometheus.
    Metrics {
        /// PromQL.
        expression: String,
        /// Evaluated now, or else over the range.
        instant: bool,
    },
    /// For PostgreSQL.
    Rows {
        /// SQL.
        sql: String,
        /// As a time series, or else as a table.
        time_series: bool,
    },
}

impl Dashboard {
    /// All dashboards of the repository, by name.
    ///
    /// # Errors
    /// When one cannot be read as JSON.
    pub fn all() -> Result<Vec<Self>> {
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
    #[must_use]
    pub fn panels(&self) -> Vec<&Value> {
        list(&self.json["panels"]).iter().filter(|panel| panel["type"] != "row").collect()
    }

    /// Expressions of the annotations.
    #[must_use]
    pub fn annotations(&self) -> Vec<&str> {
        list(&self.json["annotations"]["list"])
            .iter()
            .filter_map(|annotation| annotation["expr"].as_str())
            .collect()
    }

    /// Variables.
    #[must_use]
    pub fn variables(&self) -> &[Value] {
        list(&self.json["templating"]["list"])
    }
}

/// The queries of a panel with their variables filled in.
#[must_use]
pub fn queries(panel: &Value) -> Vec<Query> {
    queries_within(panel, Ranges::default())
}

/// The queries of a panel with their variables filled in, over ranges of one's own.
#[must_use]
pub fn queries_within(panel: &Value, ranges: Ranges) -> Vec<Query> {
    let queries = list(&panel["targets"]).iter().map(|target| match target["rawSql"].as_str() {
        Some(sql) => {
            Query::Rows { sql: fill_sql(sql, ranges), time_series: target["format"] == "time_series" }
        }
        None => Query::Metrics {
            expression: fill_within(target["expr"].as_str().unwrap_or_default(), ranges),
            instant: target["instant"] == true,
        },
    });
    queries.collect()
}

/// What Grafana derives from the time range and the scrape interval.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    /// `$__rate_interval`, for example `15s`.
    pub rate_interval: &'static str,
    /// `$__range`, for example `60s`.
    pub range: &'static str,
    /// Days that queries of rows look back.
    pub days: u32,
    /// `$interval` where a panel groups rows by it, one of [`INTERVALS`].
    pub interval: &'static str,
    /// Consumer groups that are chosen; none for all.
    pub groups: &'static [&'static str],
}

/// What the variable `interval` offers where rows are grouped by it, and its seconds.
pub const INTERVALS: [(&str, u32); 4] = [("1h", 3_600), ("6h", 21_600), ("1d", 86_400), ("7d", 604_800)];

impl Ranges {
    /// For a Prometheus that scrapes every second.
    pub const DEFAULT: Self =
        Self { rate_interval: "15s", range: "60s", days: 7, interval: "1h", groups: &[] };
}

impl Default for Ranges {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// An array, or nothing.
#[must_use]
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A PromQL expression with all namespaces and pipelines chosen.
#[must_use]
pub fn fill(expression: &str) -> String {
    fill_within(expression, Ranges::default())
}

/// A PromQL expression with all namespaces and pipelines chosen, over ranges of one's own.
#[must_use]
pub fn fill_within(expression: &str, ranges: Ranges) -> String {
    let values = [
        ("$__rate_interval", ranges.rate_interval),
        ("$__range", ranges.range),
        ("$namespace", ".+"),
        ("$pipeline", ".+"),
    ];
    values.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// SQL with Grafana's macros for PostgreSQL replaced (its documentation, "Macros").
fn fill_sql(sql: &str, ranges: Ranges) -> String {
    let (from, to) = (format!("now() - interval '{} days'", ranges.days), "now()");
    let interval = INTERVALS.iter().find(|(name, _)| *name == ranges.interval);
    let seconds = interval.map_or(3_600, |(_, seconds)| *seconds);
    // Grafana writes a variable with several values as a list of quoted values, with quotes in them doubled.
    let quoted = |group: &&str| format!("'{}'", group.replace('\'', "''"));
    let groups = match ranges.groups {
        [] => "SELECT group_id FROM pipeline_offsets".to_owned(),
        groups => groups.iter().map(quoted).collect::<Vec<_>>().join(","),
    };
    sql.replace("$__timeFilter(hour)", &format!("hour BETWEEN {from} AND {to}"))
        .replace(
            "$__timeGroupAlias(hour, $interval)",
            &format!("floor(extract(epoch FROM hour) / {seconds}) * {seconds} AS \"time\""),
        )
        .replace("$__timeFrom()", &format!("({from})"))
        .replace("$__timeTo()", to)
        .replace("($group)", &format!("({groups})"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
