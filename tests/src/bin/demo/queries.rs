//! Three questions for the data, asked with psql, as a user would.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use sqlx::{Connection, PgConnection};
use testbed::process;

use crate::screen::Screen;

const QUERIES: [(&str, &str); 3] = [
    (
        "The ten busiest users of the last 24 hours",
        "SELECT user_id, count(*) AS events, max(timestamp) AS latest
FROM events
WHERE timestamp > now() - interval '24 hours'
GROUP BY user_id
ORDER BY events DESC
LIMIT 10;",
    ),
    (
        "Events per hour and type",
        "SELECT date_trunc('hour', timestamp) AS hour, count(*) AS all,
       count(*) FILTER (WHERE event_type = 'profile_viewed')   AS viewed,
       count(*) FILTER (WHERE event_type = 'user_login')       AS login,
       count(*) FILTER (WHERE event_type = 'user_search')      AS search,
       count(*) FILTER (WHERE event_type = 'profile_updated')  AS updated,
       count(*) FILTER (WHERE event_type = 'user_registered')  AS registered,
       count(*) FILTER (WHERE event_type = 'user_activated')   AS activated,
       count(*) FILTER (WHERE event_type = 'user_deactivated') AS deactivated
FROM events
GROUP BY hour
ORDER BY hour;",
    ),
    (
        "What the busiest user did last",
        "SELECT timestamp, event_type, service, data
FROM events
WHERE user_id = (SELECT user_id FROM events GROUP BY user_id ORDER BY count(*) DESC LIMIT 1)
ORDER BY timestamp DESC
LIMIT 10;",
    ),
];

/// Fails when the tables that the demo fills are there already: their rows would blur the numbers, stored offsets would
/// belong to another topic, and all of it may be somebody's.
pub(crate) async fn refuse_foreign_tables(database_url: &str) -> Result<()> {
    let mut connection =
        PgConnection::connect(database_url).await.context("PostgreSQL does not answer at DATABASE_URL")?;
    let query = "SELECT name FROM unnest($1) AS name WHERE to_regclass(name) IS NOT NULL";
    let wanted = ["events", "dead_letters", "pipeline_offsets"];
    let found: Vec<String> = sqlx::query_scalar(query).bind(&wanted[..]).fetch_all(&mut connection).await?;
    ensure!(
        found.is_empty(),
        "the database has {} already; the demo wants one without: drop them, or name another database",
        found.join(", ")
    );
    Ok(connection.close().await?)
}

/// Runs each and shows question, query and answer.
pub(crate) async fn show(screen: &mut Screen, database_url: &str) -> Result<()> {
    for (question, query) in QUERIES {
        let mut psql = Command::new("psql");
        psql.args([
            "--no-psqlrc",
            "--pset=pager=off",
            "--set=ON_ERROR_STOP=1",
            "--dbname",
            database_url,
            "--command",
            query,
        ]);
        let answer = process::output(psql).await?;
        screen.line(&format!("{question}\n\n{query}\n\n{answer}"));
    }
    Ok(())
}
