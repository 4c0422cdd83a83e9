//! The schema: embedded, versioned migrations under a lock, and a check that the tables are what the consumer needs.
//!
//! Each table is a component with its own list of steps, so that pipelines which share an events table but not a
//! dead-letter table can meet in one database. The lock is polled instead of waited for: a session that waits inside
//! PostgreSQL holds a snapshot, and `CREATE INDEX CONCURRENTLY` of the session that has the lock would wait for it.

mod index;
mod shape;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use self::index::Wanted;
use self::shape::{
    DEAD_LETTER_COLUMNS, EVENT_COLUMNS, OFFSET_COLUMNS, ROLLUP_COLUMNS, USER_COLUMNS, check_columns,
};
use super::classify::is_lock_timeout;
use super::partitions;
use super::rollups::Names;
use super::statements::OFFSETS_TABLE;
use crate::settings;

/// Key of the advisory lock: any number will do as long as every version of this program uses the same.
const LOCK: i64 = 0x616e_616c_7974_6963; // "analytic"
const LOCK_POLL: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(500);

/// The schema cannot be brought, or is not, where the consumer needs it.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// PostgreSQL refused a step.
    #[error("failed to {step}: {}", super::classify::describe(.source))]
    Step {
        /// What was being done.
        step: String,
        /// PostgreSQL's answer.
        source: sqlx::Error,
    },
    /// A table is there but has another shape.
    #[error("{0}")]
    Shape(String),
}

impl SchemaError {
    /// Whether trying again without a person's help can succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Step { source, .. } => super::classify::fault(source) == super::classify::Fault::Transient,
            Self::Shape(_) => false,
        }
    }
}

pub(super) fn step(step: impl Into<String>) -> impl FnOnce(sqlx::Error) -> SchemaError {
    let step = step.into();
    move |source| SchemaError::Step { step, source }
}

/// A table and the steps that made it what it is, oldest first. Never change a step that was released: add one.
struct Component {
    name: String,
    steps: Vec<Step>,
}

/// One step from a schema version to the next.
enum Step {
    /// Statements, in one transaction.
    Sql(String),
    /// A single-column index on the events table, built without blocking writers when there are rows already.
    Index { column: &'static str, unique: bool },
}

fn components(settings: &settings::Database) -> Vec<Component> {
    let offsets = settings.table.sibling(OFFSETS_TABLE);
    let mut components = vec![
        Component {
            name: format!("offsets of {}", settings.table),
            steps: vec![Step::Sql(
                include_str!("../../migrations/offsets_1.sql")
                    .replace("{offsets}", &offsets)
                    .replace("{view}", &settings.table.sibling("pipeline_lag")),
            )],
        },
        if settings.partitioning.is_some() { partitioned_events(settings) } else { plain_events(settings) },
        Component {
            name: format!("rollups of {}", settings.table),
            steps: vec![Step::Sql(
                Names::of(&settings.table).fill(include_str!("../../migrations/rollups_1.sql")),
            )],
        },
    ];
    components.extend(settings.dead_letters.table().map(|table| Component {
        name: format!("dead letters {table}"),
        steps: vec![Step::Sql(
            include_str!("../../migrations/dead_letters_1.sql").replace("{dead_letters}", &table.quoted()),
        )],
    }));
    components
}

fn plain_events(settings: &settings::Database) -> Component {
    let events = settings.table.quoted();
    Component {
        name: format!("events {}", settings.table),
        steps: vec![
            Step::Sql(include_str!("../../migrations/events_1.sql").replace("{events}", &events)),
            Step::Index { column: "event_key", unique: true },
            Step::Index { column: "user_id", unique: false },
            Step::Index { column: "event_type", unique: false },
            Step::Index { column: "timestamp", unique: false },
            Step::Index { column: "service", unique: false },
        ],
    }
}

fn partitioned_events(settings: &settings::Database) -> Component {
    let default = settings.table.sibling(&format!("{}_default", settings.table.name()));
    Component {
        name: format!("partitioned events {}", settings.table),
        steps: vec![Step::Sql(
            include_str!("../../migrations/partitioned_events_1.sql")
                .replace("{events}", &settings.table.quoted())
                .replace("{default}", &default),
        )],
    }
}

/// Brings the schema up to date. Safe to run twice, and from several processes at once.
///
/// # Errors
/// The step that failed with PostgreSQL's answer, or the difference between a table that exists and the one needed.
pub async fn migrate(
    connection: &mut PgConnection,
    settings: &settings::Database,
) -> Result<(), SchemaError> {
    lock(connection).await?;
    let result = migrate_locked(connection, settings).await;
    let unlocked = sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(&mut *connection).await;
    result?;
    unlocked.map_err(step("release the migration lock"))?;
    check(connection, settings).await
}

async fn lock(connection: &mut PgConnection) -> Result<(), SchemaError> {
    loop {
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK)
            .fetch_one(&mut *connection)
            .await
            .map_err(step("take the migration lock"))?;
        if locked {
            return Ok(());
        }
        tracing::info!("Another process is migrating the schema; waiting for it");
        tokio::time::sleep(LOCK_POLL).await;
    }
}

