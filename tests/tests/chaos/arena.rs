//! The servers, the consumers and what is asked of them between two faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use testbed::{Consumer, ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};

use crate::journal::Journal;
use crate::load::{Load, PARTITIONS};
use crate::verdict::Truth;

const TOPIC: &str = "chaos";
const CONSUMERS: [&str; 3] = ["ann", "bob", "cleo"];
/// Longest that the backlog of a fault may take after its cause has gone away, on a busy machine too.
const RECOVERY: Duration = Duration::from_secs(90);

/// Everything that a fault can be done to.
pub(crate) struct Arena {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) journal: Journal,
    pub(crate) partitions: Arc<AtomicI32>,
    options: ConsumerOptions,
    consumers: Vec<Member>,
}

/// A consumer that is started again whenever it was ended.
struct Member {
    name: &'static str,
    lives: u32,
    process: Option<Consumer>,
}

/// A killed broker may come back only when its former session is over: 9 s by default, most of the run.
fn quick_return() -> Vec<(String, String)> {
    let properties = [("broker.session.timeout.ms", "2000"), ("broker.heartbeat.interval.ms", "500")];
    properties.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

impl Arena {
    pub(crate) async fn start() -> Result<Self> {
        let settings = vec![("max_connections".to_owned(), "40".to_owned())];
        let (kafka, postgres) = tokio::try_join!(
            Kafka::start(KafkaOptions { properties: quick_return(), ..KafkaOptions::default() }),
            Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() })
        )?;
        kafka.create_topic(TOPIC, PARTITIONS).await?;
        let options = ConsumerOptions::new(&kafka, TOPIC, &postgres.url());
        let consumers = CONSUMERS.iter().map(|name| Member { name, lives: 0, process: None }).collect();
        let mut arena = Self {
            kafka,
            postgres,
            journal: Journal::new(),
            partitions: Arc::new(AtomicI32::new(PARTITIONS)),
            options,
            consumers,
        };
        for index in 0..CONSUMERS.len() {
            arena.revive(index)?;
        }
        for member in arena.consumers.iter_mut().filter_map(|member| member.process.as_mut()) {
            member.ready().await?;
        }
        Ok(arena)
    }

    pub(crate) fn load(&self, seed: u64, rate: f64) -> Load {
        Load::start(self.kafka.client_config(), TOPIC, seed, rate, Arc::clone(&self.partitions))
    }

    /// A session that may do everything, as soon as the server has one to give.
    pub(crate) async fn session(&self) -> Result<PgConnection> {
        wait::until("PostgreSQL gives a session", Duration::from_secs(30), || async {
            Ok(Some(self.session_now().await?))
        })
        .await
    }

    /// A session that may do everything, also while the server's default is read-only; or PostgreSQL's refusal.
    pub(crate) async fn session_now(&self) -> Result<PgConnection> {
        let options: PgConnectOptions = self.postgres.url().parse()?;
        let options = options.options([("default_transaction_read_only", "off")]).application_name("chaos");
        Ok(options.connect().await?)
    }

    pub(crate) fn consumer_name(&self, index: usize) -> &'static str {
        self.consumers[index].name
    }

    pub(crate) fn consumer_count(&self) -> usize {
        self.consumers.len()
    }

    pub(crate) fn signal(&self, index: usize, signal: Signal) {
        if let Some(process) = &self.consumers[index].process {
            process.signal(signal);
        }
    }

    /// Ends a consumer with SIGKILL.
    pub(crate) fn kill(&mut self, index: usize) {
        let member = &mut self.consumers[index];
        if let Some(mut process) = member.process.take() {
            process.kill();
            self.journal.keep_log(member.name, process.log());
        }
    }

    /// Waits for the end of a consumer that was asked to end; says whether it ended well.
    pub(crate) async fn await_end(&mut self, index: usize) -> Result<bool> {
        let member = &mut self.consumers[index];
        let Some(mut process) = member.process.take() else { return Ok(true) };
        let ended = process.ended(Duration::from_secs(45)).await;
        self.journal.keep_log(member.name, process.log());
        let status = ended.with_context(|| format!("{} does not end after SIGTERM", member.name))?;
        Ok(status.success())
    }

    /// Starts a consumer that does not run.
    pub(crate) fn revive(&mut self, index: usize) -> Result<()> {
        let member = &mut self.consumers[index];
        if member.process.is_none() {
            member.lives += 1;
            let name = format!("{}-{}", member.name, member.lives);
            member.process = Some(Consumer::start(&name, &self.options)?);
        }
        Ok(())
    }

    pub(crate) async fn crash_broker(&mut self) {
        self.kafka.kill_broker(0);
    }

    pub(crate) async fn add_partition(&mut self) -> Result<i32> {
        let total = self.partitions.load(Ordering::Relaxed) + 1;
        wait::until("the topic has one more partition", Duration::from_secs(30), || async {
            // A broker that has just come back may refuse, or do it and not say so.
            let added = self.kafka.add_partitions(TOPIC, total).await;
            let partitions = self.kafka.end_offsets(TOPIC).await?.len();
            Ok((added.is_ok() || i32::try_from(partitions)? == total).then_some(()))
        })
        .await?;
        self.partitions.store(total, Ordering::Relaxed);
        Ok(total)
    }

    /// Fails if a consumer has ended that nobody ended.
    pub(crate) async fn check_alive(&mut self) -> Result<()> {
        for member in &mut self.consumers {
            let Some(process) = &mut member.process else { continue };
            if let Ok(status) = process.ended(Duration::ZERO).await {
                bail!("{} ended by itself with {status}; its log says:\n{}", member.name, process.log());
            }
        }
        Ok(())
    }

    /// Waits until what is in the log now is dealt with; returns the seconds it took.
    pub(crate) async fn recovered(&mut self) -> Result<f64> {
        let began = Instant::now();
        let ends = self.log_ends().await?;
        self.reached(&ends).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    async fn log_ends(&self) -> Result<BTreeMap<i32, i64>> {
        // A broker that has just come back may not lead its partitions yet.
        wait::until("Kafka says where the logs end", Duration::from_secs(30), || async {
            Ok(Some(self.kafka.end_offsets(TOPIC).await?))
        })
        .await
    }

    async fn reached(&mut self, ends: &BTreeMap<i32, i64>) -> Result<()> {
        let waited = wait::until_true("what is in the log is dealt with", RECOVERY, || async {
            let mut session = self.session_now().await?;
            let stored: Vec<(i32, i64)> =
                sqlx::query_as("SELECT partition, next_offset FROM pipeline_offsets")
                    .fetch_all(&mut session)
                    .await?;
            session.close().await?;
            let stored: BTreeMap<i32, i64> = stored.into_iter().collect();
            let behind: Vec<_> = ends
                .iter()
                .filter(|(partition, end)| stored.get(partition).copied().unwrap_or_default() < **end)
                .map(|(partition, end)| (partition, stored.get(partition), end))
                .collect();
            ensure!(behind.is_empty(), "behind (partition, stored, end): {behind:?}");
            Ok(true)
        })
        .await;
        if waited.is_err() {
            self.check_alive().await?;
        }
        waited
    }

    /// With no load and no fault: everything is stored, Kafka knows it, and the table is what the log says.
    pub(crate) async fn judge(&mut self, truth: &mut Truth) -> Result<String> {
        let ends = self.log_ends().await?;
        self.reached(&ends).await?;
        let group = format!("{TOPIC}-group");
        wait::until_true("Kafka knows every offset", Duration::from_secs(30), || async {
            let committed = self.kafka.committed(&group, TOPIC).await?;
            // A partition that never had a record need not have a commit.
            let told = ends
                .iter()
                .all(|(partition, end)| committed.get(partition).copied().unwrap_or_default() == *end);
            ensure!(told, "committed {committed:?}, the log ends at {ends:?}");
            Ok(true)
        })
        .await?;
        let config = self.kafka.client_config();
        let mut read = std::mem::take(truth);
        let ends_again = ends.clone();
        *truth = tokio::task::spawn_blocking(move || read.read(config, TOPIC, &ends_again).map(|()| read))
            .await??;
        self.check_alive().await?;
        truth.check(&mut self.session().await?).await
    }

    /// The most memory that any consumer that still runs has had, in mebibytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let running = self.consumers.iter().filter_map(|member| member.process.as_ref());
        running.filter_map(|process| Some(process.memory().ok()?.1)).max().unwrap_or_default() >> 20
    }

    /// Asks all consumers to end and expects that each does so in good order.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        for index in 0..self.consumers.len() {
            self.signal(index, Signal::TERM);
        }
        for index in 0..self.consumers.len() {
            let well = self.await_end(index).await?;
            ensure!(well, "{} did not exit with 0 after SIGTERM", self.consumers[index].name);
        }
        Ok(())
    }

    /// Keeps the logs of those that still run.
    pub(crate) fn keep_logs(&mut self) {
        for member in &self.consumers {
            if let Some(process) = &member.process {
                self.journal.keep_log(member.name, process.log());
            }
        }
    }
}
