//! The servers, the consumers and what is asked of them between two faults.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use testbed::{ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, Proxy, wait};

use crate::journal::Journal;
use crate::load::{Load, Traffic};
use crate::members::Member;
use crate::plan::Plan;
use crate::tally::Tally;
use crate::verdict::Truth;

pub(crate) const TOPIC: &str = "chaos";
pub(crate) const LETTERS: &str = "chaos.dlq";
/// The last of them is there only now and then.
const CONSUMERS: [&str; 4] = ["ann", "bob", "cleo", "guest"];
/// Which of the consumers is there only now and then.
pub(crate) const GUEST: usize = 3;

/// Longest that the backlog of a fault may take after its cause has gone away, on a busy machine too.
const RECOVERY: Duration = Duration::from_secs(180);
/// Longest that a killed consumer's partitions may rest. librdkafka's own default for noticing is 45 s, ours 6 s.
const INHERITANCE: Duration = Duration::from_secs(45);

/// Everything that a fault can be done to.
pub(crate) struct Arena {
    pub(crate) plan: Plan,
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    /// The consumers' way to PostgreSQL; this test itself goes straight to it.
    pub(crate) proxy: Proxy,
    pub(crate) journal: Journal,
    pub(crate) tally: Tally,
    pub(crate) consumers: Vec<Member>,
    pub(crate) options: ConsumerOptions,
    partitions: Arc<AtomicI32>,
    skew: Arc<AtomicUsize>,
}

impl Arena {
    pub(crate) async fn start(plan: Plan, journal: Journal) -> Result<Self> {
        let settings = vec![("max_connections".to_owned(), "40".to_owned())];
        let kafka = KafkaOptions {
            brokers: plan.brokers,
            properties: Plan::broker_properties(),
            heap_megabytes: 400,
            ..KafkaOptions::default()
        };
        let postgres = PostgresOptions { settings, ..PostgresOptions::default() };
        let (kafka, postgres) = tokio::try_join!(Kafka::start(kafka), Postgres::start(postgres))?;
        kafka.create_topic_with(TOPIC, plan.partitions, &Plan::topic_settings()).await?;
        kafka.create_topic_with(LETTERS, 2, &[("retention.ms", "-1")]).await?;
        let proxy = Proxy::start(postgres.port()).await?;
        let url = postgres.url_by_way_of(proxy.port());
        let options = plan.settings(ConsumerOptions::new(&kafka, TOPIC, &url), LETTERS);
        let mut arena = Self {
            kafka,
            postgres,
            proxy,
            journal,
            tally: Tally::default(),
            consumers: CONSUMERS.into_iter().map(Member::new).collect(),
            options,
            partitions: Arc::new(AtomicI32::new(plan.partitions)),
            skew: Arc::default(),
            plan,
        };
        for index in 0..GUEST {
            arena.revive(index)?;
        }
        arena.ready().await?;
        Ok(arena)
    }

    pub(crate) fn load(&self, seed: u64, rate: f64) -> Load {
        let traffic = Traffic {
            topic: TOPIC.to_owned(),
            seed,
            rate: self.plan.sizes.rate(rate),
            users_over: self.plan.partitions,
            large_share: self.plan.sizes.large_share(),
            partitions: Arc::clone(&self.partitions),
            skew: Arc::clone(&self.skew),
        };
        Load::start(self.kafka.client_config(), traffic)
    }

    /// From now on some producers have this one of the wrong clocks, counted from 1; with 0 all are right.
    pub(crate) fn set_skew(&self, skew: usize) {
        self.skew.store(skew, Ordering::Relaxed);
    }

