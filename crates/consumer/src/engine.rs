//! Puts the parts together: one reading thread, its claims, a few writers; starts them and stops them in order.

mod busy;
mod cost;
mod tasks;
mod upkeep;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use rdkafka::config::FromClientConfigAndContext;
use tokio_util::sync::CancellationToken;

pub use busy::{BusyClock, Wait};

use crate::letter_topic::LetterTopic;
use crate::metrics::Metrics;
use crate::retry::Backoff;
use crate::settings::{Migrations, Settings};
use crate::sink::offsets::Owner;
use crate::sink::rollups::{self, Range};
use crate::sink::schema::SchemaError;
use crate::sink::{Database, Statements, partitions, schema};
use crate::slot::Slot;
use crate::source::{
    Assignments, Claim, Claims, Consumer, Context, Positions, Questions, QuietEnds, Reader, authorities,
    client_config, lookup_config,
};
use crate::status::Status;
use crate::writer::{Room, Writer};
use tasks::Tasks;
use upkeep::Upkeep;

/// The engine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The database URL.
    #[error("DATABASE_URL: {0}")]
    Database(#[from] sqlx::Error),
    /// The schema, in a way that only a person can mend.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// librdkafka refused its configuration.
    #[error("failed to make the Kafka client: {0}; check KAFKA_PROPERTIES and the security settings")]
    Client(rdkafka::error::KafkaError),
    /// The reading thread cannot go on.
    #[error(transparent)]
    Read(#[from] crate::source::ReadError),
    /// The reading thread could not be started or panicked.
    #[error("the reading thread ended: {0}")]
    Thread(String),
    /// A part that runs as long as the process ended before it.
    #[error("the task `{name}` ended by itself: {cause}; this is a fault of the program, nothing is lost")]
    Task {
        /// Which of them.
        name: String,
        /// How it ended.
        cause: String,
    },
    /// Batches were still unwritten when the time for stopping was over; nothing is lost, they will be read again.
    #[error(
        "did not finish writing within SHUTDOWN_TIMEOUT_SECONDS={0}; what was not written will be read again"
    )]
    ShutdownTimeout(u64),
}

/// Runs the consumer until `shutdown`, then stops it cleanly.
///
/// # Errors
/// What keeps it from running, or from stopping in time.
pub async fn run(
    settings: &Settings,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    shutdown: CancellationToken,
) -> Result<(), EngineError> {
    let database = Database::new(&settings.database, &settings.instance)?;
    let preparing = prepare_schema(settings, &database, &metrics, &status);
    // What is under way at the server is undone or begun anew by whoever comes next.
    let Some(prepared) = shutdown.run_until_cancelled(preparing).await else { return Ok(()) };
    prepared?;
    status.schema_ready();
    let parts = Parts::new(settings, database, metrics, Arc::clone(&status))?;
    let draining = CancellationToken::new();
    let mut tasks = Tasks::default();
    parts.spawn_writers(&mut tasks, &draining);
    let (requests, beside) = parts.spawn_claims(&mut tasks);
    // The reading thread stops when the process does, or when a task has failed.
    let stop = shutdown.child_token();
    let reader = parts.reader(requests, stop.clone());
    drop(parts);

    let (finished, mut reading) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("kafka-reader".to_owned())
        .spawn(move || {
            let mut reader = reader;
            let result = reader.run();
            // The receiver waits for exactly this.
            let _ = finished.send((reader, result));
        })
        .map_err(|error| EngineError::Thread(error.to_string()))?;
    let (read, failure) = tokio::select! {
        read = &mut reading => (read, None),
        failure = tasks.failure() => {
            tracing::error!(error = %failure, "Stopping");
            stop.cancel();
            (reading.await, Some(failure))
        }
    };
    let (reader, result) = read.map_err(|_| EngineError::Thread("it panicked".to_owned()))?;
    status.stopping();
    beside.cancel();
    draining.cancel();
    let timeout = Duration::from_secs(settings.shutdown_timeout_seconds);
    let drained = tokio::time::timeout(timeout, tasks.drained()).await;
    tasks.abort().await;
    // Blocks until the group has let this member go.
    let closed = tokio::task::spawn_blocking(move || {
        reader.close();
        thread.join()
    });
    if tokio::time::timeout(Duration::from_secs(5), closed).await.is_err() {
        tracing::warn!("The Kafka client did not close in time");
    }
    // The first cause: what follows it is mostly its consequence.
    failure.map_or(Ok(()), Err)?;
    result?;
    drained.unwrap_or(Err(EngineError::ShutdownTimeout(settings.shutdown_timeout_seconds)))
}

