//! One writer: takes the batch that has gathered, writes it in one transaction, again until it is stored.

mod room;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::batch::Batch;
use crate::engine::BusyClock;
use crate::letter_topic::{LetterTopic, UndeliveredError};
use crate::metrics::{Labels, Metrics, event_type_label};
use crate::recent_keys::RecentKeys;
use crate::retry::{Backoff, answered};
use crate::settings::BatchLimits;
use crate::sink::classify::{Fault, describe, fault, fault_label, is_lock_timeout};
use crate::sink::offsets::{self, Owner};
use crate::sink::{self, Course, Database, Outcome, Piece, Statements, Target, WriteError, Written};
use crate::slot::Slot;
use crate::source::{Control, Positions};
use crate::status::Status;
use crate::trace;
pub use room::Room;

/// An idle writer looks after its connection this often, so that readiness is true in quiet times too.
const IDLE_CHECK: Duration = Duration::from_secs(5);
/// A small question that has no answer after this time is given up with its connection: the server or the network hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Making partitions is given up after this time, with the connection: the server ends each of several statements before that.
const ROOM_TIMEOUT: Duration = Duration::from_secs(120);
/// A batch in which nothing passes is looked at from another row the next time, so many rows further.
const ELSEWHERE: usize = 499;

/// Added to what PostgreSQL says where it refuses whatever it is given.
const NOTHING_PASSES: &str = "no row passes, so that this seems to be a mistake in the database; if a rule of the table is right, \
                              what it refuses becomes dead letters as soon as others pass";

/// What the service of a record is called that could not be read.
const UNKNOWN: &str = "unknown";

/// A writer's belongings.
pub struct Writer {
    /// Which of the slots is this writer's.
    pub index: usize,
    /// All slots.
    pub slots: Arc<[Slot]>,
    /// Where rows go.
    pub database: Database,
    /// The SQL.
    pub statements: Statements,
    /// Whose offsets move.
    pub owner: Owner,
    /// Where dead letters go, if not to a table.
    pub letters: Option<Arc<LetterTopic>>,
    /// Partitions for the rows, if the table has any.
    pub room: Option<Room>,
    /// Bounds of a batch.
    pub limits: BatchLimits,
    /// Stored offsets, shared with the reading thread.
    pub positions: Arc<Positions>,
    /// To the reading thread.
    pub control: std::sync::mpsc::Sender<Control>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What readiness knows.
    pub status: Arc<Status>,
    /// How much of the time the engine is at work.
    pub busy: Arc<BusyClock>,
    /// No more records come: write what is there, then end.
    pub draining: CancellationToken,
}

/// What a writer carries from batch to batch.
struct Memory {
    connection: Option<PgConnection>,
    recent: RecentKeys,
    labels: Labels,
    /// Share of the last batches in which the database found duplicates, 0 to 1: above one half an insert is tried
    /// first, because a COPY would most likely have to be repeated.
    duplicate_share: f64,
    /// How many rows the server takes in one statement in time.
    piece: Piece,
    /// Rules that refused a row that was alone, since a row passed last.
    doubted: Vec<String>,
    /// Whether the topic of the dead letters refused some of this writer's.
    letters_refused: bool,
}

impl Writer {
    /// Writes until drained.
    pub async fn run(self) {
        let mut memory = Memory {
            connection: None,
            recent: RecentKeys::new(),
            labels: Labels::default(),
            duplicate_share: 0.0,
            piece: Piece::WHOLE,
            doubted: Vec::new(),
            letters_refused: false,
        };
        let mut batch = Batch::with_room_for(&self.limits);
        loop {
            if self.slots[self.index].take(&mut batch) {
                let span = trace::batch_span(&batch, &self.owner);
                self.write(&mut batch, &mut memory).instrument(span).await;
                batch.clear(&self.limits);
                continue;
            }
            if self.draining.is_cancelled() {
                break;
            }
            tokio::select! {
                () = self.slots[self.index].filled() => {}
                () = self.draining.cancelled() => {}
                () = tokio::time::sleep(IDLE_CHECK) => self.look_after(&mut memory).await,
            }
        }
        if let Some(connection) = memory.connection {
            // The server notices a connection that ends without a good-bye as well.
            let _ = answered(ANSWER_TIMEOUT, connection.close()).await;
        }
    }

    /// Keeps the connection of an idle writer alive, and readiness true: a server that answers may still take no writes.
    async fn look_after(&self, memory: &mut Memory) {
        match self.takes_writes(memory).await {
            Ok(true) => self.status.database_up(self.index),
            Ok(false) => self.status.database_down(
                self.index,
                format!(
                    "PostgreSQL at {} is read-only, as a replica is after a failover",
                    self.database.place()
                ),
            ),
            Err(error) => self.disconnected(memory, &error),
        }
    }

