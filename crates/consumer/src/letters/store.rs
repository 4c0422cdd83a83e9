//! Where dead letters are, a table or a topic, seen alike.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::table::TableStore;
use super::topic::TopicStore;
use super::{Filter, LetterId, LettersError};
use crate::settings::{DeadLetters, Settings};
use crate::sink::Database;

/// Letters read at once.
pub(super) const PAGE: i64 = 500;

/// A dead letter as it is kept.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) id: LetterId,
    pub(super) group_id: String,
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) reason: String,
    pub(super) detail: String,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    /// A JSON array of `[name, value]`; a value that is not UTF-8 is `{"hex": …}`.
    pub(super) headers: Option<serde_json::Value>,
    pub(super) record_timestamp: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) replayed: Replayed,
    /// Bytes of the value, where the topic did not take the whole record; such a letter cannot be replayed.
    pub(super) omitted_bytes: Option<u64>,
}

/// Whether a letter was produced to Kafka again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    /// It was not.
    No,
    /// It was, at a time that is known where letters are in a table.
    Yes(Option<DateTime<Utc>>),
}

/// How many letters, and how many of them were replayed, by reason.
pub(super) type Counts = BTreeMap<String, (i64, i64)>;

/// The dead letters of one group and topic.
pub(super) enum Store {
    /// In a table.
    Table(TableStore),
    /// In a topic.
    Topic(Box<TopicStore>),
}

impl Store {
    /// Connects.
    pub(super) async fn open(settings: &Settings) -> Result<Self, LettersError> {
        match &settings.database.dead_letters {
            DeadLetters::Table(table) => {
                let database = Database::new(&settings.database, &settings.instance)?;
                Ok(Self::Table(TableStore::open(&database, table, settings).await?))
            }
            DeadLetters::Topic(topic) => tokio::task::block_in_place(|| TopicStore::open(settings, topic))
                .map(Box::new)
                .map(Self::Topic),
        }
    }

    /// What the letters are kept in, for messages.
    pub(super) fn place(&self) -> &str {
        match self {
            Self::Table(store) => store.place(),
            Self::Topic(store) => store.place(),
        }
    }

    /// The next letters behind `after`, with or without those that were replayed; at most `most`. An empty page is the end.
    pub(super) async fn page(
        &mut self,
        filter: &Filter,
        replayed: bool,
        after: Option<LetterId>,
        most: i64,
    ) -> Result<Vec<Letter>, LettersError> {
        match self {
            Self::Table(store) => Ok(store.page(filter, replayed, after, most).await?),
            Self::Topic(store) => tokio::task::block_in_place(|| store.page(filter, replayed, after, most)),
        }
    }

    /// One letter.
    pub(super) async fn one(&mut self, id: LetterId) -> Result<Option<Letter>, LettersError> {
        match self {
            Self::Table(store) => Ok(store.one(id).await?),
            Self::Topic(store) => {
                let filter = Filter { ids: vec![id], ..Filter::default() };
                tokio::task::block_in_place(|| store.page(&filter, true, None, 1)).map(|mut page| page.pop())
            }
        }
    }

    /// Letters by reason.
    pub(super) async fn count(&mut self, filter: &Filter) -> Result<Counts, LettersError> {
        match self {
            Self::Table(store) => Ok(store.count(filter).await?),
            Self::Topic(store) => tokio::task::block_in_place(|| store.count(filter)),
        }
    }

    /// How many letters a replay would send.
    pub(super) async fn waiting(&mut self, filter: &Filter, replayed: bool) -> Result<i64, LettersError> {
        let count = match self {
            Self::Table(store) => store.waiting(filter, replayed).await?,
            Self::Topic(store) => tokio::task::block_in_place(|| store.waiting(filter, replayed))?,
        };
        Ok(count.min(filter.limit()))
    }

    /// Marks letters as replayed.
    pub(super) async fn mark(&mut self, ids: &[LetterId]) -> Result<(), LettersError> {
        match self {
            Self::Table(store) => Ok(store.mark(ids).await?),
            Self::Topic(store) => store.mark(ids).await,
        }
    }
}
