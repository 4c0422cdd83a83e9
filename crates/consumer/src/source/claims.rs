//! Taking over assigned partitions: reads where each one stands, from PostgreSQL first, and tells the reading thread.
//!
//! This runs beside the reading thread, so that a database that is away keeps nobody from polling: the process stays
//! in the group, and partitions begin as soon as their offsets can be read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use super::start::{Gap, Known, Start, start};
use super::topic_id::topic_id;
use super::{Assignments, Consumer, Control};
use crate::metrics::Metrics;
use crate::retry::Backoff;
use crate::settings::{OnOffsetGap, StartFrom};
use crate::sink::classify::describe;
use crate::sink::offsets::{self, Owner, Stored};
use crate::sink::{Database, Statements};
use crate::status::Status;

/// How long one question to Kafka may take.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the same question about one partition may take when it failed for all together.
const ALONE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a partition that waits for a person is looked at again.
const GAP_RECHECK: Duration = Duration::from_secs(10);

/// A partition to take over.
pub(super) type Claim = (i32, u64);

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
    /// The client, for the log's ends and the group's offsets.
    pub consumer: Arc<Consumer>,
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
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    #[error("{0}")]
    Gap(Gap),
    #[error("Kafka does not say where the partition's log begins and ends")]
    NoLog,
    #[error("the claim was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Claims {
    /// Serves claims until the reading thread is gone.
    pub async fn run(self, mut requests: mpsc::UnboundedReceiver<Claim>) {
        let mut pending: Vec<Claim> = Vec::new();
        let mut backoff = Backoff::new();
        loop {
            if pending.is_empty() {
                match requests.recv().await {
                    Some(claim) => pending.push(claim),
                    None => return,
                }
            }
            while let Ok(claim) = requests.try_recv() {
                pending.push(claim);
            }
            let pause = self.serve(&mut pending, &mut backoff).await;
            if !pending.is_empty() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Tries every pending claim once; keeps those that failed and says how long to wait before trying again.
    async fn serve(&self, pending: &mut Vec<Claim>, backoff: &mut Backoff) -> Duration {
        pending.retain(|(partition, generation)| self.assignments.is_current(*partition, *generation));
        let mut connection = match self.database.claiming().await {
            Ok(connection) => connection,
            Err(error) => {
                self.status.database_down(format!(
                    "cannot connect to PostgreSQL at {}: {}",
                    self.database.place(),
                    describe(&error)
                ));
                return backoff.next();
            }
        };
        // Without an answer recreation is recognised by the log's ends alone.
        let asked = self.ask(|consumer, topic| Ok(topic_id(consumer.client(), topic, KAFKA_TIMEOUT))).await;
        let id = asked.ok().flatten();
        let (mut failed, mut gaps) = (Vec::new(), Vec::new());
        let mut claimed = Vec::new();
        for (partition, generation) in std::mem::take(pending) {
            match offsets::claim(&mut connection, &self.statements, &self.owner, partition, id.as_deref())
                .await
            {
                Ok(stored) => claimed.push((partition, generation, stored)),
                Err(error) => failed.push(self.failed((partition, generation), &error.into())),
            }
        }
        // After the claims: a log's end that is older than a stored offset could lie before it.
        let logs = self.logs(claimed.iter().map(|(partition, ..)| *partition).collect()).await;
        for (partition, generation, stored) in claimed {
            let log = logs.get(&partition).copied();
            match self.begin(&mut connection, partition, stored, log, id.as_deref()).await {
                Ok(offset) => {
                    self.status.database_up();
                    self.status.gap_closed(partition);
                    self.metrics.waiting(partition, false);
                    // The receiver is gone only when the process is stopping.
                    let _ = self.control.send(Control::Claimed { partition, generation, offset });
                }
                Err(ClaimError::Gap(gap)) => {
                    tracing::error!(
                        partition,
                        "Not reading the partition: {gap}; set KAFKA_ON_OFFSET_GAP to earliest or latest to go on without the missing records"
                    );
                    self.metrics.offset_gap("fail", gap.low - gap.offset);
                    self.metrics.waiting(partition, true);
                    self.status.gap_open(
                        partition,
                        format!("partition {partition} waits: {gap} (KAFKA_ON_OFFSET_GAP=fail)"),
                    );
                    gaps.push((partition, generation));
                }
                Err(error) => failed.push(self.failed((partition, generation), &error)),
            }
        }
        // A failed good-bye leaves nothing behind that the server does not clean up.
        let _ = connection.close().await;
        let pause = if !failed.is_empty() {
            backoff.next()
        } else {
            self.status.claims_done();
            backoff.reset();
            GAP_RECHECK
        };
        failed.append(&mut gaps);
        *pending = failed;
        pause
    }

    /// A member of the group that reads nothing of what it was given is not ready, whatever else works.
    fn failed(&self, claim: Claim, error: &ClaimError) -> Claim {
        let (partition, _) = claim;
        tracing::warn!(partition, %error, "Cannot take over the partition yet; trying on");
        self.status.claims_failing(format!("partition {partition} cannot be taken over yet: {error}"));
        claim
    }

    /// Where each of these logs begins and ends. One pair of requests for all of them: a broker answers the requests of
    /// a connection one after the other, and each would wait for a fetch that waits for records (fetch.wait.max.ms).
    async fn logs(&self, partitions: Vec<i32>) -> HashMap<i32, (i64, i64)> {
        if partitions.is_empty() {
            return HashMap::new();
        }
        let ask = |edge: Offset| {
            let partitions = partitions.clone();
            self.ask(move |consumer, topic| {
                let mut list = TopicPartitionList::new();
                for partition in partitions {
                    list.add_partition_offset(topic, partition, edge)?;
                }
                // In Kafka's ListOffsets request the edges of a log are times with special values.
                consumer.offsets_for_times(list, KAFKA_TIMEOUT)
            })
        };
        match tokio::try_join!(ask(Offset::Beginning), ask(Offset::End)) {
            Ok((lows, highs)) => {
                let (lows, highs) = (numbers(&lows), numbers(&highs));
                lows.into_iter().filter_map(|(id, low)| Some((id, (low, *highs.get(&id)?)))).collect()
            }
            // One partition without a leader fails the question for all: then each is asked about alone.
            Err(error) => {
                tracing::warn!(%error, "Kafka does not say where the logs begin and end; asking for each alone");
                self.logs_one_by_one(&partitions).await
            }
        }
    }

    async fn logs_one_by_one(&self, partitions: &[i32]) -> HashMap<i32, (i64, i64)> {
        let mut logs = HashMap::new();
        for &partition in partitions {
            let question = move |consumer: &Consumer, topic: &str| {
                consumer.fetch_watermarks(topic, partition, ALONE_TIMEOUT)
            };
            if let Ok(log) = self.ask(question).await {
                logs.insert(partition, log);
            }
        }
        logs
    }

    async fn begin(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        stored: Option<Stored>,
        log: Option<(i64, i64)>,
        topic_id: Option<&str>,
    ) -> Result<i64, ClaimError> {
        let (low, high) = log.ok_or(ClaimError::NoLog)?;
        let committed = if stored.is_none() { self.committed(partition).await? } else { None };
        let stored_id = stored.as_ref().and_then(|stored| stored.topic_id.as_deref());
        let recreated = matches!((stored_id, topic_id), (Some(stored), Some(now)) if stored != now);
        let known =
            Known { stored: stored.map(|stored| stored.next_offset), committed, recreated, low, high };
        match start(&known, self.start_from, self.on_offset_gap) {
            Start::Stored(offset) => Ok(offset),
            Start::New(_) if self.start_from == StartFrom::Latest && committed.is_none() => {
                self.begin_latest(connection, partition, low, topic_id).await
            }
            Start::New(offset) => {
                Ok(offsets::create(connection, &self.statements, &self.owner, partition, offset, topic_id)
                    .await?)
            }
            Start::Moved { from, to, lost } => {
                let policy = if self.on_offset_gap == OnOffsetGap::Earliest { "earliest" } else { "latest" };
                tracing::error!(
                    partition,
                    from,
                    to,
                    lost,
                    policy,
                    "The stored offset is outside the log; going on elsewhere"
                );
                self.metrics.offset_gap(policy, lost);
                if offsets::reset(connection, &self.statements, &self.owner, partition, (from, to), topic_id)
                    .await?
                {
                    return Ok(to);
                }
                // Somebody moved it in between; what they stored counts.
                Ok(offsets::create(connection, &self.statements, &self.owner, partition, to, topic_id)
                    .await?)
            }
            Start::Gap(gap) => Err(ClaimError::Gap(gap)),
        }
    }

    /// `latest` means: what is produced after the pipeline's first start. So the first claim of all stores the present
    /// end of every partition, and a partition that is added later is read from its beginning.
    async fn begin_latest(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        low: i64,
        topic_id: Option<&str>,
    ) -> Result<i64, ClaimError> {
        // The claim of another partition may have stored them all a moment ago.
        if let Some(stored) =
            offsets::claim(connection, &self.statements, &self.owner, partition, topic_id).await?
        {
            return Ok(stored.next_offset);
        }
        let partitions: Vec<i32> = self
            .ask(|consumer, topic| {
                let metadata = consumer.client().fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
                let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
                Ok(partitions.map(|partition| partition.id()).collect())
            })
            .await?;
        let logs = self.logs(partitions.clone()).await;
        let ends = partitions
            .iter()
            .map(|id| Ok((*id, logs.get(id).ok_or(ClaimError::NoLog)?.1)))
            .collect::<Result<Vec<_>, ClaimError>>()?;
        offsets::create_all_once(connection, &self.statements, &self.owner, &ends, topic_id).await?;
        Ok(offsets::create(connection, &self.statements, &self.owner, partition, low, topic_id).await?)
    }

    async fn committed(&self, partition: i32) -> Result<Option<i64>, ClaimError> {
        let list = self
            .ask(move |consumer, topic| {
                let mut list = TopicPartitionList::new();
                list.add_partition(topic, partition);
                consumer.committed_offsets(list, KAFKA_TIMEOUT)
            })
            .await?;
        Ok(list.elements().first().and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// Asks Kafka on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Consumer, &str) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, ClaimError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), Arc::clone(&self.owner.topic));
        Ok(tokio::task::spawn_blocking(move || question(&consumer, &topic)).await??)
    }
}

/// The offsets of those partitions for which Kafka gave one.
fn numbers(list: &TopicPartitionList) -> HashMap<i32, i64> {
    let known = list.elements().into_iter().filter_map(|element| match (element.error(), element.offset()) {
        (Ok(()), Offset::Offset(offset)) => Some((element.partition(), offset)),
        _ => None,
    });
    known.collect()
}
