//! Rollups in PostgreSQL: adding a transaction's counts, and counting a range of hours anew.
//!
//! Who may write which row: every transaction moves the stored offset of at least one partition, and holds the lock of
//! that row until it ends. All counts of the transaction go into rows that carry the number of that one partition (the
//! lowest of the batch), so nobody else writes those rows meanwhile and consumers never wait for each other. Readers
//! sum over partitions through the views.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use super::offsets::Owner;
use crate::rollup::{self, Count, begin_of, hour_of};
use crate::settings::TableName;

/// The partition of rows that were counted from the table and not by a consumer.
const REBUILT: i32 = -1;

/// Names of the rollup tables of an events table, quoted.
#[derive(Clone, Debug)]
pub struct Names {
    /// Events by hour, type and service.
    pub counts: String,
    /// The view that sums them over partitions.
    pub hourly: String,
    /// Which users were seen in which hour.
    pub user_hours: String,
    /// Distinct users by hour.
    pub users: String,
    /// The view that sums them over partitions.
    pub users_hourly: String,
}

impl Names {
    /// `event_rollups` and its kind for a table `events`, `x_rollups` for a table `x`.
    #[must_use]
    pub fn of(table: &TableName) -> Self {
        let base = if table.name() == "events" { "event" } else { table.name() };
        let name = |suffix: &str| table.sibling(&format!("{base}_{suffix}"));
        Self {
            counts: name("rollups"),
            hourly: name("rollups_hourly"),
            user_hours: name("user_hours"),
            users: name("user_rollups"),
            users_hourly: name("users_hourly"),
        }
    }

    /// Puts the names into a migration.
    #[must_use]
    pub fn fill(&self, migration: &str) -> String {
        migration
            .replace("{counts}", &self.counts)
            .replace("{hourly}", &self.hourly)
            .replace("{user_hours}", &self.user_hours)
            .replace("{users}", &self.users)
            .replace("{users_hourly}", &self.users_hourly)
    }
}

/// The statements that add to rollups.
#[derive(Clone, Debug)]
pub struct RollupStatements {
    counts: String,
    users: Option<String>,
}

impl RollupStatements {
    /// Renders the statements; `users` asks for distinct users too.
    #[must_use]
    pub fn new(table: &TableName, users: bool) -> Self {
        let names = Names::of(table);
        let (counts, user_hours) = (&names.counts, &names.user_hours);
        Self {
            counts: format!(
                "INSERT INTO {counts} AS sum (hour, event_type, service, group_id, topic, partition, events) \
                 SELECT hour, event_type, service, $1, $2, $3, events \
                 FROM unnest($4::timestamptz[], $5::text[], $6::text[], $7::bigint[]) AS new(hour, event_type, service, events) \
                 ON CONFLICT (hour, event_type, service, group_id, topic, partition) \
                 DO UPDATE SET events = sum.events + excluded.events"
            ),
            // A pair counts where it was seen first: the index decides between two transactions that see it at once.
            users: users.then(|| {
                format!(
                    "WITH first AS (INSERT INTO {user_hours} (hour, user_id) \
                     SELECT hour, user_id FROM unnest($4::timestamptz[], $5::uuid[]) AS seen(hour, user_id) \
                     ON CONFLICT DO NOTHING RETURNING hour) \
                     INSERT INTO {} AS sum (hour, group_id, topic, partition, users) \
                     SELECT hour, $1, $2, $3, count(*) FROM first GROUP BY hour \
                     ON CONFLICT (hour, group_id, topic, partition) DO UPDATE SET users = sum.users + excluded.users",
                    names.users
                )
            }),
        }
    }

