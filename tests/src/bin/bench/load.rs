//! Filling topics: a backlog as fast as Kafka takes it, or a steady stream with the time of sending in each event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{TimeDelta, Utc};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use testbed::generator::{Counts, Generator, Options};

/// A backlog's events are dated as if they had been sent at this rate, in events per second.
const DATED_RATE: i64 = 10_000;

/// What to fill a topic with.
#[derive(Clone, Debug)]
pub(crate) struct Filling {
    pub(crate) topic: String,
    pub(crate) events: u64,
    pub(crate) options: Options,
}

impl Filling {
    /// Good and different events, dated when they are sent, for [`steady`], which knows how many there will be.
    pub(crate) fn of_good_events(topic: &str, partitions: i32) -> Self {
        let options = Options {
            partitions,
            spread: Duration::ZERO,
            duplicates: 0.0,
            malformed: 0.0,
            ..Options::default()
        };
        Self { topic: topic.to_owned(), events: 0, options }
    }
}

/// A topic that was filled.
#[derive(Clone, Debug)]
pub(crate) struct Filled {
    pub(crate) topic: String,
    pub(crate) counts: Counts,
}

/// Fills a topic, so that its events look as if they had come in steadily until now.
pub(crate) fn backlog(config: ClientConfig, filling: &Filling) -> Result<Filled> {
    let sender = Sender::new(config, "20", &filling.topic)?;
    let mut generator = Generator::new(filling.options.clone())?;
    let events = i64::try_from(filling.events)?;
    let first = Utc::now() - TimeDelta::milliseconds(events * 1000 / DATED_RATE);
    for number in 0..events {
        let now = first + TimeDelta::microseconds(number * 1_000_000 / DATED_RATE);
        let record = generator.next_record(now);
        sender.send(record.partition, &record.key, record.payload.as_deref())?;
    }
    sender.finish()?;
    Ok(Filled { topic: filling.topic.clone(), counts: generator.counts().clone() })
}

/// Sends steadily for `duration`; each event's `data` holds the moment of sending in microseconds, as `sent`.
pub(crate) fn steady(
    mut config: ClientConfig,
    filling: &Filling,
    rate: f64,
    duration: Duration,
) -> Result<Filled> {
    // One small request a millisecond: each would wait for the acknowledgement of the one before.
    config.set("socket.nagle.disable", "true");
    let sender = Sender::new(config, "0", &filling.topic)?;
    let mut generator = Generator::new(filling.options.clone())?;
    let began = Instant::now();
    for number in 0_u64.. {
        let due = Duration::from_secs_f64(number as f64 / rate);
        if due >= duration {
            break;
        }
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let now = Utc::now();
        let record = generator.next_record(now);
        let payload = record.payload.context("a good event has a value")?;
        let stamped = stamp(&String::from_utf8(payload)?, now.timestamp_micros())?;
        sender.send(record.partition, &record.key, Some(stamped.as_bytes()))?;
    }
    sender.finish()?;
    Ok(Filled { topic: filling.topic.clone(), counts: generator.counts().clone() })
}

/// Puts the moment into an event's `data`.
fn stamp(event: &str, micros: i64) -> Result<String> {
    const BEGINNING: &str = r#""data":{"#;
    ensure!(event.contains(BEGINNING), "the generator's events have another shape: {event}");
    Ok(event.replacen(BEGINNING, &format!(r#"{BEGINNING}"sent":{micros},"#), 1))
}

#[derive(Clone, Default)]
struct Failures(Arc<AtomicU64>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Sender<'a> {
    producer: ThreadedProducer<Failures>,
    failures: Failures,
    topic: &'a str,
}

impl<'a> Sender<'a> {
    fn new(mut config: ClientConfig, linger_ms: &str, topic: &'a str) -> Result<Self> {
        let failures = Failures::default();
        config.set("enable.idempotence", "true").set("linger.ms", linger_ms);
        let producer = config.create_with_context(failures.clone())?;
        Ok(Self { producer, failures, topic })
    }

    fn send(&self, partition: i32, key: &[u8], payload: Option<&[u8]>) -> Result<()> {
        let mut outgoing = BaseRecord::to(self.topic).partition(partition).key(key);
        if let Some(payload) = payload {
            outgoing = outgoing.payload(payload);
        }
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    outgoing = unsent;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => {
                    return Err(error).with_context(|| format!("failed to send to {}", self.topic));
                }
            }
        }
    }

    fn finish(&self) -> Result<()> {
        self.producer.flush(Duration::from_secs(120)).context("Kafka did not acknowledge all records")?;
        let failed = self.failures.0.load(Ordering::Relaxed);
        ensure!(failed == 0, "Kafka refused {failed} records for {}", self.topic);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamped_event_is_still_an_event() {
        let mut generator = Generator::new(Options { malformed: 0.0, ..Options::default() }).unwrap();
        for _ in 0..500 {
            let payload = generator.next_record(Utc::now()).payload.unwrap();
            let stamped = stamp(std::str::from_utf8(&payload).unwrap(), 1_731_148_200_123_456).unwrap();
            let event: serde_json::Value = serde_json::from_str(&stamped).unwrap();
            assert_eq!(event["data"]["sent"], 1_731_148_200_123_456_i64);
        }
        assert!(stamp("{}", 1).is_err());
    }
}