    pub(crate) fn partition_count(&self) -> i32 {
        self.partitions.load(Ordering::Relaxed)
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

    pub(crate) async fn add_partition(&mut self) -> Result<i32> {
        let total = self.partition_count() + 1;
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

    /// Waits until what is in the log now is dealt with, and then until all consumers are ready; returns the seconds of
    /// the first.
    pub(crate) async fn recovered(&mut self) -> Result<f64> {
        let began = Instant::now();
        let ends = self.log_ends().await?;
        self.reached(&ends).await?;
        let seconds = began.elapsed().as_secs_f64();
        let stored = Instant::now();
        self.ready().await?;
        self.tally.ready.note(stored.elapsed().as_secs_f64());
        Ok(seconds)
    }

    /// Waits until others store what came for a consumer's partitions since it was killed.
    pub(crate) async fn inherited(&mut self, partitions: &[i32], killed: Instant) -> Result<()> {
        let mut ends = self.log_ends().await?;
        ends.retain(|partition, _| partitions.contains(partition));
        for end in ends.values_mut() {
            *end += 1;
        }
        if let Err(error) = self.behind(&ends, "what came for a killed consumer is stored", INHERITANCE).await
        {
            self.check_alive().await?;
            return Err(error);
        }
        let seconds = killed.elapsed().as_secs_f64();
        self.tally.heirs.note(seconds);
        self.journal.note(format!("its partitions flow again after {seconds:.1} s"));
        Ok(())
    }

    async fn log_ends(&self) -> Result<BTreeMap<i32, i64>> {
        // A broker that has just come back may not lead its partitions yet.
        wait::until("Kafka says where the logs end", Duration::from_secs(60), || async {
            Ok(Some(self.kafka.end_offsets(TOPIC).await?))
        })
        .await
    }

    async fn reached(&mut self, ends: &BTreeMap<i32, i64>) -> Result<()> {
        let waited = self.behind(ends, "what is in the log is dealt with", RECOVERY).await;
        if waited.is_err() {
            self.check_alive().await?;
        }
        waited
    }

    /// Waits until nothing is behind these ends.
    async fn behind(&self, ends: &BTreeMap<i32, i64>, what: &str, limit: Duration) -> Result<()> {
        wait::until_true(what, limit, || async {
            let stored = self.stored().await?;
            let behind: Vec<_> = ends
                .iter()
                .filter(|(partition, end)| stored.get(partition).copied().unwrap_or_default() < **end)
                .map(|(partition, end)| (partition, stored.get(partition), end))
                .collect();
            ensure!(behind.is_empty(), "behind (partition, stored, end): {behind:?}");
            Ok(true)
        })
        .await
    }

    async fn stored(&self) -> Result<BTreeMap<i32, i64>> {
        let mut session = self.session_now().await?;
        let stored: Vec<(i32, i64)> = sqlx::query_as("SELECT partition, next_offset FROM pipeline_offsets")
            .fetch_all(&mut session)
            .await?;
        session.close().await?;
        Ok(stored.into_iter().collect())
    }

    /// The partitions that a consumer has taken over, as far as the database can say that now.
    pub(crate) async fn partitions_of(&self, index: usize) -> Vec<i32> {
        let name = self.consumers[index].instance();
        let ask = async {
            let mut session = self.session_now().await?;
            let query = "SELECT partition FROM pipeline_offsets WHERE owner = $1 ORDER BY partition";
            let partitions = sqlx::query_scalar(query).bind(name).fetch_all(&mut session).await?;
            session.close().await?;
            anyhow::Ok(partitions)
        };
        tokio::time::timeout(Duration::from_secs(2), ask).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// With no load and no fault: everything is stored, Kafka knows it, and the table is what the log says.
    pub(crate) async fn judge(&mut self, truth: &mut Truth) -> Result<String> {
        let ends = self.log_ends().await?;
        self.reached(&ends).await?;
        let group = format!("{TOPIC}-group");
        wait::until_true("Kafka knows every offset", Duration::from_secs(60), || async {
            let committed = self.kafka.committed(&group, TOPIC).await?;
            // A partition that never had a record need not have a commit.
            let told = ends
                .iter()
                .all(|(partition, end)| committed.get(partition).copied().unwrap_or_default() == *end);
            ensure!(told, "committed {committed:?}, the log ends at {ends:?}");
            Ok(true)
        })
        .await?;
        let letter_ends =
            if self.plan.letters_in_topic { Some(self.kafka.end_offsets(LETTERS).await?) } else { None };
        let config = self.kafka.client_config();
        let mut reading = std::mem::take(truth);
        *truth = tokio::task::spawn_blocking(move || {
            reading.read(&config, TOPIC, &ends)?;
            if let Some(ends) = letter_ends {
                reading.read_letters(&config, LETTERS, &ends)?;
            }
            anyhow::Ok(reading)
        })
        .await??;
        self.check_alive().await?;
        truth.check(&mut self.session().await?, &self.plan).await
    }

    /// Fails if a consumer has ended that nobody ended, or has had too much memory.
    pub(crate) async fn check_alive(&mut self) -> Result<()> {
        for index in 0..self.consumers.len() {
            if let Some(end) = self.consumers[index].ended_by_itself().await {
                bail!("{end}");
            }
            self.note_memory(index);
        }
        self.check_memory()
    }
}
