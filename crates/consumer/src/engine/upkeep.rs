//! Keeps the partitions of the events table where the policy wants them, beside the writers.

use std::time::Duration;

use chrono::Utc;
use sqlx::Connection as _;

use crate::partitioning::Policy;
use crate::settings::TableName;
use crate::sink::classify::describe;
use crate::sink::{Database, partitions};

/// How often to look.
const PERIOD: Duration = Duration::from_secs(60);

/// The partitions of one table. Every consumer looks; a lock in PostgreSQL lets one at a time change anything.
pub(super) struct Upkeep {
    pub(super) database: Database,
    pub(super) table: TableName,
    pub(super) policy: Policy,
}

impl Upkeep {
    /// Looks until cancelled, at once and then every minute. What fails is told in the log: events go into the default
    /// partition meanwhile.
    pub(super) async fn run(self) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(
                    table = %self.table,
                    error = describe(&error),
                    "Partitions could not be looked after; trying again in a minute"
                );
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    async fn look(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.database.connect().await?;
        let result = partitions::maintain(&mut connection, &self.table, &self.policy, Utc::now()).await;
        // A failed good-bye leaves nothing behind that the server does not clean up.
        let _ = connection.close().await;
        result
    }
}