    /// Adds the counts of rows that this transaction stored; `partition` is one whose offset it has moved.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub(super) async fn add(
        &self,
        connection: &mut PgConnection,
        owner: &Owner,
        partition: i32,
        counts: &[Count],
    ) -> Result<(), sqlx::Error> {
        sqlx::query(AssertSqlSafe(self.counts.clone()))
            .bind(&*owner.group_id)
            .bind(&*owner.topic)
            .bind(partition)
            .bind(counts.iter().map(|count| begin_of(count.hour)).collect::<Vec<_>>())
            .bind(counts.iter().map(|count| count.event_type.as_str()).collect::<Vec<_>>())
            .bind(counts.iter().map(|count| count.service.as_str()).collect::<Vec<_>>())
            .bind(counts.iter().map(|count| count.events.cast_signed()).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    /// Whether distinct users are counted.
    pub(super) fn has_users(&self) -> bool {
        self.users.is_some()
    }

    /// Adds users seen in rows that this transaction stored.
    ///
    /// # Errors
    /// Whatever PostgreSQL says.
    pub(super) async fn add_users(
        &self,
        connection: &mut PgConnection,
        owner: &Owner,
        partition: i32,
        seen: &std::collections::BTreeSet<(i64, Uuid)>,
    ) -> Result<(), sqlx::Error> {
        let Some(statement) = &self.users else { return Ok(()) };
        sqlx::query(AssertSqlSafe(statement.clone()))
            .bind(&*owner.group_id)
            .bind(&*owner.topic)
            .bind(partition)
            .bind(seen.iter().map(|(hour, _)| begin_of(*hour)).collect::<Vec<_>>())
            .bind(seen.iter().map(|(_, user)| *user).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// What to count anew.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// From the hour of this moment on.
    pub from: DateTime<Utc>,
    /// Up to this moment; an hour that has begun counts whole.
    pub to: DateTime<Utc>,
}

impl Range {
    /// The hours of the range, in hours since 1970.
    fn hours(&self) -> std::ops::Range<i64> {
        let end = rollup::hour_of(self.to.timestamp_micros().saturating_sub(1)) + 1;
        hour_of(self.from.timestamp_micros())..end
    }
}

/// Counts the rows of a range of hours anew, each hour in a transaction of its own, and returns the number of hours
/// and of events. Consumers may run meanwhile: they wait while one hour is counted. A transaction that has added to
/// the rollups holds its lock on the table until its rows are there, so none is counted twice or missed.
///
/// # Errors
/// Whatever PostgreSQL says; hours that are done stay done.
pub async fn rebuild(
    connection: &mut PgConnection,
    table: &TableName,
    owner: &Owner,
    users: bool,
    range: Range,
) -> Result<(u64, u64), sqlx::Error> {
    connection.execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    let names = Names::of(table);
    let Some(hours) = occupied(connection, table, &names, range.hours()).await? else { return Ok((0, 0)) };
    let (mut done, mut events) = (0, 0);
    for hour in hours {
        events += rebuild_hour(connection, table, &names, owner, users, begin_of(hour)).await?;
        done += 1;
    }
    Ok((done, events))
}

/// The part of the hours in which there is anything to count or to remove.
async fn occupied(
    connection: &mut PgConnection,
    table: &TableName,
    names: &Names,
    hours: std::ops::Range<i64>,
) -> Result<Option<std::ops::Range<i64>>, sqlx::Error> {
    let query = format!(
        "SELECT min(at), max(at) FROM (\
         (SELECT min(\"timestamp\") FROM {table} WHERE \"timestamp\" >= $1 AND \"timestamp\" < $2) UNION ALL \
         (SELECT max(\"timestamp\") FROM {table} WHERE \"timestamp\" >= $1 AND \"timestamp\" < $2) UNION ALL \
         (SELECT min(hour) FROM {counts} WHERE hour >= $1 AND hour < $2) UNION ALL \
         (SELECT max(hour) FROM {counts} WHERE hour >= $1 AND hour < $2)) AS edge(at)",
        table = table.quoted(),
        counts = names.counts
    );
    let (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) = sqlx::query_as(AssertSqlSafe(query))
        .bind(begin_of(hours.start))
        .bind(begin_of(hours.end))
        .fetch_one(connection)
        .await?;
    Ok(first
        .zip(last)
        .map(|(first, last)| hour_of(first.timestamp_micros())..hour_of(last.timestamp_micros()) + 1))
}

async fn rebuild_hour(
    connection: &mut PgConnection,
    table: &TableName,
    names: &Names,
    owner: &Owner,
    users: bool,
    hour: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let (table, counts) = (table.quoted(), &names.counts);
    let mut transaction = connection.begin().await?;
    let lock = format!("LOCK TABLE {counts} IN SHARE ROW EXCLUSIVE MODE");
    transaction.execute(AssertSqlSafe(lock)).await?;
    let within = "\"timestamp\" >= $1 AND \"timestamp\" < $1 + interval '1 hour'";
    let mut statements = vec![format!("DELETE FROM {counts} WHERE hour = $1")];
    if users {
        let (user_hours, users) = (&names.user_hours, &names.users);
        statements.extend([
            format!("DELETE FROM {user_hours} WHERE hour = $1"),
            format!("DELETE FROM {users} WHERE hour = $1"),
            format!("INSERT INTO {user_hours} (hour, user_id) SELECT DISTINCT $1, user_id FROM {table} WHERE {within}"),
        ]);
    }
    for statement in statements {
        sqlx::query(AssertSqlSafe(statement)).bind(hour).execute(&mut *transaction).await?;
    }
    if users {
        let count = format!(
            "INSERT INTO {} (hour, group_id, topic, partition, users) \
             SELECT $1, $2, $3, $4, count(*) FROM {} WHERE hour = $1 HAVING count(*) > 0",
            names.users, names.user_hours
        );
        let count = sqlx::query(AssertSqlSafe(count)).bind(hour).bind(&*owner.group_id).bind(&*owner.topic);
        count.bind(REBUILT).execute(&mut *transaction).await?;
    }
    let count = format!(
        "WITH new AS (INSERT INTO {counts} (hour, event_type, service, group_id, topic, partition, events) \
         SELECT $1, event_type, service, $2, $3, $4, count(*) FROM {table} WHERE {within} GROUP BY event_type, service \
         RETURNING events) SELECT coalesce(sum(events), 0)::bigint FROM new"
    );
    let count =
        sqlx::query_scalar(AssertSqlSafe(count)).bind(hour).bind(&*owner.group_id).bind(&*owner.topic);
    let events: i64 = count.bind(REBUILT).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(events.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_after_the_events_table() {
        let names = |table: &str| Names::of(&TableName::parse(table).expect("a name"));
        assert_eq!(names("events").counts, "\"event_rollups\"");
        assert_eq!(names("events").hourly, "\"event_rollups_hourly\"");
        assert_eq!(names("shop.clicks").users_hourly, "\"shop\".\"clicks_users_hourly\"");
        let filled = names("events").fill("{counts} {hourly} {user_hours} {users} {users_hourly}");
        assert!(!filled.contains('{'), "{filled}");
    }

    #[test]
    fn a_range_covers_every_hour_that_it_touches() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let hours = |from: &str, to: &str| Range { from: at(from), to: at(to) }.hours();
        assert_eq!(hours("1970-01-01T00:00:00Z", "1970-01-01T02:00:00Z"), 0..2);
        assert_eq!(hours("1970-01-01T00:59:59Z", "1970-01-01T02:00:01Z"), 0..3);
        assert!(hours("1970-01-02T00:00:00Z", "1970-01-01T00:00:00Z").is_empty());
    }
}
