//! One batch, one transaction: offsets by compare-and-set, rows, dead letters.
//!
//! The offsets come first. Their row locks make the next owner's claim wait until this transaction has ended, and a
//! compare-and-set that does not hit ends it before a row is sent. Rows go in by COPY, which is the cheapest way in
//! but fails on a known key; then the transaction is run again with an insert that passes over known keys. Where
//! PostgreSQL refuses a row, it is run again in pieces, and those that are at fault become dead letters of it.
//!
//! Every wait for an answer has a limit of its own: a server that is slow makes progress, one that is gone is noticed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

use super::classify::{Fault, describe, fault, took_too_long};
use super::offsets::Owner;
use super::piece::Piece;
use super::{Statements, isolate, rows};
use crate::batch::{Batch, Progress, Row, headers_to_json};
use crate::dead_letter::DeadLetter;
use crate::letter_topic::{LetterTopic, UndeliveredError};
use crate::retry::answered;
use crate::rollup;

/// A statement that has no answer after this time is given up with its connection. The server ends it before that.
const PATIENCE: Duration = Duration::from_secs(90);

/// After this time without an answer it is said that there is none, though it may still come: a server that is only slow
/// takes a few seconds for each.
pub const SILENCE: Duration = Duration::from_secs(15);

/// So many rows are refused by the line that a COPY error names; each costs a COPY of all rows. Then isolation is cheaper.
const MOST_LINES: u32 = 2;

/// A batch that could not be written as it is.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stored offsets of these partitions are not where this process left them: somebody else owns them.
    #[error("partitions {0:?} were moved by another consumer")]
    Fenced(Vec<i32>),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The topic of the dead letters.
    #[error(transparent)]
    Undelivered(#[from] UndeliveredError),
}

/// What became of a batch.
#[derive(Debug)]
pub struct Outcome {
    /// Rows that are new in the table, by event type.
    pub stored: BTreeMap<String, u64>,
    /// Rows that were in the table before.
    pub duplicates: u64,
}

/// How rows go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// By COPY: every row is new.
    Copied,
    /// By insert: known keys are passed over.
    Inserted,
    /// By inserts of ever smaller pieces, to find the rows that PostgreSQL refuses.
    Isolated,
}

/// How a batch is written: what one attempt at it learns for the next.
#[derive(Clone, Debug)]
pub struct Course {
    /// How to begin, and afterwards how it went.
    pub written: Written,
    /// How many rows a statement holds.
    pub piece: Piece,
    /// The row at which isolation begins; 0 where nothing is known of any.
    pub start: usize,
    /// SQLSTATEs of rules that refused a row that was alone, since a row passed last: such a rule may be a mistake.
    pub doubted: Vec<String>,
}

/// Where an attempt failed.
enum Failure {
    /// In a statement that writes events; the first row of that statement.
    Events(sqlx::Error, usize),
    /// At the end, where deferred constraints are checked.
    Commit(sqlx::Error),
    /// Anywhere else: never a record's fault.
    Other(WriteError),
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Self::Other(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(error.into())
    }
}

impl From<UndeliveredError> for Failure {
    fn from(error: UndeliveredError) -> Self {
        Self::Other(error.into())
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Insert,
    /// The row at this index is at fault.
    Refuse(usize),
    /// Begin at the row that is known to be refused, if any is.
    Isolate(usize),
    GiveUp,
}

/// `first` is the first row of the statement that failed, `lines` how many rows were refused by their line already.
fn step(fault: Fault, written: Written, first: usize, rows: usize, lines: u32) -> Step {
    let row = |line: Option<usize>| {
        line.and_then(|line| (first + line).checked_sub(1)).filter(|row| (first..rows).contains(row))
    };
    match (fault, written) {
        (Fault::Transient | Fault::Configuration, _) | (_, Written::Isolated) => Step::GiveUp,
        (Fault::Duplicate, Written::Copied) => Step::Insert,
        (Fault::Duplicate, Written::Inserted) => Step::Isolate(first),
        (Fault::Record { line }, Written::Copied) if lines < MOST_LINES => {
            row(line).map_or(Step::Isolate(first), Step::Refuse)
        }
        (Fault::Record { line } | Fault::Rule { line }, _) => Step::Isolate(row(line).unwrap_or(first)),
    }
}

/// Where batches are written to, and on whose behalf: the same for every batch.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The statements of its tables.
    pub statements: &'a Statements,
    /// Whose offsets move.
    pub owner: &'a Owner,
    /// Where dead letters go if not into a table.
    pub letters: Option<&'a LetterTopic>,
}

