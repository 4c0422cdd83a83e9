//! Dead letters in a Kafka topic: each is confirmed by all in-sync replicas before the offset moves past its record.
//!
//! Kafka and PostgreSQL share no transaction, so a letter can be there twice: when the process dies between the topic's
//! confirmation and the commit, its successor sends it again. Its headers name the record, and readers can tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::util::Timeout;

use crate::batch::Batch;
use crate::dead_letter::{DeadLetter, Headers, seal, seal_without_content};
use crate::retry::Backoff;
use crate::settings::Kafka;
use crate::source::{Trouble, authorities, log_line, producer_config};
use crate::status::Status;

/// What a user cannot tune: how long to try before the batch is looked at again, and how soon a missing topic is named.
const PROPERTIES: &[(&str, &str)] = &[
    ("message.timeout.ms", "15000"),
    ("topic.metadata.propagation.max.ms", "2000"),
    ("linger.ms", "1"),
    // Whether a record is too large is for the topic to say, which may allow more than librdkafka does by default.
    ("message.max.bytes", "1000000000"),
];
/// How long to ask whether the topic is there.
const QUESTION: Duration = Duration::from_secs(5);

/// Dead letters are not in their topic, all or some of them.
#[derive(Debug, thiserror::Error)]
pub enum UndeliveredError {
    /// There is no such topic.
    #[error("the dead-letter topic `{0}` does not exist; create it or correct DEAD_LETTER_TOPIC")]
    NoTopic(Arc<str>),
    /// The brokers do not allow it.
    #[error("Kafka refuses to write to the dead-letter topic `{0}`: allow this user Write on it")]
    Forbidden(Arc<str>),
    /// Anything else.
    #[error("the dead-letter topic `{topic}` does not take records: {cause}")]
    Kafka {
        /// The topic.
        topic: Arc<str>,
        /// What librdkafka says.
        cause: String,
    },
    /// The question was interrupted.
    #[error("the question about the dead-letter topic was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

type Producer = FutureProducer<Context>;

/// Writes dead letters to their topic.
pub struct LetterTopic {
    topic: Arc<str>,
    source_topic: String,
    group_id: String,
    config: ClientConfig,
    trouble: Arc<Trouble>,
    /// A producer is replaced when it has come into a state that it does not leave.
    producer: Mutex<Option<Producer>>,
}

impl LetterTopic {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// librdkafka refuses the settings.
    pub fn new(kafka: &Kafka, topic: &str) -> Result<Self, KafkaError> {
        let mut config = producer_config(kafka);
        for (key, value) in PROPERTIES {
            config.set(*key, *value);
        }
        let letters = Self {
            topic: topic.into(),
            source_topic: kafka.topic.clone(),
            group_id: kafka.group_id.clone(),
            config,
            trouble: Arc::new(Trouble::new(authorities(kafka))),
            producer: Mutex::new(None),
        };
        letters.producer().map(drop)?;
        Ok(letters)
    }

    fn producer(&self) -> Result<Producer, KafkaError> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = producer.as_ref() {
            return Ok(producer.clone());
        }
        let context = Context { trouble: Arc::clone(&self.trouble) };
        Ok(producer.insert(Producer::from_config_and_context(&self.config, context)?).clone())
    }

    /// Sends the letters that Kafka does not have yet and waits until it has confirmed them.
    ///
    /// # Errors
    /// Why some of them are not confirmed; those that are will not be sent again.
    pub async fn deliver(&self, batch: &mut Batch) -> Result<(), UndeliveredError> {
        if batch.dead_letters().iter().all(|letter| letter.delivered) {
            return Ok(());
        }
        let producer = self.producer().map_err(|error| self.explain(&error))?;
        let sending = batch.dead_letters().iter().map(async |letter| match letter.delivered {
            true => Ok(()),
            false => self.send(&producer, letter, Content::Whole).await,
        });
        let mut results = join_all(sending).await;
        // Records travel in batches, and the topic may have refused one as a whole.
        for (letter, result) in batch.dead_letters().iter().zip(&mut results) {
            if result.as_ref().is_err_and(is_too_large) {
                *result = self.send_alone(&producer, letter).await;
            }
        }
        batch.note_delivered(results.iter().map(Result::is_ok));
        let failure = results.into_iter().find_map(Result::err);
        if let Some(error) = &failure {
            self.replace(&producer, error);
        }
        failure.map_or(Ok(()), |error| Err(self.explain(&error)))
    }

