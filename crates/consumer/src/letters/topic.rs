//! Reading and marking dead letters in their topic.
//!
//! A log cannot be changed, so what happens to a letter is told by further records: a marker says that it was replayed.
//! The topic is read once for what is known about letters (markers, letters that repeat another), then for the letters.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::store::{Counts, Letter, PAGE, Replayed};
use super::{Filter, LetterId, LettersError};
use crate::batch::{encode_headers, headers_to_json};
use crate::dead_letter::{self, Headers, Origin, names};
use crate::letter_topic;
use crate::settings::{Kafka, Settings};
use crate::source::{lookup_config, producer_config, record_headers};

/// How long Kafka may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

/// Partition and offset.
type Place = (i32, i64);

/// The dead letters of one group and topic.
pub(super) struct TopicStore {
    consumer: BaseConsumer,
    kafka: Kafka,
    topic: String,
    /// Where each partition begins and ends; what comes later does not count.
    logs: Vec<(i32, i64, i64)>,
    replayed: HashSet<Place>,
    /// Letters whose record has an earlier letter.
    repetitions: HashSet<Place>,
    producer: Option<FutureProducer>,
}

/// What a record of the topic is.
enum Entry {
    Letter(Box<Letter>),
    /// The letter there was replayed.
    Marker(Place),
    /// Another pipeline's, or nobody's.
    Foreign,
}

impl TopicStore {
    /// Connects and reads what is known about letters.
    pub(super) fn open(settings: &Settings, topic: &str) -> Result<Self, LettersError> {
        let mut store = Self {
            consumer: lookup_config(&settings.kafka).set("auto.offset.reset", "earliest").create()?,
            kafka: settings.kafka.clone(),
            topic: topic.to_owned(),
            logs: Vec::new(),
            replayed: HashSet::new(),
            repetitions: HashSet::new(),
            producer: None,
        };
        store.logs = store.find_logs()?;
        let (mut replayed, mut repetitions) = (HashSet::new(), HashSet::new());
        let mut origins: HashSet<Origin> = HashSet::new();
        store.read(None, |place, entry| {
            match entry {
                Entry::Marker(letter) => {
                    replayed.insert(letter);
                }
                Entry::Letter(letter) => {
                    if !origins.insert(origin(&letter)) {
                        repetitions.insert(place);
                    }
                }
                Entry::Foreign => {}
            }
            true
        })?;
        (store.replayed, store.repetitions) = (replayed, repetitions);
        Ok(store)
    }

    /// The name of the topic.
    pub(super) fn place(&self) -> &str {
        &self.topic
    }

