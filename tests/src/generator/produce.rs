//! Sending what a generator makes to Kafka, and knowing that all of it arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::{DateTime, Utc};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use tokio_util::sync::CancellationToken;

use super::{Counts, Generator, Record};

/// How long the last records may take to be acknowledged.
const FLUSH: Duration = Duration::from_secs(60);
/// Pause when the producer's queue is full or the rate is reached: short against any batch.
const PAUSE: Duration = Duration::from_millis(1);
/// Records between two looks at the progress callback and at the stop token.
const STRIDE: u64 = 256;

/// Where to, how many, how fast.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// Must exist, with at least as many partitions as the generator uses.
    pub topic: String,
    /// How many records.
    pub events: u64,
    /// Records per second; `None` is as fast as possible.
    pub rate: Option<f64>,
    /// Events are dated back from here; `None` is the clock at each event.
    pub dated_from: Option<DateTime<Utc>>,
    /// Further librdkafka settings, such as those for TLS and SASL.
    pub properties: Vec<(String, String)>,
}

/// Sends `target.events` records, or fewer if `stop` is cancelled, and returns once every one of them is acknowledged by
/// all in-sync replicas. `progress` is called every few hundred records.
///
/// # Errors
/// When Kafka refuses, or does not acknowledge within a minute after the last record.
pub async fn produce(
    mut generator: Generator,
    target: Target,
    stop: CancellationToken,
    mut progress: impl FnMut(&Counts) + Send + 'static,
) -> anyhow::Result<Counts> {
    // librdkafka's own threads do the network; this one only fills its queue, and may block on it.
    tokio::task::spawn_blocking(move || {
        let sender = Sender::new(&target)?;
        let started = Instant::now();
        for sent in 0..target.events {
            if sent.is_multiple_of(STRIDE) {
                progress(generator.counts());
            }
            if !wait_for_turn(started, sent, target.rate, &stop) {
                break;
            }
            let now = target.dated_from.unwrap_or_else(Utc::now);
            sender.send(&generator.next_record(now))?;
        }
        sender.finish()?;
        progress(generator.counts());
        Ok(generator.counts().clone())
    })
    .await
    .context("the producing thread ended in a panic")?
}

/// Waits until record number `sent` is due; false when `stop` is cancelled instead.
fn wait_for_turn(started: Instant, sent: u64, rate: Option<f64>, stop: &CancellationToken) -> bool {
    let due = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(sent as f64 / rate));
    while !stop.is_cancelled() {
        let early = due.saturating_sub(started.elapsed());
        if early.is_zero() {
            return true;
        }
        std::thread::sleep(early.min(Duration::from_millis(50)));
    }
    false
}

/// Counts what the brokers said of each record.
#[derive(Clone, Default)]
struct Deliveries {
    acknowledged: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        match result {
            Ok(_) => self.acknowledged.fetch_add(1, Ordering::Relaxed),
            Err((error, _)) => {
                tracing::error!(%error, "Kafka did not take a record");
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

struct Sender<'a> {
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
    topic: &'a str,
    brokers: &'a str,
}

impl<'a> Sender<'a> {
    fn new(target: &'a Target) -> anyhow::Result<Self> {
        let deliveries = Deliveries::default();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &target.brokers);
        // A retry inside the producer must not make a duplicate that the counts do not know of.
        config.set("enable.idempotence", "true");
        // Full batches at full speed; at a set rate each record goes out at once, for latencies to mean something.
        config.set("linger.ms", if target.rate.is_some() { "0" } else { "20" });
        for (name, value) in &target.properties {
            config.set(name, value);
        }
        let producer = config
            .create_with_context(deliveries.clone())
            .with_context(|| format!("cannot make a Kafka producer for {}", target.brokers))?;
        Ok(Self { producer, deliveries, topic: &target.topic, brokers: &target.brokers })
    }

    fn send(&self, record: &Record) -> anyhow::Result<()> {
        let mut outgoing = BaseRecord::to(self.topic).partition(record.partition).key(&record.key);
        if let Some(payload) = &record.payload {
            outgoing = outgoing.payload(payload);
        }
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    outgoing = unsent;
                    std::thread::sleep(PAUSE);
                }
                Err((error, _)) => {
                    return Err(error).with_context(|| {
                        format!("cannot send to partition {} of topic {}", record.partition, self.topic)
                    });
                }
            }
        }
    }

    fn finish(&self) -> anyhow::Result<()> {
        self.producer
            .flush(FLUSH)
            .with_context(|| format!("Kafka at {} did not acknowledge all records in time", self.brokers))?;
        let failed = self.deliveries.failed.load(Ordering::Relaxed);
        let acknowledged = self.deliveries.acknowledged.load(Ordering::Relaxed);
        anyhow::ensure!(failed == 0, "Kafka refused {failed} records and took {acknowledged}; see the log");
        Ok(())
    }
}
