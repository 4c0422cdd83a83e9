//! Whether the table is what the log says: read back from Kafka, not from what the producer believes to have sent.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::content::{Content, Said};
use crate::letters::{self, Letters, Original};
use crate::load::{KIND, MALFORMED};
use crate::plan::Plan;

/// A record's place in the log.
pub(crate) type Place = (i32, i64);

/// What the log holds, and so what the database must hold.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    /// What each distinct good event says, with its first place.
    events: HashMap<Content, Place>,
    malformed: BTreeMap<Place, Original>,
    /// Up to where each partition was read.
    read: BTreeMap<i32, i64>,
    /// Dead letters, where they go to a topic.
    letters: Letters,
    letters_read: BTreeMap<i32, i64>,
    duplicates: u64,
}

impl Truth {
    /// Reads what was added to the log since the last time.
    pub(crate) fn read(
        &mut self,
        config: &ClientConfig,
        topic: &str,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<()> {
        let mut read = std::mem::take(&mut self.read);
        scan(config, topic, ends, &mut read, |message| self.add(message))?;
        self.read = read;
        Ok(())
    }

    /// Reads the dead letters that were added to their topic since the last time.
    pub(crate) fn read_letters(
        &mut self,
        config: &ClientConfig,
        topic: &str,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<()> {
        let mut read = std::mem::take(&mut self.letters_read);
        scan(config, topic, ends, &mut read, |message| self.letters.add(message))?;
        self.letters_read = read;
        Ok(())
    }

    fn add(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let place = (message.partition(), message.offset());
        if letters::header(message, KIND) == Some(MALFORMED.as_bytes()) {
            self.malformed.insert(place, Original::of(message));
            return Ok(());
        }
        let payload = message.payload().context("a good event has a value")?;
        let content = Said::read(payload)?.content();
        match self.events.entry(content) {
            Entry::Occupied(_) => self.duplicates += 1,
            Entry::Vacant(vacant) => drop(vacant.insert(place)),
        }
        Ok(())
    }

    /// Compares the database with the log.
    ///
    /// # Errors
    /// What is missing, doubled or altered, with the first few places.
    pub(crate) async fn check(&self, connection: &mut PgConnection, plan: &Plan) -> Result<String> {
        self.check_events(connection).await?;
        let copies = if plan.letters_in_topic {
            self.letters.check(&self.malformed)?
        } else {
            Letters::of_table(connection).await?.check(&self.malformed)?
        };
        ensure!(plan.letters_in_topic || copies == 0, "{copies} dead letters are in their table twice");
        self.check_offsets(connection).await?;
        check_rollups(connection, plan.users).await?;
        Ok(format!(
            "{} distinct events, {} duplicates, {} malformed records in {} partitions: each stored exactly once, byte for \
             byte, and counted{}",
            self.events.len(),
            self.duplicates,
            self.malformed.len(),
            self.read.len(),
            if copies > 0 { format!("; {copies} letters are in their topic again") } else { String::new() }
        ))
    }

    async fn check_events(&self, connection: &mut PgConnection) -> Result<()> {
        type Row = (i64, String, Uuid, String, DateTime<Utc>, String);
        let query =
            "SELECT id, event_type::text, user_id, service::text, \"timestamp\", data::text FROM events";
        let mut rows = sqlx::query_as::<_, Row>(query).fetch(connection);
        // Ids of the first row that says something, and of another that says the same.
        let mut found: HashMap<Content, (i64, Option<i64>)> = HashMap::with_capacity(self.events.len());
        while let Some((id, event_type, user_id, service, timestamp, data)) = rows.try_next().await? {
            let data = serde_json::from_str(&data)?;
            let content = Said { event_type, user_id, service, timestamp, data }.content();
            found.entry(content).and_modify(|(_, again)| *again = Some(id)).or_insert((id, None));
        }
        let missing = few(self.events.iter().filter(|(content, _)| !found.contains_key(*content)), |it| it.1);
        let doubled = few(found.values().filter(|(_, again)| again.is_some()), |it| it);
        let foreign =
            few(found.iter().filter(|(content, _)| !self.events.contains_key(*content)), |it| it.1.0);
        ensure!(
            missing.0 == 0 && doubled.0 == 0 && foreign.0 == 0,
            "of {} events {} are missing (places {:?}), {} are doubled (ids {:?}), and {} rows say what no record says \
             (ids {:?})",
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

    async fn check_offsets(&self, connection: &mut PgConnection) -> Result<()> {
        let stored: BTreeMap<i32, i64> =
            sqlx::query_as("SELECT partition, next_offset FROM pipeline_offsets ORDER BY partition")
                .fetch_all(connection)
                .await?
                .into_iter()
                .collect();
        // A partition that was added a moment ago and is empty need not have a row yet.
        let empty = self.read.iter().filter(|(partition, end)| **end == 0 && !stored.contains_key(partition));
        let stored: BTreeMap<i32, i64> =
            empty.map(|(partition, _)| (*partition, 0)).chain(stored.clone()).collect();
        ensure!(stored == self.read, "stored offsets {stored:?} are not the log's ends {:?}", self.read);
        Ok(())
    }
}

/// Reads every record from where `read` stands up to the ends.
fn scan(
    config: &ClientConfig,
    topic: &str,
    ends: &BTreeMap<i32, i64>,
    read: &mut BTreeMap<i32, i64>,
    mut add: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    let mut config = config.clone();
    config.set("group.id", "verdict").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for partition in ends.keys() {
        let next = *read.entry(*partition).or_default();
        list.add_partition_offset(topic, *partition, Offset::Offset(next))?;
    }
    consumer.assign(&list)?;
    while ends.iter().any(|(partition, end)| read.get(partition).copied().unwrap_or_default() < *end) {
        let message = consumer.poll(Duration::from_secs(30)).context("Kafka gives no more records")??;
        add(&message)?;
        read.insert(message.partition(), message.offset() + 1);
    }
    Ok(())
}

/// The rollups say what the table says, hour by hour.
async fn check_rollups(connection: &mut PgConnection, users: bool) -> Result<()> {
    let events = "SELECT count(*) FROM (SELECT date_trunc('hour', \"timestamp\", 'UTC') AS hour, event_type::text, \
                  service::text, count(*) AS events FROM events GROUP BY 1, 2, 3) AS rows FULL JOIN (SELECT hour, \
                  event_type, service, sum(events) AS events FROM event_rollups_hourly GROUP BY 1, 2, 3) AS rollups \
                  USING (hour, event_type, service) WHERE rows.events IS DISTINCT FROM rollups.events";
    let different: i64 = sqlx::query_scalar(events).fetch_one(&mut *connection).await?;
    ensure!(different == 0, "{different} rollups differ from the table");
    if users {
        let users = "SELECT count(*) FROM (SELECT date_trunc('hour', \"timestamp\", 'UTC') AS hour, \
                     count(DISTINCT user_id) AS users FROM events GROUP BY 1) AS rows FULL JOIN (SELECT hour, \
                     sum(users) AS users FROM event_users_hourly GROUP BY 1) AS rollups USING (hour) \
                     WHERE rows.users IS DISTINCT FROM rollups.users";
        let different: i64 = sqlx::query_scalar(users).fetch_one(connection).await?;
        ensure!(different == 0, "distinct users differ from the table in {different} hours");
    }
    Ok(())
}

/// How many, and the first few to look at.
pub(crate) fn few<T, U>(items: impl Iterator<Item = T>, show: impl Fn(T) -> U) -> (usize, Vec<U>) {
    let (mut count, mut first) = (0, Vec::new());
    for item in items {
        count += 1;
        if count <= 5 {
            first.push(show(item));
        }
    }
    (count, first)
}
