//! Whether the table is what the log says: read back from Kafka, not from what the producer believes to have sent.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;
use sqlx::PgConnection;

use crate::load::{KIND, MALFORMED};

/// A record's place in the log.
pub(crate) type Place = (i32, i64);

/// What the log holds, and so what the database must hold.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// Each distinct good event, by the number its producer gave it, with its first place.
    events: HashMap<String, Place>,
    /// Each malformed record's value.
    malformed: BTreeMap<Place, Option<Vec<u8>>>,
    /// Up to where each partition was read.
    read: BTreeMap<i32, i64>,
    duplicates: u64,
}

/// An event as far as the verdict needs it.
#[derive(Deserialize)]
struct Numbered {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    request: String,
}

impl Truth {
    /// Reads what was added to the log since the last time.
    pub(crate) fn read(
        &mut self,
        mut config: ClientConfig,
        topic: &str,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<()> {
        config.set("group.id", "verdict").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create()?;
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            let next = *self.read.entry(*partition).or_default();
            list.add_partition_offset(topic, *partition, Offset::Offset(next))?;
        }
        consumer.assign(&list)?;
        while ends.iter().any(|(partition, end)| self.read.get(partition).copied().unwrap_or_default() < *end)
        {
            let message = consumer.poll(Duration::from_secs(30)).context("Kafka gives no more records")??;
            self.add(&message)?;
        }
        Ok(())
    }

    fn add(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let place = (message.partition(), message.offset());
        self.read.insert(place.0, place.1 + 1);
        let kind =
            message.headers().and_then(|headers| headers.iter().find(|header| header.key == KIND)?.value);
        if kind == Some(MALFORMED.as_bytes()) {
            self.malformed.insert(place, message.payload().map(<[u8]>::to_vec));
            return Ok(());
        }
        let payload = message.payload().context("a good event has a value")?;
        let event: Numbered = serde_json::from_slice(payload)?;
        if self.events.insert(event.data.request, place).is_some() {
            self.duplicates += 1;
        }
        Ok(())
    }

    /// Compares the database with the log.
    ///
    /// # Errors
    /// What is missing, doubled or altered, with the first few places.
    pub(crate) async fn check(&self, connection: &mut PgConnection) -> Result<String> {
        self.check_events(connection).await?;
        self.check_dead_letters(connection).await?;
        let stored: BTreeMap<i32, i64> =
            sqlx::query_as("SELECT partition, next_offset FROM pipeline_offsets ORDER BY partition")
                .fetch_all(&mut *connection)
                .await?
                .into_iter()
                .collect();
        // A partition that was added a moment ago and is empty need not have a row yet.
        let empty = self.read.iter().filter(|(partition, end)| **end == 0 && !stored.contains_key(partition));
        let stored: BTreeMap<i32, i64> =
            empty.map(|(partition, _)| (*partition, 0)).chain(stored.clone()).collect();
        ensure!(stored == self.read, "stored offsets {stored:?} are not the log's ends {:?}", self.read);
        Ok(format!(
            "{} distinct events, {} duplicates, {} malformed records in {} partitions: each stored exactly once",
            self.events.len(),
            self.duplicates,
            self.malformed.len(),
            self.read.len()
        ))
    }

    async fn check_events(&self, connection: &mut PgConnection) -> Result<()> {
        let mut rows =
            sqlx::query_scalar::<_, Option<String>>("SELECT data->>'request' FROM events").fetch(connection);
        let mut found: HashMap<String, u32> = HashMap::with_capacity(self.events.len());
        while let Some(request) = rows.try_next().await? {
            *found.entry(request.context("a row without a number is none of ours")?).or_default() += 1;
        }
        let missing = few(self.events.iter().filter(|(request, _)| !found.contains_key(*request)));
        let doubled = few(found.iter().filter(|(_, times)| **times > 1));
        let foreign = few(found.keys().filter(|request| !self.events.contains_key(*request)));
        ensure!(
            missing.0 == 0 && doubled.0 == 0 && foreign.0 == 0,
            "of {} events {} are missing {:?}, {} are doubled {:?}, and {} rows are in no log {:?}",
            self.events.len(),
            missing.0,
            missing.1,
            doubled.0,
            doubled.1,
            foreign.0,
            foreign.1
        );
        Ok(())
    }

    async fn check_dead_letters(&self, connection: &mut PgConnection) -> Result<()> {
        type Letter = (i32, i64, Option<Vec<u8>>);
        let letters: Vec<Letter> = sqlx::query_as("SELECT partition, \"offset\", payload FROM dead_letters")
            .fetch_all(connection)
            .await?;
        let total = letters.len();
        let found: BTreeMap<Place, Option<Vec<u8>>> =
            letters.into_iter().map(|(partition, offset, payload)| ((partition, offset), payload)).collect();
        let missing = few(self.malformed.keys().filter(|place| !found.contains_key(place)));
        let foreign = few(found.keys().filter(|place| !self.malformed.contains_key(place)));
        let altered = few(found
            .iter()
            .filter(|(place, value)| self.malformed.get(place).is_some_and(|is| is != *value)));
        ensure!(
            missing.0 == 0 && foreign.0 == 0 && altered.0 == 0 && total == found.len(),
            "of {} malformed records {} are no dead letters {:?}; of {total} dead letters {} were good {:?}, {} hold \
             other bytes {:?}, {} repeat another",
            self.malformed.len(),
            missing.0,
            missing.1,
            foreign.0,
            foreign.1,
            altered.0,
            altered.1,
            total - found.len()
        );
        Ok(())
    }
}

/// How many, and the first few to look at.
fn few<T>(items: impl Iterator<Item = T>) -> (usize, Vec<T>) {
    let mut all: Vec<T> = items.collect();
    let count = all.len();
    all.truncate(5);
    (count, all)
}