impl Target<'_> {
    /// Writes the batch in one transaction and commits it. Rows that PostgreSQL refuses become dead letters of the same
    /// batch, as soon as they are found: whatever fails afterwards, they need not be found again.
    ///
    /// Dead letters that go to a topic are there before the transaction commits, those that are known beforehand before it
    /// begins: what waits for Kafka should hold no locks in PostgreSQL.
    ///
    /// # Errors
    /// [`WriteError::Fenced`] when a partition belongs to somebody else by now, else the surroundings' error; the batch
    /// can be tried again.
    pub async fn write(
        &self,
        connection: &mut PgConnection,
        batch: &mut Batch,
        course: &mut Course,
    ) -> Result<Outcome, WriteError> {
        if let Some(topic) = self.letters {
            topic.deliver(batch).await?;
        }
        let mut lines = 0;
        loop {
            let (error, first) = match self.attempt(connection, batch, course).await {
                Ok(outcome) => return Ok(outcome),
                Err(Failure::Other(error)) => return Err(error),
                Err(Failure::Events(error, first)) => {
                    if took_too_long(&error) {
                        course.piece.halve(batch.rows().len());
                    }
                    (error, first)
                }
                Err(Failure::Commit(error)) => (error, 0),
            };
            match step(fault(&error), course.written, first, batch.rows().len(), lines) {
                Step::Insert => course.written = Written::Inserted,
                Step::Refuse(row) => {
                    lines += 1;
                    batch.refuse_rows(vec![(row, describe(&error))]);
                }
                Step::Isolate(row) => {
                    course.written = Written::Isolated;
                    if course.start == 0 {
                        course.start = row;
                    }
                }
                Step::GiveUp => return Err(error.into()),
            }
        }
    }

    async fn attempt(
        &self,
        connection: &mut PgConnection,
        batch: &mut Batch,
        course: &mut Course,
    ) -> Result<Outcome, Failure> {
        let mut transaction = answer(connection.begin()).await?;
        let failure = match self.fill(&mut transaction, batch, course).await {
            Ok(outcome) => {
                answer(transaction.commit()).await.map_err(Failure::Commit)?;
                return Ok(outcome);
            }
            Err(failure) => failure,
        };
        if let Failure::Other(WriteError::Fenced(_) | WriteError::Undelivered(_)) = failure {
            // Merely dropped, it would hold its locks until the next statement. If this fails, so does that.
            let _ = answer(transaction.rollback()).await;
        }
        Err(failure)
    }

    /// All that one transaction has in it.
    async fn fill(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
        batch: &mut Batch,
        course: &mut Course,
    ) -> Result<Outcome, Failure> {
        let Self { statements, owner, letters } = *self;
        advance(transaction, statements, owner, batch).await?;
        let keys = store(transaction, statements, batch, course).await?;
        let is_new = |row: &&Row| keys.as_ref().is_none_or(|keys| keys.contains(&row.key));
        let stored: Vec<&Row> = batch.rows().iter().filter(is_new).collect();
        let counts = rollup::count(batch, &stored);
        roll_up(transaction, statements, owner, batch, &stored, &counts).await?;
        let duplicates = (batch.rows().len() - stored.len()) as u64;
        match (&statements.insert_dead_letters, letters) {
            (_, Some(topic)) => topic.deliver(batch).await?,
            (Some(insert), None) if !batch.dead_letters().is_empty() => {
                insert_dead_letters(transaction, insert, owner, batch).await?;
            }
            _ => {}
        }
        Ok(Outcome { stored: rollup::by_event_type(&counts), duplicates })
    }
}

/// Waits for an answer as long as is reasonable; whoever has asked to hear of silence hears of it before that.
pub(super) async fn answer<T>(
    asking: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    answer_within(SILENCE, PATIENCE, asking).await
}

async fn answer_within<T>(
    silence: Duration,
    patience: Duration,
    asking: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let mut asking = std::pin::pin!(asking);
    if let Ok(answer) = tokio::time::timeout(silence, asking.as_mut()).await {
        return answer;
    }
    // Nobody may have asked.
    let _ = LISTENER.try_with(|listener| listener());
    answered(patience.saturating_sub(silence), asking).await
}

/// Who hears that the server has not answered for a while.
type Listener = Box<dyn Fn() + Send + Sync>;

tokio::task_local! {
    static LISTENER: Listener;
}