    async fn send(
        &self,
        producer: &Producer,
        letter: &DeadLetter,
        content: Content,
    ) -> Result<(), KafkaError> {
        let record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&self.topic);
        let record = match content {
            Content::Whole => FutureRecord {
                key: letter.key.as_deref(),
                payload: letter.payload.as_deref(),
                ..record.headers(headers(seal(letter, &self.group_id, &self.source_topic)))
            },
            Content::Origin => {
                record.headers(headers(seal_without_content(letter, &self.group_id, &self.source_topic)))
            }
        };
        producer.send(record, Timeout::Never).await.map(drop).map_err(|(error, _)| error)
    }

    /// Sends a letter in a batch of its own; what is still too large says at least where it came from.
    async fn send_alone(&self, producer: &Producer, letter: &DeadLetter) -> Result<(), KafkaError> {
        match self.send(producer, letter, Content::Whole).await {
            Err(error) if is_too_large(&error) => {
                tracing::warn!(
                    partition = letter.partition,
                    offset = letter.offset,
                    "The dead-letter topic does not take a record of this size; keeping only where it came from"
                );
                self.send(producer, letter, Content::Origin).await
            }
            other => other,
        }
    }

    /// Takes another producer the next time, if this one holds on to its error.
    fn replace(&self, producer: &Producer, error: &KafkaError) {
        if producer.client().fatal_error().is_none() && !is_no_topic(error) {
            return;
        }
        let stale = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Closing it may wait for its threads.
        tokio::task::spawn_blocking(move || drop(stale));
    }

    /// Waits until the topic is there, and says in `status` why it is not.
    pub async fn wait_until_there(self: Arc<Self>, status: &Status) {
        let mut backoff = Backoff::new();
        loop {
            match Arc::clone(&self).look().await {
                Ok(()) => return status.letters_up(None),
                Err(error) => {
                    tracing::warn!(%error, "Dead letters have no place yet; trying on");
                    status.letters_down(None, error.to_string());
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn look(self: Arc<Self>) -> Result<(), UndeliveredError> {
        tokio::task::spawn_blocking(move || {
            let producer = self.producer().map_err(|error| self.explain(&error))?;
            let metadata = producer.client().fetch_metadata(Some(&self.topic), QUESTION);
            let metadata = metadata.map_err(|error| self.explain(&error))?;
            self.trouble.over();
            match metadata.topics().first().and_then(|topic| topic.error()) {
                None => Ok(()),
                Some(code) => Err(self.explain(&KafkaError::MetadataFetch(code.into()))),
            }
        })
        .await?
    }

    fn explain(&self, error: &KafkaError) -> UndeliveredError {
        let topic = Arc::clone(&self.topic);
        match error.rdkafka_error_code() {
            _ if is_no_topic(error) => UndeliveredError::NoTopic(topic),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed,
            ) => UndeliveredError::Forbidden(topic),
            _ => {
                let cause = self.trouble.cause().unwrap_or_else(|| error.to_string());
                UndeliveredError::Kafka { topic, cause }
            }
        }
    }
}

/// How much of a record its letter holds.
#[derive(Clone, Copy)]
enum Content {
    Whole,
    /// Only where it came from, and why.
    Origin,
}

fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

fn is_no_topic(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownTopic, UnknownTopicOrPartition};
    matches!(error.rdkafka_error_code(), Some(UnknownTopic | UnknownTopicOrPartition))
}

/// Headers in the client's form.
pub(crate) fn headers(headers: Headers) -> OwnedHeaders {
    headers.into_iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
        headers.insert(Header { key: &name, value: value.as_deref() })
    })
}

/// librdkafka's callbacks, on the producer's own thread.
struct Context {
    trouble: Arc<Trouble>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        // What stands in the way is told with the letters that it holds up.
        let cause = self.trouble.reported(code, reason);
        tracing::debug!(%error, reason, ?cause, "Kafka, for dead letters");
    }
}