    fn find_logs(&self) -> Result<Vec<(i32, i64, i64)>, LettersError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), TIMEOUT)?;
        let found = metadata.topics().first().filter(|topic| topic.error().is_none());
        let found = found.ok_or_else(|| LettersError::NoTopic(self.topic.clone()))?;
        let mut partitions: Vec<i32> = found.partitions().iter().map(|partition| partition.id()).collect();
        partitions.sort_unstable();
        let log = |partition| {
            let (low, high) = self.consumer.fetch_watermarks(&self.topic, partition, TIMEOUT)?;
            Ok((partition, low, high))
        };
        partitions.into_iter().map(log).collect()
    }

    /// Reads what comes behind `after`, partition by partition, until `visit` says that it has enough.
    fn read(
        &self,
        after: Option<Place>,
        mut visit: impl FnMut(Place, Entry) -> bool,
    ) -> Result<(), LettersError> {
        let (first, offset) = after.unwrap_or((0, -1));
        for &(partition, low, high) in self.logs.iter().filter(|(partition, ..)| *partition >= first) {
            let begin = if partition == first { low.max(offset + 1) } else { low };
            if begin < high && !self.read_partition(partition, begin, high, &mut visit)? {
                break;
            }
        }
        Ok(self.consumer.unassign()?)
    }

    /// Reads one partition up to `end`; says whether `visit` wants more.
    fn read_partition(
        &self,
        partition: i32,
        begin: i64,
        end: i64,
        visit: &mut impl FnMut(Place, Entry) -> bool,
    ) -> Result<bool, LettersError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(begin))?;
        self.consumer.assign(&list)?;
        let mut heard = Instant::now();
        while heard.elapsed() < TIMEOUT {
            let message = match self.consumer.poll(POLL) {
                None => continue,
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
                Some(Err(error)) if is_lasting(&error) => return Err(error.into()),
                Some(Err(error)) => {
                    tracing::debug!(%error, "Kafka, while reading dead letters");
                    continue;
                }
                Some(Ok(message)) => message,
            };
            heard = Instant::now();
            let place = (message.partition(), message.offset());
            if place.1 >= end {
                return Ok(true);
            }
            if !visit(place, self.entry(&message)) {
                return Ok(false);
            }
            if place.1 + 1 >= end {
                return Ok(true);
            }
        }
        Err(LettersError::Silent(self.topic.clone(), TIMEOUT.as_secs()))
    }

    fn entry(&self, message: &BorrowedMessage<'_>) -> Entry {
        // Anybody may write to the topic, and a name need not be text.
        let headers: Headers = record_headers(message)
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.map(<[u8]>::to_vec)))
            .collect();
        if let Some(place) = marked(&headers) {
            return Entry::Marker(place);
        }
        let place = (message.partition(), message.offset());
        match dead_letter::open(headers) {
            Some(opened)
                if opened.origin.group_id == self.kafka.group_id
                    && opened.origin.topic == self.kafka.topic =>
            {
                Entry::Letter(Box::new(self.letter(place, message, opened)))
            }
            _ => Entry::Foreign,
        }
    }

    fn letter(&self, place: Place, message: &BorrowedMessage<'_>, opened: dead_letter::Opened) -> Letter {
        let mut flat = Vec::new();
        let headers = opened.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        encode_headers(headers, &mut flat);
        let time = DateTime::from_timestamp_millis;
        let replayed = self.replayed.contains(&place);
        Letter {
            id: LetterId::Place(place.0, place.1),
            group_id: opened.origin.group_id,
            topic: opened.origin.topic,
            partition: opened.origin.partition,
            offset: opened.origin.offset,
            reason: opened.reason,
            detail: opened.detail,
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers_to_json(&flat).and_then(|text| serde_json::from_str(&text).ok()),
            record_timestamp: opened.origin.timestamp_millis.and_then(time),
            created_at: message.timestamp().to_millis().and_then(time).unwrap_or(DateTime::<Utc>::MIN_UTC),
            replayed: if replayed { Replayed::Yes(None) } else { Replayed::No },
            omitted_bytes: opened.omitted_bytes,
        }
    }

    /// The next letters behind `after` by partition and offset, at most `most`.
    pub(super) fn page(
        &self,
        filter: &Filter,
        replayed: bool,
        after: Option<LetterId>,
        most: i64,
    ) -> Result<Vec<Letter>, LettersError> {
        let most = usize::try_from(most.min(PAGE)).unwrap_or(0);
        let mut page = Vec::new();
        if most == 0 {
            return Ok(page);
        }
        self.read(after.and_then(LetterId::place), |place, entry| {
            if let Entry::Letter(letter) = entry
                && !self.repetitions.contains(&place)
                && (replayed || may_be_replayed(&letter))
                && filter.selects(&letter)
            {
                page.push(*letter);
            }
            page.len() < most
        })?;
        Ok(page)
    }

    /// Letters by reason.
    pub(super) fn count(&self, filter: &Filter) -> Result<Counts, LettersError> {
        let mut counts = Counts::new();
        self.each(filter, |letter| {
            let (count, replayed) = counts.entry(letter.reason.clone()).or_default();
            *count += 1;
            *replayed += i64::from(letter.replayed != Replayed::No);
        })?;
        Ok(counts)
    }

    /// How many letters a replay would send.
    pub(super) fn waiting(&self, filter: &Filter, replayed: bool) -> Result<i64, LettersError> {
        let mut count = 0;
        self.each(filter, |letter| {
            count += i64::from(replayed && letter.omitted_bytes.is_none() || may_be_replayed(letter));
        })?;
        Ok(count)
    }

    fn each(&self, filter: &Filter, mut visit: impl FnMut(&Letter)) -> Result<(), LettersError> {
        self.read(None, |place, entry| {
            if let Entry::Letter(letter) = entry
                && !self.repetitions.contains(&place)
                && filter.selects(&letter)
            {
                visit(&letter);
            }
            true
        })
    }

    /// Marks letters as replayed, beside them.
    pub(super) async fn mark(&mut self, ids: &[LetterId]) -> Result<(), LettersError> {
        let producer = match &self.producer {
            Some(producer) => producer.clone(),
            None => self.producer.insert(producer_config(&self.kafka).create()?).clone(),
        };
        let places: Vec<Place> = ids.iter().filter_map(|id| id.place()).collect();
        let markers = places.iter().map(async |place| {
            let text = LetterId::Place(place.0, place.1).to_string();
            let headers =
                letter_topic::headers(vec![(names::REPLAYED.to_owned(), Some(text.clone().into_bytes()))]);
            let record = FutureRecord::to(&self.topic).partition(place.0).key(&text).payload("replayed");
            producer.send(record.headers(headers), TIMEOUT).await.map_err(|(error, _)| error)
        });
        try_join_all(markers).await?;
        self.replayed.extend(places);
        Ok(())
    }
}

fn is_lasting(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        Authentication, SaslAuthenticationFailed, TopicAuthorizationFailed, UnknownTopic,
        UnknownTopicOrPartition,
    };
    let code = error.rdkafka_error_code();
    matches!(
        code,
        Some(
            Authentication
                | SaslAuthenticationFailed
                | TopicAuthorizationFailed
                | UnknownTopic
                | UnknownTopicOrPartition
        )
    )
}

fn marked(headers: &Headers) -> Option<Place> {
    let (_, value) = headers.iter().find(|(name, _)| name == names::REPLAYED)?;
    let text = String::from_utf8(value.clone()?).ok()?;
    text.parse::<LetterId>().ok()?.place()
}

fn may_be_replayed(letter: &Letter) -> bool {
    letter.replayed == Replayed::No && letter.omitted_bytes.is_none()
}

fn origin(letter: &Letter) -> Origin {
    Origin {
        group_id: letter.group_id.clone(),
        topic: letter.topic.clone(),
        partition: letter.partition,
        offset: letter.offset,
        timestamp_millis: letter.record_timestamp.map(|time| time.timestamp_millis()),
    }
}
