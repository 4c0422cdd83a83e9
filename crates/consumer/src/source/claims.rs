//! Taking over assigned partitions: reads where each one stands, from PostgreSQL first, and tells the reading thread.
//!
//! This runs beside the reading thread, so that a database that is away keeps nobody from polling: the process stays
//! in the group, and partitions begin as soon as their offsets can be read.

mod pending;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use super::questions::{QuestionError, Questions};
use super::start::{Gap, Known, Move, Start, first, start};
use super::{Assignments, Control};
use crate::metrics::Metrics;
use crate::retry::{Backoff, answered};
use crate::settings::{OnOffsetGap, StartFrom};
use crate::sink::classify::describe;
use crate::sink::offsets::{self, Owner, Stored};
use crate::sink::{Database, Statements};
use crate::status::Status;
use pending::{Pending, Waiting};

/// How often a partition that waits for a person is looked at again.
const GAP_RECHECK: Duration = Duration::from_secs(10);
/// How often the topic's id is asked for, which tells a topic that was made anew while it is read.
const TOPIC_RECHECK: Duration = Duration::from_secs(15);
/// How long PostgreSQL may take for one answer. A claim waits for locks, each time a second.
const ANSWER: Duration = Duration::from_secs(10);
/// Connecting has a limit of its own, and the first statement comes on top.
const CONNECTED: Duration = Duration::from_secs(20);
/// How long a good-bye may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// A partition to take over.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The partition.
    pub partition: i32,
    /// The assignment for which it is claimed.
    pub generation: u64,
    /// Not before this moment.
    pub due: Instant,
}

/// Takes over partitions.
pub struct Claims {
    /// Where the offsets are.
    pub database: Database,
    /// The SQL.
    pub statements: Statements,
    /// Whose offsets.
    pub owner: Owner,
    /// Where to begin without a stored offset.
    pub start_from: StartFrom,
    /// What to do about an offset outside the log.
    pub on_offset_gap: OnOffsetGap,
    /// For the log's ends and the group's offsets.
    pub kafka: Questions,
    /// Which claims still matter.
    pub assignments: Arc<Assignments>,
    /// To the reading thread.
    pub control: std::sync::mpsc::Sender<Control>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What readiness knows.
    pub status: Arc<Status>,
}

/// Why a partition cannot begin yet.
#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("PostgreSQL: {}", describe(.0))]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Kafka(#[from] QuestionError),
    #[error("{0}")]
    Gap(Gap),
    #[error("Kafka does not say where the partition's log begins and ends")]
    NoLog,
    #[error("somebody else moved the stored offset at the same time")]
    Overtaken,
}

impl ClaimError {
    /// Whether nothing more is to be expected of the connection.
    fn is_disconnection(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Io(_)))
    }
}

/// What is known of the topic from one look to the next.
struct Topic {
    id: Option<String>,
    look: Instant,
}

impl Topic {
    /// Takes in the topic's id; whether it is another one than before. No answer is no news.
    fn is_another(&mut self, id: Option<&str>) -> bool {
        let Some(id) = id else { return false };
        let before = self.id.replace(id.to_owned());
        before.is_some_and(|before| before != id)
    }
}

impl Claims {
    /// Serves claims until the reading thread is gone.
    pub async fn run(self, mut requests: mpsc::UnboundedReceiver<Claim>) {
        let (mut pending, mut backoff) = (Pending::default(), Backoff::new());
        let mut topic = Topic { id: None, look: Instant::now() + TOPIC_RECHECK };
        while wait(&mut requests, &mut pending, topic.look).await {
            self.look(&mut topic).await;
            let due = pending.take_due(Instant::now(), |partition, generation| {
                self.assignments.is_current(partition, generation)
            });
            if !due.is_empty() {
                self.serve(due, &mut pending, &mut backoff, &mut topic).await;
            }
            // Nor is there anything to fail when what failed is somebody else's now.
            if !pending.is_failing() {
                self.status.claims_done();
                backoff.reset();
            }
        }
    }

    /// Sees from time to time whether the topic is still the one that was taken over. One that was deleted and made anew
    /// looks the same to a reader whose position lies in the new log, and would be read from the middle.
    async fn look(&self, topic: &mut Topic) {
        if Instant::now() < topic.look {
            return;
        }
        if !self.assignments.is_empty() && topic.is_another(self.kafka.topic_id().await.as_deref()) {
            self.take_over_again();
        }
        topic.look = Instant::now() + TOPIC_RECHECK;
    }