/// Migrates or checks the schema, waiting for a database that is away.
async fn prepare_schema(
    settings: &Settings,
    database: &Database,
    metrics: &Metrics,
    status: &Status,
) -> Result<(), EngineError> {
    let mut backoff = Backoff::new();
    loop {
        let Err(error) = schema_once(settings, database).await else { return Ok(()) };
        match &error {
            SchemaError::Step { source, .. } => metrics.database_failed(source),
            SchemaError::Shape(_) => metrics.schema_differs(),
        }
        // With `check` somebody else migrates: whatever is missing may still come.
        if settings.database.migrations == Migrations::Apply && matches!(error, SchemaError::Shape(_)) {
            return Err(error.into());
        }
        tracing::warn!(database = database.place(), %error, "The schema is not ready; trying on");
        status.schema_waits(format!("PostgreSQL at {}: {error}", database.place()));
        tokio::time::sleep(backoff.next()).await;
    }
}

/// One attempt at what `DATABASE_MIGRATIONS` says.
async fn schema_once(settings: &Settings, database: &Database) -> Result<(), SchemaError> {
    match settings.database.migrations {
        Migrations::Apply => migrate(settings, database).await,
        Migrations::Check => schema::check(&mut connect(database).await?, &settings.database).await,
    }
}

/// Brings the schema up to date, once.
///
/// # Errors
/// The step that failed.
pub async fn migrate(settings: &Settings, database: &Database) -> Result<(), SchemaError> {
    let mut connection = connect(database).await?;
    schema::migrate(&mut connection, &settings.database).await?;
    let Some(policy) = &settings.database.partitioning else { return Ok(()) };
    let table = &settings.database.table;
    partitions::maintain(&mut connection, table, policy, Utc::now())
        .await
        .map_err(|source| SchemaError::Step { step: format!("make partitions of {table}"), source })
}

/// Counts a range of hours anew, see [`rollups::rebuild`]; returns the number of hours and of events.
///
/// # Errors
/// What PostgreSQL says.
pub async fn rebuild_rollups(
    settings: &Settings,
    database: &Database,
    range: Range,
) -> Result<(u64, u64), SchemaError> {
    let mut connection = connect(database).await?;
    schema::check(&mut connection, &settings.database).await?;
    let (table, users) = (&settings.database.table, settings.database.rollup_users);
    rollups::rebuild(&mut connection, table, &owner(settings), users, range)
        .await
        .map_err(|source| SchemaError::Step { step: format!("count the rows of {table} anew"), source })
}

fn owner(settings: &Settings) -> Owner {
    Owner {
        group_id: settings.kafka.group_id.as_str().into(),
        topic: settings.kafka.topic.as_str().into(),
        instance: settings.instance.as_str().into(),
    }
}

async fn connect(database: &Database) -> Result<sqlx::PgConnection, SchemaError> {
    database.connect().await.map_err(|source| SchemaError::Step {
        step: format!("connect to PostgreSQL at {}", database.place()),
        source,
    })
}

/// What all parts share.
struct Parts<'a> {
    settings: &'a Settings,
    database: Database,
    statements: Statements,
    owner: Owner,
    letters: Option<Arc<LetterTopic>>,
    slots: Arc<[Slot]>,
    consumer: Arc<Consumer>,
    assignments: Arc<Assignments>,
    positions: Arc<Positions>,
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    busy: Arc<BusyClock>,
    control: std::sync::mpsc::Sender<crate::source::Control>,
    controlled: std::cell::Cell<Option<std::sync::mpsc::Receiver<crate::source::Control>>>,
}

impl<'a> Parts<'a> {
    fn new(
        settings: &'a Settings,
        database: Database,
        metrics: Arc<Metrics>,
        status: Arc<Status>,
    ) -> Result<Self, EngineError> {
        let positions = Arc::new(Positions::default());
        let topic = settings.kafka.topic.clone();
        let context = Context::new(topic, Arc::clone(&positions), Arc::clone(&metrics), Arc::clone(&status))
            .trusting(authorities(&settings.kafka));
        let consumer = Consumer::from_config_and_context(&client_config(&settings.kafka), context)
            .map_err(EngineError::Client)?;
        let letters = settings.database.dead_letters.topic();
        let letters = letters
            .map(|topic| LetterTopic::new(&settings.kafka, topic))
            .transpose()
            .map_err(EngineError::Client)?
            .map(Arc::new);
        let connections = settings.database.connections;
        let (control, controlled) = std::sync::mpsc::channel();
        Ok(Self {
            settings,
            database,
            statements: Statements::new(&settings.database),
            owner: owner(settings),
            letters,
            slots: (0..connections).map(|_| Slot::new(settings.batch)).collect(),
            consumer: Arc::new(consumer),
            assignments: Arc::default(),
            positions,
            metrics,
            status,
            busy: Arc::new(BusyClock::new(connections)),
            control,
            controlled: std::cell::Cell::new(Some(controlled)),
        })
    }