async fn migrate_locked(
    connection: &mut PgConnection,
    settings: &settings::Database,
) -> Result<(), SchemaError> {
    let versions = settings.table.sibling("pipeline_schema");
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {versions} (component text NOT NULL, version integer NOT NULL, \
         applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (component, version))"
    );
    connection.execute(AssertSqlSafe(create)).await.map_err(step(format!("create the table {versions}")))?;
    refuse_foreign_table(connection, settings).await?;
    forget_what_is_gone(connection, settings, &versions).await?;
    for component in components(settings) {
        apply(connection, settings, &versions, &component).await?;
    }
    Ok(())
}

async fn apply(
    connection: &mut PgConnection,
    settings: &settings::Database,
    versions: &str,
    component: &Component,
) -> Result<(), SchemaError> {
    let query = format!("SELECT coalesce(max(version), 0) FROM {versions} WHERE component = $1");
    let done: i32 = sqlx::query_scalar(AssertSqlSafe(query))
        .bind(&component.name)
        .fetch_one(&mut *connection)
        .await
        .map_err(step(format!("read the schema version of {}", component.name)))?;
    let record = format!("INSERT INTO {versions} (component, version) VALUES ($1, $2)");
    for (version, migration) in (1_i32..).zip(&component.steps).filter(|(version, _)| *version > done) {
        let failed = || step(format!("apply schema version {version} of {}", component.name));
        let statements = match migration {
            Step::Index { column, unique } => {
                let wanted = Wanted { table: &settings.table, column, unique: *unique };
                index::ensure(connection, wanted).await?;
                ""
            }
            Step::Sql(statements) => statements.as_str(),
        };
        patiently(async || {
            let mut transaction = connection.begin().await?;
            sqlx::raw_sql(AssertSqlSafe(format!("{BRIEFLY}; {statements}")))
                .execute(&mut *transaction)
                .await?;
            sqlx::query(AssertSqlSafe(record.clone()))
                .bind(&component.name)
                .bind(version)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        })
        .await
        .map_err(failed())?;
        tracing::info!(component = component.name, version, "Applied a schema migration");
    }
    Ok(())
}

/// Whoever waits for a lock on a table stands in the way of everybody who comes later. So a step that needs one waits
/// briefly, lets the others pass, and comes back.
const BRIEFLY: &str = "SET LOCAL lock_timeout = '500ms'";
const LOCK_ATTEMPTS: u32 = 60;

/// Does `work` again while somebody holds a lock that it needs.
async fn patiently(mut work: impl AsyncFnMut() -> Result<(), sqlx::Error>) -> Result<(), sqlx::Error> {
    let mut attempts = 1;
    loop {
        match work().await {
            Err(error) if is_lock_timeout(&error) && attempts < LOCK_ATTEMPTS => {
                tracing::info!(attempts, "A table is locked by others; letting them pass");
                attempts += 1;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Checks that the tables are there and have the shape that the consumer writes.
///
/// # Errors
/// The first difference, with the way out.
pub async fn check(connection: &mut PgConnection, settings: &settings::Database) -> Result<(), SchemaError> {
    let offsets = settings.table.sibling(OFFSETS_TABLE);
    let rollups = Names::of(&settings.table);
    let mut expected = vec![
        ("DATABASE_TABLE", settings.table.quoted(), EVENT_COLUMNS),
        ("DATABASE_TABLE", offsets, OFFSET_COLUMNS),
    ];
    if let Some(table) = settings.dead_letters.table() {
        expected.push(("DEAD_LETTER_TABLE", table.quoted(), DEAD_LETTER_COLUMNS));
    }
    if settings.rollups {
        expected.push(("DATABASE_TABLE", rollups.counts, ROLLUP_COLUMNS));
    }
    if settings.rollup_users {
        expected.push(("DATABASE_TABLE", rollups.users, USER_COLUMNS));
    }
    for (setting, table, columns) in expected {
        check_columns(connection, setting, &table, columns).await?;
    }
    partitions::check(connection, settings).await?;
    index::check_key(connection, &settings.table).await?;
    shape::warn_of_narrow_id(connection, &settings.table).await
}

/// A table of that name that was not made for events must not be touched: looks before the first step changes it.
async fn refuse_foreign_table(
    connection: &mut PgConnection,
    settings: &settings::Database,
) -> Result<(), SchemaError> {
    let table = settings.table.quoted();
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&table)
        .fetch_one(&mut *connection)
        .await
        .map_err(step(format!("look for the table {table}")))?;
    let without_key: Vec<_> =
        EVENT_COLUMNS.iter().copied().filter(|(name, _)| *name != "event_key").collect();
    if !exists {
        return Ok(());
    }
    check_columns(connection, "DATABASE_TABLE", &table, &without_key).await?;
    partitions::check(connection, settings).await
}

/// Where the events table is not there any more, its steps begin anew: it was renamed to make room for another one.
async fn forget_what_is_gone(
    connection: &mut PgConnection,
    settings: &settings::Database,
    versions: &str,
) -> Result<(), SchemaError> {
    let forget = format!("DELETE FROM {versions} WHERE to_regclass($1) IS NULL AND component = ANY($2)");
    let components = [plain_events(settings).name, partitioned_events(settings).name];
    sqlx::query(AssertSqlSafe(forget))
        .bind(settings.table.quoted())
        .bind(components)
        .execute(connection)
        .await
        .map_err(step(format!("clear the table {versions}")))?;
    Ok(())
}