    fn take_over_again(&self) {
        tracing::warn!(topic = %self.owner.topic, "The topic was made anew; taking all partitions over again");
        // The receiver is gone only when the process is stopping.
        let _ = self.control.send(Control::Recreated);
    }

    /// Tries these claims once, and puts back those that cannot begin.
    async fn serve(
        &self,
        due: Vec<Waiting>,
        pending: &mut Pending,
        backoff: &mut Backoff,
        topic: &mut Topic,
    ) {
        let (mut failed, mut gaps) = (Vec::new(), Vec::new());
        match answered(CONNECTED, self.database.claiming()).await {
            Ok(connection) => {
                let id = self.kafka.topic_id().await;
                if topic.is_another(id.as_deref()) {
                    // With new generations; what is due here is not worth the trouble any more.
                    self.take_over_again();
                    failed = due;
                } else {
                    self.serve_with(connection, due, id.as_deref(), &mut failed, &mut gaps).await;
                }
            }
            Err(error) => {
                self.metrics.database_failed(&error);
                self.status.claims_failing(format!(
                    "cannot connect to PostgreSQL at {}: {}",
                    self.database.place(),
                    describe(&error)
                ));
                failed = due;
            }
        }
        let now = Instant::now();
        let pause = if failed.is_empty() { Duration::ZERO } else { backoff.next() };
        for waiting in failed {
            pending.put_back_failed(waiting, now, pause);
        }
        for waiting in gaps {
            pending.put_back_gap(waiting, now, GAP_RECHECK);
        }
    }

    async fn serve_with(
        &self,
        mut connection: PgConnection,
        due: Vec<Waiting>,
        id: Option<&str>,
        failed: &mut Vec<Waiting>,
        gaps: &mut Vec<Waiting>,
    ) {
        let (mut claimed, mut lost) = (Vec::new(), false);
        for waiting in due {
            if lost {
                failed.push(waiting);
                continue;
            }
            match self.claim(&mut connection, waiting.partition, id).await {
                Ok(stored) => claimed.push((waiting, stored)),
                Err(error) => {
                    lost = error.is_disconnection();
                    self.failed(waiting.partition, &error);
                    failed.push(waiting);
                }
            }
        }
        // After the claims: a log's end that is older than a stored offset could lie before it.
        let logs = self.kafka.logs(claimed.iter().map(|(waiting, _)| waiting.partition).collect()).await;
        for (waiting, stored) in claimed {
            let Waiting { partition, generation, .. } = waiting;
            // All this takes time, and what is somebody else's by now must neither move nor be reported.
            if !self.assignments.is_current(partition, generation) {
                continue;
            }
            if lost {
                failed.push(waiting);
                continue;
            }
            let log = logs.get(&partition).copied();
            match self.begin(&mut connection, partition, stored, log, id).await {
                Ok(offset) => {
                    self.assignments.if_current(partition, generation, || self.closed(partition));
                    // The receiver is gone only when the process is stopping.
                    let _ = self.control.send(Control::Claimed { partition, generation, offset });
                }
                Err(ClaimError::Gap(gap)) => {
                    self.assignments.if_current(partition, generation, || self.opened(&waiting, &gap));
                    gaps.push(waiting);
                }
                Err(error) => {
                    lost = error.is_disconnection();
                    self.failed(partition, &error);
                    failed.push(waiting);
                }
            }
        }
        if !lost {
            // A failed good-bye leaves nothing behind that the server does not clean up.
            let _ = answered(GOOD_BYE, connection.close()).await;
        }
    }

    /// The partition goes on.
    fn closed(&self, partition: i32) {
        self.status.gap_closed(partition);
        self.metrics.waiting(partition, false);
    }

    /// The partition waits for a person.
    fn opened(&self, waiting: &Waiting, gap: &Gap) {
        let partition = waiting.partition;
        tracing::error!(
            partition,
            "Not reading the partition: {gap}; set KAFKA_ON_OFFSET_GAP to earliest or latest to go on without the missing records"
        );
        if !waiting.is_known_gap {
            self.metrics.offset_gap("fail", 0);
        }
        self.metrics.waiting(partition, true);
        self.status
            .gap_open(partition, format!("partition {partition} waits: {gap} (KAFKA_ON_OFFSET_GAP=fail)"));
    }

    /// A member of the group that reads nothing of what it was given is not ready, whatever else works.
    fn failed(&self, partition: i32, error: &ClaimError) {
        tracing::warn!(partition, %error, "Cannot take over the partition yet; trying on");
        if let ClaimError::Database(error) = error {
            self.metrics.database_failed(error);
        }
        self.status.claims_failing(format!("partition {partition} cannot be taken over yet: {error}"));
    }