    fn spawn_writers(&self, tasks: &mut Tasks, draining: &CancellationToken) {
        for index in 0..self.slots.len() {
            let writer = Writer {
                index,
                slots: Arc::clone(&self.slots),
                database: self.database.clone(),
                statements: self.statements.clone(),
                owner: self.owner.clone(),
                letters: self.letters.clone(),
                room: self
                    .settings
                    .database
                    .partitioning
                    .map(|policy| Room::new(&self.settings.database.table, policy)),
                limits: self.settings.batch,
                positions: Arc::clone(&self.positions),
                control: self.control.clone(),
                metrics: Arc::clone(&self.metrics),
                status: Arc::clone(&self.status),
                busy: Arc::clone(&self.busy),
                draining: draining.clone(),
            };
            tasks.spawn(format!("writer {index}"), writer.run());
        }
    }

    fn spawn_claims(
        &self,
        tasks: &mut Tasks,
    ) -> (tokio::sync::mpsc::UnboundedSender<Claim>, CancellationToken) {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        let claims = Claims {
            database: self.database.clone(),
            statements: self.statements.clone(),
            owner: self.owner.clone(),
            start_from: self.settings.kafka.start_from,
            on_offset_gap: self.settings.kafka.on_offset_gap,
            kafka: Questions { consumer: Arc::clone(&self.consumer), topic: Arc::clone(&self.owner.topic) },
            assignments: Arc::clone(&self.assignments),
            control: self.control.clone(),
            metrics: Arc::clone(&self.metrics),
            status: Arc::clone(&self.status),
        };
        let cancel = CancellationToken::new();
        spawn_until(tasks, "claims", &cancel, claims.run(receiver));
        self.spawn_letter_check(tasks, &cancel);
        self.spawn_quiet_ends(tasks, &cancel);
        let upkeep = Upkeep {
            database: self.database.clone(),
            table: self.settings.database.table.clone(),
            policy: self.settings.database.partitioning,
            owner: self.owner.clone(),
            positions: Arc::clone(&self.positions),
            metrics: Arc::clone(&self.metrics),
        };
        spawn_until(tasks, "upkeep", &cancel, upkeep.run());
        (requests, cancel)
    }

    /// A missing topic is told at once and not with the first bad record, perhaps months later.
    fn spawn_letter_check(&self, tasks: &mut Tasks, cancel: &CancellationToken) {
        let Some(letters) = self.letters.clone() else { return };
        let status = Arc::clone(&self.status);
        spawn_until(tasks, "dead-letter topic", cancel, async move {
            letters.wait_until_there(&status).await;
            // The others run on, and so does this one.
            std::future::pending::<()>().await;
        });
    }

    fn spawn_quiet_ends(&self, tasks: &mut Tasks, cancel: &CancellationToken) {
        let ends = QuietEnds {
            config: lookup_config(&self.settings.kafka),
            topic: Arc::clone(&self.owner.topic),
            slots: Arc::clone(&self.slots),
            positions: Arc::clone(&self.positions),
            status: Arc::clone(&self.status),
        };
        spawn_until(tasks, "ends of partitions", cancel, ends.run());
    }

    fn reader(
        &self,
        claims: tokio::sync::mpsc::UnboundedSender<Claim>,
        shutdown: CancellationToken,
    ) -> Reader {
        let (_, never) = std::sync::mpsc::channel();
        Reader {
            consumer: Arc::clone(&self.consumer),
            topic: Arc::clone(&self.owner.topic),
            slots: Arc::clone(&self.slots),
            claims,
            control: self.controlled.take().unwrap_or(never),
            assignments: Arc::clone(&self.assignments),
            positions: Arc::clone(&self.positions),
            policy: crate::source::RecordPolicy {
                deduplication: self.settings.deduplication.clone(),
                tombstones: self.settings.tombstones,
                event_max_bytes: self.settings.event_max_bytes,
            },
            metrics: Arc::clone(&self.metrics),
            status: Arc::clone(&self.status),
            busy: Arc::clone(&self.busy),
            shutdown,
            partitions: HashMap::new(),
            generation: 0,
            paused: BTreeSet::new(),
            unreadable: false,
        }
    }
}

/// Runs `task` until `cancel`.
fn spawn_until(
    tasks: &mut Tasks,
    name: &str,
    cancel: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let cancel = cancel.clone();
    tasks.spawn(name, async move {
        cancel.run_until_cancelled(task).await;
    });
}
