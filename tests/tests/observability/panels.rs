//! Every query of every panel, run against a real Prometheus that scrapes a real consumer, and against a real PostgreSQL.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Column, PgPool, Row};
use testbed::dashboards::{Dashboard, INTERVALS, Query, Ranges, fill, queries, queries_within};
use testbed::prometheus::Target;
use testbed::promql::{grouping, metric_names};
use testbed::{Prometheus, wait};

use crate::support::Bed;

const LABELS: [(&str, &str); 3] =
    [("namespace", "shop"), ("pipeline", "clicks"), ("pod", "clicks-consumer-0")];

/// The group of the pipeline, and one whose name has to be quoted with care.
const GROUPS: [&str; 2] = ["shown-group", "it's another"];

/// The controller's metrics need a cluster: another test runs them.
fn of_controller(expression: &str) -> bool {
    metric_names(expression).iter().all(|name| name.starts_with("analytics_"))
        || expression.contains("and on (instance) analytics_controller_leader")
}

#[tokio::test]
async fn every_panel_shows_data_after_a_load() -> Result<()> {
    let bed = Bed::start("shown", 4, 20_000).await?;
    let prometheus = Prometheus::start(&[Target::new(bed.consumer.port(), &LABELS)], &[]).await?;
    // As many seconds of traffic as the longest range of a query, so that rates have something to be rates of.
    bed.produce(2, 8_000, Some(400.0)).await?;
    wait::until_true("twenty scrapes", Duration::from_secs(60), || async {
        let scrapes = prometheus.query("count_over_time(partitions_assigned[1m])").await?;
        Ok(scrapes.first().is_some_and(|(_, count)| *count >= 20.0))
    })
    .await?;
    let mut problems = Vec::new();
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            for query in queries(panel) {
                let shown = match &query {
                    Query::Metrics { expression, instant } => {
                        shows_metrics(&prometheus, panel, expression, *instant).await
                    }
                    Query::Rows { sql, time_series } => shows_rows(&bed.pool, panel, sql, *time_series).await,
                };
                if let Err(error) = shown {
                    problems.push(format!("{}, panel {}: {error:#}", dashboard.name, panel["title"]));
                }
            }
        }
        // What they mark needs a cluster, too.
        for expression in dashboard.annotations() {
            prometheus.query(&fill(expression)).await?;
        }
        problems.extend(at_every_interval(&dashboard, &bed.pool).await);
        variables_offer_something(&dashboard, &prometheus, &bed.pool).await?;
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}

/// Rows grouped by each interval that the dashboards offer, of groups that somebody has chosen.
async fn at_every_interval(dashboard: &Dashboard, pool: &PgPool) -> Vec<String> {
    let mut problems = Vec::new();
    for (interval, _) in INTERVALS {
        for panel in dashboard.panels() {
            for query in queries_within(panel, Ranges { interval, groups: &GROUPS, ..Ranges::DEFAULT }) {
                let Query::Rows { sql, time_series } = query else { continue };
                if let Err(error) = shows_rows(pool, panel, &sql, time_series).await {
                    let title = &panel["title"];
                    problems.push(format!("{}, panel {title} by {interval}: {error:#}", dashboard.name));
                }
            }
        }
    }
    problems
}

async fn shows_metrics(
    prometheus: &Prometheus,
    panel: &Value,
    expression: &str,
    instant: bool,
) -> Result<()> {
    let series: Vec<Value> = if instant {
        prometheus.query(expression).await?.into_iter().map(|(labels, _)| labels).collect()
    } else {
        let mut series = prometheus.query_range(expression, 20, 1).await?;
        // A line needs two points.
        series.retain(|(_, values)| values.len() >= 2);
        series.into_iter().map(|(labels, _)| labels).collect()
    };
    if of_controller(expression) {
        return Ok(());
    }
    ensure!(!series.is_empty(), "nothing is shown for {expression}");
    let one = series.len() == 1;
    ensure!(panel["type"] != "stat" || one, "{} values for one figure: {expression}", series.len());
    for label in grouping(expression).iter().filter(|label| *label != "le") {
        let named = series.iter().all(|labels| labels[label].is_string());
        ensure!(named, "a line without {label} in {series:?}: {expression}");
    }
    Ok(())
}

