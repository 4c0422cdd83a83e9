//! How fast the panels that read PostgreSQL are on a large table: a measurement, run by `make bench-dashboards`. What rollups
//! cost while storing is in `make bench`.
//!
//! A hundred million rows are not made here. Their rollups are, since they are all that the panels read; beside them stand ten
//! million real rows for the same queries as one would write them without rollups.

#![allow(clippy::print_stdout)] // the figures are the purpose

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{AssertSqlSafe, PgPool};
use testbed::dashboards::{Dashboard, Query, Ranges, queries_within};

use crate::support::Bed;

const DAYS: u32 = 30;
/// 30 days × 24 hours × 7 types × 5 services × 16 partitions, 249 events in each: 100.4 million events, in order of time, as
/// they come to be.
const ROLLUPS: &str = "INSERT INTO event_rollups SELECT date_trunc('hour', now()) - hour * interval '1 hour', \
     'type_' || type, 'service_' || service, 'quick-group', 'quick', partition, 249 FROM generate_series(0, 719) AS hour, \
     generate_series(1, 7) AS type, generate_series(1, 5) AS service, generate_series(0, 15) AS partition ORDER BY 1";
const USER_ROLLUPS: &str = "INSERT INTO event_user_rollups SELECT date_trunc('hour', now()) - hour * interval '1 hour', \
     'quick-group', 'quick', partition, 5000 FROM generate_series(0, 719) AS hour, generate_series(0, 15) AS partition";

/// Ten million events of the same thirty days by a million users, with the indexes that help these queries.
const RAW: [&str; 5] = [
    "CREATE UNLOGGED TABLE raw_events (LIKE events INCLUDING DEFAULTS)",
    "INSERT INTO raw_events (id, event_type, user_id, service, timestamp, data) SELECT n, 'type_' || n % 7, \
     lpad(to_hex((n::bigint * 7919) % 1000000), 32, '0')::uuid, 'service_' || n % 5, \
     now() - (n % 2592000) * interval '1 second', '{\"session\":\"0123456789abcdef\",\"page\":\"/products/4711\"}' \
     FROM generate_series(1, 10000000) AS n",
    "CREATE INDEX ON raw_events (timestamp)",
    "ALTER TABLE raw_events ADD PRIMARY KEY (id)",
    "VACUUM ANALYZE raw_events",
];

/// What the two heatmaps and the shares would ask of the rows themselves.
const WITHOUT_ROLLUPS: [(&str, &str); 3] = [
    (
        "Events by hour of day and day",
        "SELECT date_trunc('day', timestamp, 'UTC'), to_char(timestamp AT TIME ZONE 'UTC', 'HH24'), count(*) \
         FROM raw_events WHERE timestamp BETWEEN now() - interval '{days} days' AND now() GROUP BY 1, 2",
    ),
    (
        "Distinct users by hour of day and day",
        "SELECT date_trunc('hour', timestamp, 'UTC'), count(DISTINCT user_id) \
         FROM raw_events WHERE timestamp BETWEEN now() - interval '{days} days' AND now() GROUP BY 1",
    ),
    (
        "By type",
        "SELECT event_type, count(*) FROM raw_events \
         WHERE timestamp BETWEEN now() - interval '{days} days' AND now() GROUP BY 1",
    ),
];

#[tokio::test]
#[ignore = "a measurement: make bench-dashboards"]
async fn panels_on_a_hundred_million_events() -> Result<()> {
    let bed = Bed::start("quick", 1, 10).await?;
    for statement in ["TRUNCATE event_rollups, event_user_rollups", ROLLUPS, USER_ROLLUPS] {
        sqlx::query(statement).execute(&bed.pool).await?;
    }
    sqlx::query("VACUUM ANALYZE event_rollups, event_user_rollups").execute(&bed.pool).await?;
    let (rows, events): (i64, i64) =
        sqlx::query_as("SELECT count(*), sum(events)::bigint FROM event_rollups")
            .fetch_one(&bed.pool)
            .await?;
    ensure!(events > 100_000_000, "{events}");
    println!("Rollups of {events} events: {rows} rows, {}\n", size(&bed.pool, "event_rollups").await?);
    of_rollups(&bed.pool).await?;
    for statement in RAW {
        sqlx::query(statement).execute(&bed.pool).await?;
    }
    println!("\n10,000,000 rows: {}\n", size(&bed.pool, "raw_events").await?);
    of_rows(&bed.pool).await
}

async fn size(pool: &PgPool, table: &str) -> Result<String> {
    let sql = format!("SELECT pg_size_pretty(pg_total_relation_size('{table}'))");
    Ok(sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(pool).await?)
}

async fn of_rollups(pool: &PgPool) -> Result<()> {
    println!(
        "| panel | 7 days, median | slowest of 20 | 30 days, median | slowest of 20 |\n|---|---|---|---|---|"
    );
    for dashboard in Dashboard::all()? {
        for panel in dashboard.panels() {
            let mut cells = Vec::new();
            for days in [7, DAYS] {
                let queries = queries_within(panel, Ranges { days, ..Ranges::default() });
                for query in queries {
                    // One panel reads the latest rows themselves.
                    let Query::Rows { sql, .. } = query else { continue };
                    if !sql.contains("event_rollups") && !sql.contains("event_users_hourly") {
                        continue;
                    }
                    cells.push(time(pool, &sql, 20).await?);
                }
            }
            if !cells.is_empty() {
                println!("| {} | {} |", panel["title"].as_str().unwrap_or_default(), cells.join(" | "));
            }
        }
    }
    Ok(())
}

async fn of_rows(pool: &PgPool) -> Result<()> {
    println!(
        "| the same from rows | 7 days, median | slowest of 3 | 30 days, median | slowest of 3 |\n|---|---|---|---|---|"
    );
    for (title, sql) in WITHOUT_ROLLUPS {
        let mut cells = Vec::new();
        for days in [7, DAYS] {
            cells.push(time(pool, &sql.replace("{days}", &days.to_string()), 3).await?);
        }
        println!("| {title} | {} |", cells.join(" | "));
    }
    Ok(())
}

/// Median and longest of several runs, after one that fills the caches.
async fn time(pool: &PgPool, sql: &str, runs: usize) -> Result<String> {
    let mut times = Vec::new();
    for _ in 0..=runs {
        let began = Instant::now();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(pool).await?;
        times.push(began.elapsed());
    }
    let mut times = times.split_off(1);
    times.sort();
    let milliseconds = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    Ok(format!("{} | {}", milliseconds(times[times.len() / 2]), milliseconds(times[times.len() - 1])))
}
