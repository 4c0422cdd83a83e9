//! The schema: embedded, versioned migrations under a lock, and a check that the tables are what the consumer needs.
//!
//! Each table is a component with its own list of steps, so that pipelines which share an events table but not a
//! dead-letter table can meet in one database. The lock is polled instead of waited for: a session that waits inside
//! PostgreSQL holds a snapshot, and `CREATE INDEX CONCURRENTLY` of the session that has the lock would wait for it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::partitions;
use super::rollups::Names;
use super::statements::OFFSETS_TABLE;
use crate::settings::{self, TableName, quote};

/// Key of the advisory lock: any number will do as long as every version of this program uses the same.
const LOCK: i64 = 0x616e_616c_7974_6963; // "analytic"
const LOCK_POLL: Duration = Duration::from_millis(200);

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
        if let Step::Index { column, unique } = migration {
            ensure_index(connection, &settings.table, column, *unique).await?;
        }
        let mut transaction = connection.begin().await.map_err(failed())?;
        if let Step::Sql(statements) = migration {
            sqlx::raw_sql(AssertSqlSafe(statements.clone()))
                .execute(&mut *transaction)
                .await
                .map_err(failed())?;
        }
        sqlx::query(AssertSqlSafe(record.clone()))
            .bind(&component.name)
            .bind(version)
            .execute(&mut *transaction)
            .await
            .map_err(failed())?;
        transaction.commit().await.map_err(failed())?;
        tracing::info!(component = component.name, version, "Applied a schema migration");
    }
    Ok(())
}

/// Makes a single-column index unless a valid one is there under whatever name. A table that was there before may be
/// large and in use, so its writers are not blocked; an index that an interrupted build left invalid is replaced.
async fn ensure_index(
    connection: &mut PgConnection,
    table: &TableName,
    column: &str,
    unique: bool,
) -> Result<(), SchemaError> {
    let quoted = table.quoted();
    let failed = || step(format!("build the index on {column} of {quoted}"));
    let valid: Option<bool> = sqlx::query_scalar(SINGLE_COLUMN_INDEX)
        .bind(&quoted)
        .bind(column)
        .bind(unique)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed())?;
    if valid == Some(true) {
        return Ok(());
    }
    let name = if unique {
        format!("{}_{column}_key", table.name())
    } else {
        format!("idx_{}_{column}", table.name())
    };
    let has_rows: bool = sqlx::query_scalar(AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {quoted})")))
        .fetch_one(&mut *connection)
        .await
        .map_err(failed())?;
    let concurrently = if has_rows { "CONCURRENTLY" } else { "" };
    let kind = if unique { "UNIQUE INDEX" } else { "INDEX" };
    let statements = [
        // Building may take longer than any statement of the running consumer is allowed to.
        "SET statement_timeout = 0".to_owned(),
        format!("DROP INDEX {concurrently} IF EXISTS {}", table.sibling(&name)),
        format!("CREATE {kind} {concurrently} {} ON {quoted} ({})", quote(&name), quote(column)),
        "SET statement_timeout = '60s'".to_owned(),
    ];
    for statement in statements {
        connection.execute(AssertSqlSafe(statement)).await.map_err(failed())?;
    }
    Ok(())
}

/// Whether an index on exactly that column, without a condition, is there and valid; `$3` asks for a unique one.
const SINGLE_COLUMN_INDEX: &str = "SELECT indisvalid FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] \
     WHERE indrelid = $1::regclass AND (indisunique OR NOT $3) AND indnkeyatts = 1 AND indpred IS NULL AND indexprs IS NULL \
     AND attname = $2 ORDER BY indisvalid DESC LIMIT 1";

/// Columns that the consumer writes, and the types in which it can.
const EVENT_COLUMNS: &[(&str, &[&str])] = &[
    ("event_type", &["character varying", "text"]),
    ("user_id", &["uuid"]),
    ("service", &["character varying", "text"]),
    ("timestamp", &["timestamp with time zone"]),
    ("data", &["jsonb"]),
    ("event_key", &["uuid"]),
];
const OFFSET_COLUMNS: &[(&str, &[&str])] = &[
    ("group_id", &["text"]),
    ("topic", &["text"]),
    ("partition", &["integer"]),
    ("next_offset", &["bigint"]),
    ("topic_id", &["text"]),
];
const ROLLUP_COLUMNS: &[(&str, &[&str])] = &[
    ("hour", &["timestamp with time zone"]),
    ("service", &["text"]),
    ("partition", &["integer"]),
    ("events", &["bigint"]),
];
const USER_COLUMNS: &[(&str, &[&str])] =
    &[("hour", &["timestamp with time zone"]), ("partition", &["integer"]), ("users", &["bigint"])];
const DEAD_LETTER_COLUMNS: &[(&str, &[&str])] =
    &[("partition", &["integer"]), ("offset", &["bigint"]), ("reason", &["text"]), ("payload", &["bytea"])];

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
    let table = settings.table.quoted();
    let unique: Option<bool> = sqlx::query_scalar(SINGLE_COLUMN_INDEX)
        .bind(&table)
        .bind("event_key")
        .bind(true)
        .fetch_optional(connection)
        .await
        .map_err(step(format!("look up the indexes of {table}")))?;
    if unique == Some(true) {
        return Ok(());
    }
    Err(SchemaError::Shape(format!(
        "table {table} has no valid unique index on event_key, without which duplicates cannot be told; run \
         `analytics-consumer migrate`, or: CREATE UNIQUE INDEX CONCURRENTLY ON {table} (event_key)"
    )))
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

async fn check_columns(
    connection: &mut PgConnection,
    setting: &str,
    table: &str,
    expected: &[(&str, &[&str])],
) -> Result<(), SchemaError> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT attname::text, regexp_replace(format_type(atttypid, NULL), '\\(.*', '') FROM pg_attribute \
         WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
    )
    .bind(table)
    .fetch_all(connection)
    .await
    .map_err(step(format!("look up the columns of {table}")))?;
    if columns.is_empty() {
        return Err(SchemaError::Shape(format!(
            "table {table} does not exist; run `analytics-consumer migrate` with the same settings"
        )));
    }
    for (name, types) in expected {
        let found = columns.iter().find(|(column, _)| column == name).map(|(_, found)| found.as_str());
        if !found.is_some_and(|found| types.contains(&found)) {
            let is = found.map_or("is missing".to_owned(), |found| format!("has type {found}"));
            return Err(SchemaError::Shape(format!(
                "table {table} exists with another shape: column {name} {is}, needed is {}; change the column or \
                 name another table with {setting}",
                types[0]
            )));
        }
    }
    Ok(())
}
