//! The servers of all runs, and a fresh database for each.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use testbed::generator::Options;
use testbed::{ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, process, wait};

use crate::load::{self, Filled, Filling};

/// Columns of an event in the order in which they are exported and copied.
pub(crate) const COLUMNS: &str = "event_type, user_id, service, \"timestamp\", data, event_key";

/// Settings of a server that is used in earnest: commits wait for the disk, memory enough, and checkpoints rare enough
/// that whether one falls into a run is not left to chance (each run begins with one). Commit timestamps are what
/// times are taken from.
const SETTINGS: [(&str, &str); 6] = [
    ("shared_buffers", "2GB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "30min"),
    ("maintenance_work_mem", "1GB"),
    ("track_commit_timestamp", "on"),
    ("track_wal_io_timing", "on"),
];

/// Kafka and PostgreSQL.
pub(crate) struct Bed {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    databases: u32,
}

/// A database of one run.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
}

/// When the rows of a run were committed.
#[derive(Debug)]
pub(crate) struct Commits {
    pub(crate) first: Option<DateTime<Utc>>,
    pub(crate) last: Option<DateTime<Utc>>,
    pub(crate) rows_of_first: u64,
}

impl Bed {
    pub(crate) async fn start() -> Result<Self> {
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let (kafka, postgres) = tokio::try_join!(
            Kafka::start(KafkaOptions::default()),
            Postgres::start(PostgresOptions { durable: true, settings, ..PostgresOptions::default() })
        )?;
        Ok(Self { kafka, postgres, databases: 0 })
    }

    /// Makes and fills a topic.
    pub(crate) async fn fill(&self, topic: &str, events: u64, options: Options) -> Result<Filled> {
        self.kafka.create_topic(topic, options.partitions).await?;
        let filling = Filling { topic: topic.to_owned(), events, options };
        let config = self.kafka.client_config();
        tokio::task::spawn_blocking(move || load::backlog(config, &filling)).await?
    }

    /// An empty database of its own.
    pub(crate) async fn database(&mut self) -> Result<Database> {
        self.databases += 1;
        let name = format!("bench_{}", self.databases);
        let url = self.postgres.create_database(&name).await?;
        Ok(Database { name, url })
    }

    /// A database with the consumer's tables in it.
    pub(crate) async fn migrated(&mut self) -> Result<Database> {
        let database = self.database().await?;
        let options = ConsumerOptions::new(&self.kafka, "none", &database.url);
        process::output(options.command(&["migrate"])?).await?;
        Ok(database)
    }

    /// Removes a database, so that its vacuum does not run into the next run.
    pub(crate) async fn drop(&self, database: Database) -> Result<()> {
        let mut session = connect(&self.postgres.url()).await?;
        session.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", database.name))).await?;
        Ok(session.close().await?)
    }

    /// Everything written so far goes to the disk now instead of into the next measurement.
    pub(crate) async fn settle(&self) -> Result<()> {
        let mut session = connect(&self.postgres.url()).await?;
        session.execute("CHECKPOINT").await?;
        session.close().await?;
        process::output(Command::new("sync")).await.map(drop)
    }
}

/// A session of the bench itself.
pub(crate) async fn connect(url: &str) -> Result<PgConnection> {
    let options: PgConnectOptions = url.parse()?;
    options.connect().await.context("failed to connect to PostgreSQL")
}

/// One number.
pub(crate) async fn number(session: &mut PgConnection, sql: &str) -> Result<i64> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(session).await?)
}

/// How much has been written to the server's log (WAL) since it was made, in bytes.
pub(crate) async fn log_end(session: &mut PgConnection) -> Result<u64> {
    Ok(number(session, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").await?.unsigned_abs())
}

/// The beginning of a query about events of [`load::steady`]: when each was sent and committed, in microseconds since 1970.
pub(crate) const TIMED: &str = "WITH timed AS (SELECT xmin, (data->>'sent')::bigint AS sent, \
    extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000 AS committed FROM events)";

/// Waits until the table holds so many events.
pub(crate) async fn stored(database: &Database, events: u64, limit: Duration) -> Result<()> {
    wait::until_true("every event is stored", limit, || async {
        let mut session = connect(&database.url).await?;
        let rows = number(&mut session, "SELECT count(*) FROM events").await?;
        Ok(rows.unsigned_abs() == events)
    })
    .await
}

/// When the rows with an id above `after` were committed, and the last offsets with them.
pub(crate) async fn commits(session: &mut PgConnection, after: i64) -> Result<Commits> {
    let (first, last, rows_of_first): (Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<i64>) = sqlx::query_as(
        "WITH commits AS (SELECT pg_xact_commit_timestamp(xmin) AS at, count(*) AS rows FROM events \
         WHERE id > $1 GROUP BY xmin) \
         SELECT min(at), greatest(max(at), (SELECT max(pg_xact_commit_timestamp(xmin)) FROM pipeline_offsets)), \
         (SELECT rows FROM commits ORDER BY at LIMIT 1) FROM commits",
    )
    .bind(after)
    .fetch_one(session)
    .await?;
    Ok(Commits { first, last, rows_of_first: rows_of_first.unwrap_or_default().unsigned_abs() })
}

/// Compares what is in the database with what must be, and says what is wrong.
pub(crate) async fn check(session: &mut PgConnection, expected: &[(&str, u64)]) -> Result<Option<String>> {
    let mut wrong = BTreeMap::new();
    for (sql, count) in expected {
        let found = number(session, sql).await?.unsigned_abs();
        if found != *count {
            wrong.insert(*sql, format!("{sql}: {found} instead of {count}"));
        }
    }
    Ok((!wrong.is_empty()).then(|| wrong.into_values().collect::<Vec<_>>().join("; ")))
}

/// Fails for a benchmark of nothing.
pub(crate) fn require_events(events: u64) -> Result<()> {
    ensure!(events >= 1_000, "--events must be at least 1000: fewer say nothing about speed");
    Ok(())
}