async fn shows_rows(pool: &PgPool, panel: &Value, sql: &str, time_series: bool) -> Result<()> {
    let rows =
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(pool).await.with_context(|| sql.to_owned())?;
    let first = rows.first().with_context(|| format!("no rows for {sql}"))?;
    let columns: Vec<&str> = first.columns().iter().map(Column::name).collect();
    let fits = match panel["type"].as_str().unwrap_or_default() {
        "stat" => columns.len() == 1 && rows.len() == 1,
        "piechart" | "barchart" => columns.len() == 2,
        _ if time_series => columns[0] == "time" && columns.len() <= 3,
        _ => columns.len() >= 2,
    };
    ensure!(fits, "{} rows with the columns {columns:?} do not fit a {}: {sql}", rows.len(), panel["type"]);
    Ok(())
}

async fn variables_offer_something(
    dashboard: &Dashboard,
    prometheus: &Prometheus,
    pool: &PgPool,
) -> Result<()> {
    for variable in dashboard.variables().iter().filter(|variable| variable["type"] == "query") {
        // Grafana runs `query`; `definition` is what it shows of it in a list.
        let query = variable["query"]["query"].as_str().or(variable["query"].as_str()).unwrap_or_default();
        ensure!(variable["definition"] == query, "{}: {variable} shows another query", dashboard.name);
        let values = match query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')) {
            Some(arguments) => {
                let (selector, label) = arguments.rsplit_once(", ").context("no label")?;
                prometheus.label_values(label, &fill(selector)).await?
            }
            None => sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(pool).await?,
        };
        ensure!(!values.is_empty(), "{}: the variable {} offers nothing", dashboard.name, variable["name"]);
    }
    Ok(())
}

/// The figures, not only that there are some.
#[tokio::test]
async fn figures_are_those_of_what_was_produced() -> Result<()> {
    let bed = Bed::start("figures", 4, 10_000).await?;
    let prometheus = Prometheus::start(&[Target::new(bed.consumer.port(), &LABELS)], &[]).await?;
    let dashboards = Dashboard::all()?;
    let query = |name: &str, title: &str| {
        let dashboard = dashboards.iter().find(|dashboard| dashboard.name == name);
        let panels = dashboard.map(Dashboard::panels).unwrap_or_default();
        let panel = panels.into_iter().find(|panel| panel["title"] == title);
        panel.map(queries).and_then(|queries| queries.into_iter().next()).with_context(|| title.to_owned())
    };
    let distinct = i64::try_from(bed.counts.distinct)?;
    let Query::Rows { sql, .. } = query("user-activity-heatmap", "Events in the range")? else {
        anyhow::bail!("not SQL")
    };
    assert_eq!(sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(&bed.pool).await?, distinct);
    let Query::Rows { sql, .. } = query("user-activity-heatmap", "Events by hour of day and day")? else {
        anyhow::bail!("not SQL")
    };
    let cells = format!("SELECT sum(value)::bigint FROM ({sql}) AS cells");
    assert_eq!(sqlx::query_scalar::<_, i64>(AssertSqlSafe(cells)).fetch_one(&bed.pool).await?, distinct);

    wait::until_true("Prometheus has scraped the end", Duration::from_secs(30), || async {
        let stored = prometheus.query("sum(events_stored_total)").await?;
        Ok(stored.first().is_some_and(|(_, stored)| (stored - bed.counts.distinct as f64).abs() < 0.5))
    })
    .await?;
    let Query::Metrics { expression, .. } = query("event-processing-overview", "Consumers ready")? else {
        anyhow::bail!("not PromQL")
    };
    let ready: Vec<f64> = prometheus.query(&expression).await?.into_iter().map(|(_, value)| value).collect();
    assert_eq!(ready, [1.0]);
    Ok(())
}