/// Does what is to be done with the database, and calls `listener` each time an answer is missing for [`SILENCE`].
pub async fn heard<T>(listener: impl Fn() + Send + Sync + 'static, doing: impl Future<Output = T>) -> T {
    LISTENER.scope(Box::new(listener), doing).await
}

/// Sends the rows, and returns the keys of those that are new, or `None` if all are.
async fn store(
    transaction: &mut Transaction<'_, Postgres>,
    statements: &Statements,
    batch: &mut Batch,
    course: &mut Course,
) -> Result<Option<HashSet<[u8; 16]>>, Failure> {
    let mut keys = HashSet::new();
    match course.written {
        _ if batch.rows().is_empty() => {}
        Written::Copied => {
            for range in course.piece.ranges(0..batch.rows().len(), usize::MAX) {
                let first = range.start;
                let copy = rows::copy(transaction, statements, batch, range);
                answer(copy).await.map_err(|error| Failure::Events(error, first))?;
            }
            return Ok(None);
        }
        Written::Inserted => {
            for range in course.piece.ranges(0..batch.rows().len(), rows::INSERT_ROWS) {
                let first = range.start;
                let insert = rows::insert(transaction, statements, batch, range);
                keys.extend(answer(insert).await.map_err(|error| Failure::Events(error, first))?);
            }
        }
        Written::Isolated => {
            let isolated = isolate::insert(transaction, statements, batch, course).await;
            keys = isolated.map_err(|error| Failure::Events(error, 0))?;
        }
    }
    Ok(Some(keys))
}

async fn advance(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    batch: &Batch,
) -> Result<(), WriteError> {
    let column = |value: fn(&Progress) -> i64| batch.progress().iter().map(value).collect::<Vec<i64>>();
    let partitions: Vec<i32> = batch.progress().iter().map(|progress| progress.partition).collect();
    let moving = sqlx::query_scalar(AssertSqlSafe(statements.advance.clone()))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(&*owner.instance)
        .bind(&partitions)
        .bind(column(|progress| progress.from))
        .bind(column(|progress| progress.to))
        .bind(column(|progress| progress.log_end))
        .fetch_all(connection);
    let moved: Vec<i32> = answer(moving).await?;
    let moved: HashSet<i32> = moved.into_iter().collect();
    let fenced: Vec<i32> = partitions.into_iter().filter(|partition| !moved.contains(partition)).collect();
    if fenced.is_empty() { Ok(()) } else { Err(WriteError::Fenced(fenced)) }
}

/// Adds what was stored to the rollups, under the lock of the lowest partition that this transaction has moved.
async fn roll_up(
    connection: &mut PgConnection,
    statements: &Statements,
    owner: &Owner,
    batch: &Batch,
    stored: &[&Row],
    counts: &[rollup::Count],
) -> Result<(), sqlx::Error> {
    let guard = batch.progress().iter().map(|progress| progress.partition).min();
    let (Some(rollups), Some(guard), false) = (&statements.rollups, guard, stored.is_empty()) else {
        return Ok(());
    };
    answer(rollups.add(&mut *connection, owner, guard, counts)).await?;
    if rollups.has_users() {
        answer(rollups.add_users(connection, owner, guard, &rollup::user_hours(stored))).await?;
    }
    Ok(())
}

async fn insert_dead_letters(
    connection: &mut PgConnection,
    insert: &Arc<str>,
    owner: &Owner,
    batch: &Batch,
) -> Result<(), sqlx::Error> {
    let letters = batch.dead_letters();
    let inserting = sqlx::query(AssertSqlSafe(Arc::clone(insert)))
        .bind(&*owner.group_id)
        .bind(&*owner.topic)
        .bind(letters.iter().map(|letter| letter.partition).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.offset).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.reason.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(detail).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.key.as_deref()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| letter.payload.as_deref()).collect::<Vec<_>>())
        .bind(letters.iter().map(|letter| headers_to_json(&letter.headers)).collect::<Vec<_>>())
        .bind(letters.iter().map(time_of).collect::<Vec<_>>())
        .execute(connection);
    answer(inserting).await.map(drop)
}

/// The first moment of PostgreSQL's timestamps, 24 November 4714 BC, in milliseconds since 1970.
const FIRST_MILLIS: i64 = -210_866_803_200_000;

/// The record's timestamp, if PostgreSQL can hold it and those who read the table can too: a producer may have written any
/// number there, and the letter must not be lost over it.
fn time_of(letter: &DeadLetter) -> Option<i64> {
    let can_be_held =
        |millis: &i64| *millis >= FIRST_MILLIS && DateTime::from_timestamp_millis(*millis).is_some();
    letter.timestamp_millis.filter(can_be_held)
}

