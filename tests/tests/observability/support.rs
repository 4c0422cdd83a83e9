//! A consumer that has stored generated events, with a real Kafka and a real PostgreSQL behind it.

use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Counts, Generator, Options};
use testbed::{Consumer, ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};

use tokio_util::sync::CancellationToken;

pub(crate) struct Bed {
    pub(crate) consumer: Consumer,
    pub(crate) pool: PgPool,
    pub(crate) counts: Counts,
    pub(crate) topic: String,
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    partitions: i32,
}

impl Bed {
    /// Starts everything and stores `events` records: good ones, duplicates and malformed ones, dated over a day.
    pub(crate) async fn start(topic: &str, partitions: i32, events: u64) -> Result<Self> {
        Self::start_with(topic, partitions, events, &[]).await
    }

    /// The same with further settings of the consumer.
    pub(crate) async fn start_with(
        topic: &str,
        partitions: i32,
        events: u64,
        settings: &[(&str, String)],
    ) -> Result<Self> {
        let (kafka, postgres) = tokio::try_join!(
            Kafka::start(KafkaOptions::default()),
            Postgres::start(PostgresOptions::default())
        )?;
        kafka.create_topic(topic, partitions).await?;
        let mut options =
            ConsumerOptions::new(&kafka, topic, &postgres.url()).with("ROLLUP_USERS", "enabled");
        for (name, value) in settings {
            options = options.with(name, value);
        }
        let mut consumer = Consumer::start("one", &options)?;
        consumer.ready().await?;
        let pool = postgres.pool().await?;
        let topic = topic.to_owned();
        let mut bed = Self { consumer, pool, counts: Counts::default(), topic, kafka, postgres, partitions };
        bed.counts = bed.produce(1, events, None).await?;
        bed.until_stored(bed.counts.produced()).await?;
        Ok(bed)
    }

    /// Produces more, at so many each second.
    pub(crate) async fn produce(&self, seed: u64, events: u64, rate: Option<f64>) -> Result<Counts> {
        let options = Options {
            seed,
            partitions: self.partitions,
            duplicates: 0.03,
            malformed: 0.01,
            ..Options::default()
        };
        let target = Target {
            brokers: self.kafka.bootstrap(),
            topic: self.topic.clone(),
            events,
            rate,
            dated_from: None,
            properties: Vec::new(),
        };
        produce(Generator::new(options)?, target, CancellationToken::new(), |_| {}).await
    }

    /// Waits until so many records are dealt with.
    pub(crate) async fn until_stored(&self, records: u64) -> Result<()> {
        wait::until_true("every record is dealt with", Duration::from_secs(90), || async {
            let done: i64 =
                sqlx::query_scalar("SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets")
                    .fetch_one(&self.pool)
                    .await?;
            Ok(done.unsigned_abs() >= records)
        })
        .await
        .map_err(|error| error.context(self.consumer.log()))
    }
}