    async fn takes_writes(&self, memory: &mut Memory) -> Result<bool, sqlx::Error> {
        let connection = self.connected(memory).await?;
        let asking = sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection);
        let read_only: String = answered(ANSWER_TIMEOUT, asking).await?;
        Ok(read_only == "off")
    }

    async fn connected<'a>(&self, memory: &'a mut Memory) -> Result<&'a mut PgConnection, sqlx::Error> {
        let connection = match memory.connection.take() {
            Some(connection) => connection,
            None => {
                memory.recent.clear();
                self.database.connect().await?
            }
        };
        Ok(memory.connection.insert(connection))
    }

    /// Tells readiness of a server that does not answer, long before it is given up on.
    fn listener(&self) -> impl Fn() + Send + Sync + 'static {
        let (status, index, place) = (Arc::clone(&self.status), self.index, self.database.place());
        move || {
            let seconds = sink::SILENCE.as_secs();
            tracing::warn!(database = place, "No answer for {seconds} s; waiting on");
            status.database_down(index, format!("PostgreSQL at {place}: no answer for {seconds} s"));
        }
    }

    fn disconnected(&self, memory: &mut Memory, error: &sqlx::Error) {
        memory.connection = None;
        self.metrics.database_failed(error);
        self.status
            .database_down(self.index, format!("PostgreSQL at {}: {}", self.database.place(), tell(error)));
    }

    async fn write(&self, batch: &mut Batch, memory: &mut Memory) {
        batch.sort_and_deduplicate();
        batch.remove_known(|key| memory.recent.contains(key));
        let doubted = std::mem::take(&mut memory.doubted);
        let mut course = Course { written: Written::Copied, piece: memory.piece, start: 0, doubted };
        self.settle(batch, memory, &mut course).await;
        (memory.piece, memory.doubted) = (course.piece, course.doubted);
    }

    /// Tries until the batch is stored, or is others' business.
    async fn settle(&self, batch: &mut Batch, memory: &mut Memory, course: &mut Course) {
        let mut backoff = Backoff::new();
        loop {
            // A partition that was given back in the meantime is its new owner's business.
            batch.retain_partitions(|progress| self.slots[self.index].is_current(progress));
            if batch.is_empty() {
                return self.letters_settled(batch, memory);
            }
            batch.note_log_ends(|partition| self.positions.log_end(partition));
            let started = Instant::now();
            let span = trace::transaction_span(batch);
            let attempt = self.attempt(batch, memory, course).instrument(span.clone());
            let result = sink::heard(self.listener(), attempt).await;
            trace::end_transaction(&span, &result);
            match result {
                Ok(outcome) => return self.committed(batch, &outcome, course, started, memory),
                Err(WriteError::Fenced(partitions)) => self.fenced(batch, &partitions, started, memory),
                Err(WriteError::Database(error)) => {
                    if is_lock_timeout(&error) {
                        self.clear_the_way(batch, memory).await;
                    }
                    self.failed(&error, started, memory);
                    tokio::time::sleep(backoff.next()).await;
                    if matches!(fault(&error), Fault::Rule { .. }) {
                        course.start += ELSEWHERE;
                        self.give_company(batch, memory);
                    }
                }
                Err(WriteError::Undelivered(error)) => {
                    self.undelivered(&error, started, memory);
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Where nothing of a batch passes a rule of the table it cannot be told whose fault that is. Joins it with what was
    /// read meanwhile: the first row that passes tells, and what is at fault holds up nobody any longer.
    fn give_company(&self, batch: &mut Batch, memory: &Memory) {
        batch.retain_partitions(|progress| self.slots[self.index].is_current(progress));
        if batch.is_empty() || batch.is_full(&self.limits) {
            return;
        }
        let mut later = Batch::with_room_for(&self.limits);
        if self.slots[self.index].take(&mut later) {
            batch.absorb(&mut later);
            batch.sort_and_deduplicate();
            batch.remove_known(|key| memory.recent.contains(key));
        }
    }

    /// Somebody holds a lock that this batch needs: if it is a former owner of its partitions who was frozen in the
    /// middle of a transaction, ends that.
    async fn clear_the_way(&self, batch: &Batch, memory: &mut Memory) {
        let partitions: Vec<i32> = batch.progress().iter().map(|progress| progress.partition).collect();
        let ended = match self.connected(memory).await {
            Ok(connection) => {
                let ending = offsets::end_frozen(connection, &self.statements, &self.owner, &partitions);
                answered(ANSWER_TIMEOUT, ending).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!(error = describe(&error), "Whoever holds the lock keeps it");
        }
    }

    async fn attempt(
        &self,
        batch: &mut Batch,
        memory: &mut Memory,
        course: &mut Course,
    ) -> Result<Outcome, WriteError> {
        course.written = if memory.duplicate_share > 0.5 { Written::Inserted } else { Written::Copied };
        let connection = self.connected(memory).await?;
        if let Some(room) = &self.room {
            room.make(connection, batch, ROOM_TIMEOUT).await?;
        }
        let letters = self.letters.as_deref();
        let target = Target { statements: &self.statements, owner: &self.owner, letters };
        target.write(connection, batch, course).await
    }

    fn committed(
        &self,
        batch: &Batch,
        outcome: &Outcome,
        course: &mut Course,
        started: Instant,
        memory: &mut Memory,
    ) {
        for progress in batch.progress() {
            self.positions.advance(progress.partition, progress.to);
        }
        self.status.database_up(self.index);
        self.letters_settled(batch, memory);
        for row in batch.rows() {
            memory.recent.remember(&row.key);
        }
        let found = f64::from(u8::from(course.written != Written::Copied && outcome.duplicates > 0));
        memory.duplicate_share = 0.8 * memory.duplicate_share + 0.2 * found;
        let seconds = started.elapsed().as_secs_f64();
        course.piece.grow(batch.rows().len(), seconds);
        if !outcome.stored.is_empty() {
            course.doubted.clear();
        }
        self.busy.transaction(self.index, seconds, batch.rows().len(), self.limits.max_events);
        self.count(batch, outcome, seconds, memory);
    }

    fn count(&self, batch: &Batch, outcome: &Outcome, seconds: f64, memory: &mut Memory) {
        let metrics = &self.metrics;
        metrics.transactions.with_label_values(&["committed"]).observe(seconds);
        let records: u64 = batch.progress().iter().map(|progress| progress.records).sum();
        metrics.batch_events.observe(records as f64);
        metrics.progressed(batch);
        for (event_type, count) in &outcome.stored {
            metrics.stored.with_label_values(&[event_type_label(event_type)]).inc_by(*count);
        }
        metrics.duplicates.inc_by(outcome.duplicates + batch.duplicates().count() as u64);
        for letter in batch.dead_letters() {
            metrics.dead_letter(letter);
            memory.labels.processed(metrics, "", UNKNOWN).inc();
        }
        let age = batch.first_read().map_or(0.0, |first| first.elapsed().as_secs_f64());
        let now = Utc::now().timestamp_millis();
        let (processing, end_to_end) = (metrics.processing.local(), metrics.end_to_end.local());
        for row in batch.rows().iter().chain(batch.duplicates()) {
            memory.labels.processed(metrics, batch.event_type(row), batch.service(row)).inc();
            processing.observe(age);
            if row.record_timestamp_millis >= 0 {
                end_to_end.observe((now - row.record_timestamp_millis).max(0) as f64 / 1000.0);
            }
        }
    }

    fn fenced(&self, batch: &mut Batch, partitions: &[i32], started: Instant, memory: &mut Memory) {
        tracing::warn!(
            ?partitions,
            "Another consumer moved these partitions; dropping what was read of them and reading their offsets again"
        );
        self.metrics.fenced.inc();
        self.metrics.transactions.with_label_values(&["fenced"]).observe(started.elapsed().as_secs_f64());
        memory.recent.clear();
        for progress in batch.progress().iter().filter(|progress| partitions.contains(&progress.partition)) {
            self.slots[self.index].end_generation(progress.partition, progress.generation);
            // The reading thread is gone only when the process is stopping.
            let _ = self
                .control
                .send(Control::Fenced { partition: progress.partition, generation: progress.generation });
        }
        batch.retain_partitions(|progress| !partitions.contains(&progress.partition));
    }

    /// The batch is done: its dead letters are in their topic, or those that were refused are another consumer's business.
    fn letters_settled(&self, batch: &Batch, memory: &mut Memory) {
        if std::mem::take(&mut memory.letters_refused) || !batch.dead_letters().is_empty() {
            self.status.letters_up(Some(self.index));
        }
    }

    fn undelivered(&self, error: &UndeliveredError, started: Instant, memory: &mut Memory) {
        memory.letters_refused = true;
        tracing::warn!(%error, "Dead letters are not in their topic yet; trying on");
        self.metrics.transactions.with_label_values(&["failed"]).observe(started.elapsed().as_secs_f64());
        self.status.letters_down(Some(self.index), error.to_string());
    }

    fn failed(&self, error: &sqlx::Error, started: Instant, memory: &mut Memory) {
        let description = tell(error);
        let label = fault_label(error);
        if label == "configuration" {
            tracing::error!(
                error = description,
                "PostgreSQL refuses; a person must act, trying on meanwhile"
            );
        } else {
            tracing::warn!(error = description, "PostgreSQL did not take the batch; trying on");
        }
        self.metrics.transactions.with_label_values(&["failed"]).observe(started.elapsed().as_secs_f64());
        self.disconnected(memory, error);
    }
}

/// The error for a person who must act, or wait.
fn tell(error: &sqlx::Error) -> String {
    let description = describe(error);
    match fault(error) {
        Fault::Rule { .. } => format!("{description}; {NOTHING_PASSES}"),
        _ => description,
    }
}