/// The detail as PostgreSQL can hold it, with the timestamp that it cannot.
fn detail(letter: &DeadLetter) -> String {
    // A detail may quote the record, and the record may hold what PostgreSQL's text cannot.
    let detail = letter.detail.replace('\0', "\u{FFFD}");
    match letter.timestamp_millis {
        Some(millis) if time_of(letter).is_none() => {
            format!("{detail}; the record's timestamp, {millis} ms, is beyond what PostgreSQL can hold")
        }
        _ => detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Reason;

    #[test]
    fn what_follows_a_failure_ends_after_a_few_attempts() {
        const LINE: Option<usize> = Some(3);
        let record = |line| Fault::Record { line };
        let rule = |line| Fault::Rule { line };
        let cases = [
            (Fault::Duplicate, Written::Copied, 0, Step::Insert),
            (Fault::Duplicate, Written::Inserted, 0, Step::Isolate(100)),
            (record(LINE), Written::Copied, 0, Step::Refuse(102)),
            (record(LINE), Written::Copied, MOST_LINES, Step::Isolate(102)),
            (record(Some(101)), Written::Copied, 0, Step::Isolate(100)),
            (record(None), Written::Copied, 0, Step::Isolate(100)),
            (record(None), Written::Inserted, 0, Step::Isolate(100)),
            // Others of the batch must pass before a rule's refusal is the record's fault.
            (rule(LINE), Written::Copied, 0, Step::Isolate(102)),
            (rule(None), Written::Inserted, 0, Step::Isolate(100)),
            // Whatever isolation could not settle is told, and waits.
            (record(LINE), Written::Isolated, 0, Step::GiveUp),
            (rule(None), Written::Isolated, 0, Step::GiveUp),
            (Fault::Duplicate, Written::Isolated, 0, Step::GiveUp),
            (Fault::Transient, Written::Copied, 0, Step::GiveUp),
            (Fault::Configuration, Written::Inserted, 0, Step::GiveUp),
        ];
        for (fault, written, lines, expected) in cases {
            assert_eq!(step(fault, written, 100, 200, lines), expected, "{fault:?} {written:?} {lines}");
        }
    }

    #[test]
    fn a_timestamp_that_postgresql_cannot_hold_is_in_the_detail() {
        let letter = |timestamp_millis| DeadLetter {
            partition: 0,
            offset: 0,
            reason: Reason::InvalidJson,
            detail: "no\0".to_owned(),
            key: None,
            payload: None,
            headers: Vec::new(),
            timestamp_millis,
            delivered: false,
        };
        for (millis, held) in [
            (None, true),
            (Some(0), true),
            (Some(1_731_148_200_000), true),
            (Some(FIRST_MILLIS), true),
            (Some(FIRST_MILLIS - 1), false),
            (Some(i64::MAX), false),
            (Some(9_224_318_016_000_000), false),
        ] {
            let letter = letter(millis);
            assert_eq!(time_of(&letter), millis.filter(|_| held), "{millis:?}");
            assert_eq!(detail(&letter) == "no\u{FFFD}", held, "{millis:?}");
        }
    }

    #[tokio::test]
    async fn silence_is_told_before_it_is_given_up_on() {
        let (short, long) = (Duration::from_millis(10), Duration::from_secs(3600));
        let (told, telling) = tokio::sync::watch::channel(0_u32);
        let listener = || {
            let told = told.clone();
            move || told.send_modify(|times| *times += 1)
        };
        let at_once = answer_within(long, long, std::future::ready(Ok(1)));
        assert_eq!((heard(listener(), at_once).await.ok(), *telling.borrow()), (Some(1), 0));
        // An answer that comes only once its absence was told.
        let mut waiting = telling.clone();
        let late = answer_within(short, long, async {
            waiting.wait_for(|times| *times > 0).await.map(|_| 2).map_err(|_| sqlx::Error::RowNotFound)
        });
        assert_eq!((heard(listener(), late).await.ok(), *telling.borrow()), (Some(2), 1));
        let never = answer_within(short, short * 2, std::future::pending::<Result<(), _>>());
        assert!(matches!(heard(listener(), never).await, Err(sqlx::Error::Io(_))));
        assert_eq!(*telling.borrow(), 2);
        let unheard = answer_within(short, short * 2, std::future::pending::<Result<(), _>>());
        assert!(unheard.await.is_err(), "nobody listens");
    }
}