    async fn claim(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        topic_id: Option<&str>,
    ) -> Result<Option<Stored>, ClaimError> {
        let claim = offsets::claim(connection, &self.statements, &self.owner, partition, topic_id);
        Ok(answered(ANSWER, claim).await?)
    }

    async fn create(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        offset: i64,
        topic_id: Option<&str>,
    ) -> Result<i64, ClaimError> {
        let create = offsets::create(connection, &self.statements, &self.owner, partition, offset, topic_id);
        Ok(answered(ANSWER, create).await?)
    }

    async fn begin(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        mut stored: Option<Stored>,
        log: Option<(i64, i64)>,
        topic_id: Option<&str>,
    ) -> Result<i64, ClaimError> {
        let (low, high) = log.ok_or(ClaimError::NoLog)?;
        if stored.is_none() && self.start_from == StartFrom::Latest {
            stored = self.begin_latest(connection, partition, topic_id).await?;
        }
        let committed = match stored {
            Some(_) => None,
            None => self.kafka.committed(vec![partition]).await?.get(&partition).copied(),
        };
        let stored_id = stored.as_ref().and_then(|stored| stored.topic_id.as_deref());
        let recreated = matches!((stored_id, topic_id), (Some(stored), Some(now)) if stored != now);
        let known =
            Known { stored: stored.map(|stored| stored.next_offset), committed, recreated, low, high };
        match start(&known, self.on_offset_gap) {
            Start::Stored(offset) => Ok(offset),
            Start::New(offset) => self.create(connection, partition, offset, topic_id).await,
            Start::Moved(moved) => self.go_elsewhere(connection, partition, moved, topic_id).await,
            Start::Gap(gap) => Err(ClaimError::Gap(gap)),
        }
    }

    /// Goes on where policy says. It is reported when it is done, and not when it was tried.
    async fn go_elsewhere(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        moved: Move,
        topic_id: Option<&str>,
    ) -> Result<i64, ClaimError> {
        let Move { from, to, stored, lost } = moved;
        let is_done = if stored {
            let reset =
                offsets::reset(connection, &self.statements, &self.owner, partition, (from, to), topic_id);
            answered(ANSWER, reset).await?
        } else {
            self.create(connection, partition, to, topic_id).await? == to
        };
        if !is_done {
            // What they stored counts, and is to be judged like any other.
            return Err(ClaimError::Overtaken);
        }
        let policy = if self.on_offset_gap == OnOffsetGap::Earliest { "earliest" } else { "latest" };
        let kept = if stored { "stored" } else { "committed" };
        tracing::error!(
            partition,
            from,
            to,
            lost,
            policy,
            "The {kept} offset is outside the log; going on elsewhere"
        );
        self.metrics.offset_gap(policy, lost);
        Ok(to)
    }

    /// `latest` means: what is produced after the pipeline's first start. So the first claim of all stores where every
    /// partition begins, and a partition that is added later is read from its beginning. Gives back what is stored then.
    async fn begin_latest(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        topic_id: Option<&str>,
    ) -> Result<Option<Stored>, ClaimError> {
        // The claim of another partition may have stored them all a moment ago.
        if let Some(stored) = self.claim(connection, partition, topic_id).await? {
            return Ok(Some(stored));
        }
        let partitions = self.kafka.partitions().await?;
        let logs = self.kafka.logs(partitions.clone()).await;
        let committed = self.kafka.committed(partitions.clone()).await?;
        let mut begins = Vec::new();
        for id in partitions {
            let log = *logs.get(&id).ok_or(ClaimError::NoLog)?;
            begins.extend(first(committed.get(&id).copied(), log).map(|offset| (id, offset)));
        }
        let create = offsets::create_all_once(connection, &self.statements, &self.owner, &begins, topic_id);
        answered(ANSWER, create).await?;
        self.claim(connection, partition, topic_id).await
    }
}

/// Waits until there is something to do: a new claim, one that is due, or a look at the topic. `false` when the reading
/// thread is gone.
async fn wait(requests: &mut mpsc::UnboundedReceiver<Claim>, pending: &mut Pending, look: Instant) -> bool {
    let wake = pending.due().map_or(look, |due| due.min(look));
    tokio::select! {
        claim = requests.recv() => match claim {
            Some(claim) => pending.add(claim),
            None => return false,
        },
        () = tokio::time::sleep_until(wake.into()) => {}
    }
    while let Ok(claim) = requests.try_recv() {
        pending.add(claim);
    }
    true
}

#[cfg(test)]
mod tests;
