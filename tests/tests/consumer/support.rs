//! A topic, a database and a consumer for each test, on servers that the tests share unless they break them.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::FutureRecord;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::PgPool;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Counts, Generator, Options};
use testbed::{Consumer, ConsumerOptions, Kafka, KafkaOptions, Postgres, PostgresOptions, wait};
use tokio_util::sync::CancellationToken;

/// Long enough for anything on a busy machine; every wait ends as soon as its condition holds.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Servers of one test.
pub(crate) struct Bed {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) topic: String,
    pub(crate) url: String,
}

impl Bed {
    /// Starts both servers, makes a topic with `partitions`.
    pub(crate) async fn start(topic: &str, partitions: i32) -> Result<Self> {
        let (kafka, postgres) = tokio::try_join!(
            Kafka::start(KafkaOptions::default()),
            Postgres::start(PostgresOptions::default())
        )?;
        if partitions > 0 {
            kafka.create_topic(topic, partitions).await?;
        }
        let url = postgres.url();
        Ok(Self { kafka, postgres, topic: topic.to_owned(), url })
    }

    pub(crate) fn options(&self) -> ConsumerOptions {
        ConsumerOptions::new(&self.kafka, &self.topic, &self.url)
    }

    pub(crate) fn consumer(&self, name: &str) -> Result<Consumer> {
        Consumer::start(name, &self.options())
    }

    /// Produces `events` generated records, some twice, some malformed.
    pub(crate) async fn produce(
        &self,
        seed: u64,
        partitions: i32,
        events: u64,
        rate: Option<f64>,
    ) -> Result<Counts> {
        let options = Options { seed, partitions, duplicates: 0.03, malformed: 0.01, ..Options::default() };
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

    /// Sends one record.
    pub(crate) async fn send(&self, partition: i32, payload: &[u8]) -> Result<()> {
        let producer = self.kafka.producer()?;
        let record = FutureRecord::to(&self.topic).partition(partition).key("k").payload(payload);
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
        Ok(())
    }

    pub(crate) async fn pool(&self) -> Result<PgPool> {
        self.postgres.pool().await
    }

    /// One number from the database; a table that is not there yet counts as 0.
    pub(crate) async fn number(&self, sql: &'static str) -> Result<i64> {
        let pool = self.pool().await?;
        let number = sqlx::query_scalar::<_, i64>(sql).fetch_one(&pool).await;
        pool.close().await;
        Ok(number?)
    }

    pub(crate) async fn rows(&self) -> Result<i64> {
        self.number("SELECT count(*) FROM events").await
    }

    /// Waits until everything produced is stored, exactly once.
    pub(crate) async fn settled(&self, counts: &Counts) -> Result<()> {
        let total = i64::try_from(counts.produced())?;
        wait::until_true("every record is dealt with", SOON, || async {
            let done =
                self.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets").await?;
            anyhow::ensure!(done == total, "{done} of {total} records are dealt with");
            Ok(true)
        })
        .await?;
        let rows = self.rows().await?;
        let distinct = self.number("SELECT count(DISTINCT event_key) FROM events").await?;
        let letters = self.number("SELECT count(*) FROM dead_letters").await?;
        let places = self.number("SELECT count(DISTINCT (partition, \"offset\")) FROM dead_letters").await?;
        let expected = (i64::try_from(counts.distinct)?, i64::try_from(counts.malformed_total())?);
        anyhow::ensure!(
            (rows, distinct, letters, places) == (expected.0, expected.0, expected.1, expected.1),
            "rows {rows}, distinct keys {distinct}, dead letters {letters} at {places} places; expected {} rows and {} dead letters",
            expected.0,
            expected.1
        );
        self.rollups_are_right().await
    }

    /// Fails unless the rollups say what the table says, hour by hour.
    pub(crate) async fn rollups_are_right(&self) -> Result<()> {
        let different = self
            .number(
                "SELECT count(*) FROM (SELECT date_trunc('hour', \"timestamp\", 'UTC') AS hour, event_type::text, service::text, \
                 count(*) AS events FROM events GROUP BY 1, 2, 3) AS rows FULL JOIN (SELECT hour, event_type, service, \
                 sum(events) AS events FROM event_rollups_hourly GROUP BY 1, 2, 3) AS rollups USING (hour, event_type, service) \
                 WHERE rows.events IS DISTINCT FROM rollups.events",
            )
            .await?;
        anyhow::ensure!(different == 0, "{different} rollups differ from the table");
        Ok(())
    }

    /// Fails unless the distinct users by hour are those of the table.
    pub(crate) async fn users_are_right(&self) -> Result<()> {
        let different = self
            .number(
                "SELECT count(*) FROM (SELECT date_trunc('hour', \"timestamp\", 'UTC') AS hour, count(DISTINCT user_id) AS users \
                 FROM events GROUP BY 1) AS rows FULL JOIN (SELECT hour, sum(users) AS users FROM event_users_hourly GROUP BY 1) \
                 AS rollups USING (hour) WHERE rows.users IS DISTINCT FROM rollups.users",
            )
            .await?;
        anyhow::ensure!(different == 0, "distinct users differ from the table in {different} hours");
        Ok(())
    }

    /// Waits until the table has at least that many rows.
    pub(crate) async fn until_rows(&self, rows: i64) -> Result<()> {
        wait::until_true("rows arrive", SOON, || async {
            let now = self.rows().await?;
            anyhow::ensure!(now >= rows, "{now} of {rows} rows");
            Ok(true)
        })
        .await
    }
}

/// A record as it lies in a topic.
pub(crate) struct Lying {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Lying {
    /// The last header of that name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        String::from_utf8(value.clone()?).ok()
    }
}

/// Everything that a topic holds now.
pub(crate) async fn read(kafka: &Kafka, topic: &str) -> Result<Vec<Lying>> {
    let ends = kafka.end_offsets(topic).await?;
    let mut config = kafka.client_config();
    config.set("group.id", "reader").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    let topic = topic.to_owned();
    let look = move || -> Result<Vec<Lying>> {
        let consumer: BaseConsumer = config.create()?;
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(&topic, *partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let (mut found, mut open) = (Vec::new(), ends.len());
        while open > 0 {
            match consumer.poll(SOON).context("Kafka gives nothing")? {
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                // librdkafka reports what passes by itself, too.
                Err(_) => {}
                Ok(message) => found.push(lying(&message)),
            }
        }
        Ok(found)
    };
    tokio::task::spawn_blocking(look).await?
}

fn lying(message: &BorrowedMessage<'_>) -> Lying {
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|header| (header.key.to_owned(), owned(header.value))).collect());
    Lying {
        key: owned(message.key()),
        payload: owned(message.payload()),
        headers: headers.unwrap_or_default(),
    }
}

/// A good event with a number in it.
pub(crate) fn event(number: u64) -> Vec<u8> {
    format!(
        r#"{{"event_type":"user_login","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"auth","timestamp":"2024-11-09T10:30:00Z","data":{{"n":{number}}}}}"#
    )
    .into_bytes()
}

/// Waits for a line in the consumer's log.
pub(crate) async fn until_logged(consumer: &Consumer, text: &str) -> Result<()> {
    wait::until_true(text, SOON, || async { Ok(consumer.log().contains(text)) })
        .await
        .with_context(|| consumer.log())
}

/// The counts of two loads on one topic.
pub(crate) fn together(mut first: Counts, second: &Counts) -> Counts {
    first.distinct += second.distinct;
    first.duplicates += second.duplicates;
    for (malformation, count) in &second.malformed {
        *first.malformed.entry(*malformation).or_default() += count;
    }
    first
}
