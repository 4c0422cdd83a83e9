//! Looks after the database beside the writers: keeps the partitions of the events table where the policy wants them,
//! reads how many of the server's connections are taken, and notes lag of which no transaction tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::metrics::Metrics;
use crate::partitioning::Policy;
use crate::retry::answered;
use crate::settings::TableName;
use crate::sink::classify::{describe, fault_label};
use crate::sink::offsets::Owner;
use crate::sink::{Database, OFFSETS_TABLE, partitions};
use crate::source::Positions;

/// How often to look.
const PERIOD: Duration = Duration::from_secs(30);
/// How often partitions are looked after.
const PARTITIONS_PERIOD: Duration = Duration::from_secs(60);
/// How long the server may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the partitions may take: several statements, each of which the server ends after a minute at the latest.
const MAINTENANCE: Duration = Duration::from_secs(300);

/// Connections of clients, and how many there may be. Whoever may not see what others do sees their users all the same.
const CONNECTIONS: &str = "SELECT \
    (SELECT count(*) FROM pg_stat_activity WHERE coalesce(backend_type = 'client backend', usesysid IS NOT NULL)), \
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint \
    - coalesce(current_setting('reserved_connections', true)::bigint, 0)";

/// Notes the ends of logs beside the offsets of partitions that do not move although there is lag: a batch that cannot be
/// stored tells nobody how much waits behind it. What a transaction is moving just now is left to that.
fn note_lag(offsets: &str) -> String {
    format!(
        "WITH still AS (SELECT partition FROM {offsets} WHERE group_id = $1 AND topic = $2 AND partition = ANY($3) \
         FOR UPDATE SKIP LOCKED) \
         UPDATE {offsets} AS stored SET log_end_offset = seen.log_end FROM still \
         JOIN unnest($3::int[], $4::bigint[], $5::bigint[]) AS seen(partition, next_offset, log_end) USING (partition) \
         WHERE stored.group_id = $1 AND stored.topic = $2 AND stored.partition = still.partition \
         AND stored.next_offset = seen.next_offset AND coalesce(stored.log_end_offset, 0) < seen.log_end"
    )
}

/// What is looked after. Every consumer looks; a lock in PostgreSQL lets one at a time change partitions.
pub(super) struct Upkeep {
    pub(super) database: Database,
    /// The events table, beside which the offsets are.
    pub(super) table: TableName,
    /// How it is partitioned, if it is.
    pub(super) policy: Option<Policy>,
    pub(super) owner: Owner,
    pub(super) positions: Arc<Positions>,
    pub(super) metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Looks until cancelled, at once and then again and again, each time on a connection of its own: between the looks
    /// the server has none for this. What fails is told in the log: events go into the default partition meanwhile.
    pub(super) async fn run(self) {
        let mut maintained: Option<Instant> = None;
        loop {
            let due = maintained.is_none_or(|time| time.elapsed() >= PARTITIONS_PERIOD);
            let policy = self.policy.as_ref().filter(|_| due);
            if policy.is_some() {
                maintained = Some(Instant::now());
            }
            if let Err(error) = self.look(policy).await {
                // Not counted: events are stored all the same, and a role may be allowed no connection beyond the writers'.
                tracing::warn!(
                    error = describe(&error),
                    "The database could not be looked after (partitions, connections); trying again"
                );
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn look(&self, policy: Option<&Policy>) -> Result<(), sqlx::Error> {
        let connected = self.database.connect().await;
        let mut connection = connected.inspect_err(|error| {
            // Where no connection is left, what was read last is as near to the truth as one can get.
            if fault_label(error) != "resources" {
                self.metrics.server_connections(None);
            }
        })?;
        self.count(&mut connection).await?;
        self.note_lag(&mut connection).await?;
        if let Some(policy) = policy {
            let maintain = partitions::maintain(&mut connection, &self.table, policy, Utc::now());
            answered(MAINTENANCE, maintain).await?;
        }
        // A failed good-bye leaves nothing behind that the server does not clean up.
        let _ = answered(ANSWER, connection.close()).await;
        Ok(())
    }

    async fn note_lag(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let lagging = self.positions.lagging();
        if lagging.is_empty() {
            return Ok(());
        }
        let column = |value: fn(&(i32, i64, i64)) -> i64| lagging.iter().map(value).collect::<Vec<i64>>();
        let note = sqlx::query(AssertSqlSafe(note_lag(&self.table.sibling(OFFSETS_TABLE))))
            .bind(&*self.owner.group_id)
            .bind(&*self.owner.topic)
            .bind(lagging.iter().map(|(partition, ..)| *partition).collect::<Vec<i32>>())
            .bind(column(|(_, offset, _)| *offset))
            .bind(column(|(.., end)| *end))
            .execute(connection);
        answered(ANSWER, note).await.map(drop)
    }

    async fn count(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let counted = answered(ANSWER, sqlx::query_as(CONNECTIONS).fetch_one(connection)).await;
        match counted {
            Ok((now, limit)) => self.metrics.server_connections(Some((now, limit))),
            Err(error) => {
                self.metrics.server_connections(None);
                // A server that does not let us know is no reason for concern, and partitions are to be looked after.
                if error.as_database_error().is_none() {
                    return Err(error);
                }
                tracing::debug!(error = describe(&error), "The server does not tell its connections");
            }
        }
        Ok(())
    }
}
