//! A steady stream of events, duplicates and malformed records, into however many partitions there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use testbed::generator::{Generator, Kind, Options, Record};
use tokio_util::sync::CancellationToken;

/// Names of the header that tells the verdict what a record is, and of its values.
pub(crate) const KIND: &str = "kind";
pub(crate) const GOOD: &str = "good";
pub(crate) const MALFORMED: &str = "malformed";

/// How wrong a clock is, in days; the last ones are as far as the event's time can say.
pub(crate) const SKEWS: [i64; 8] = [-3, 2, -40, 400, -20_000, 25_000, -45_000, 2_900_000];
/// Share of the records that come from producers with wrong clocks, while there are any.
const SKEWED: f64 = 0.3;

/// What the load is like; parts of it change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) topic: String,
    pub(crate) seed: u64,
    /// Records per second.
    pub(crate) rate: f64,
    /// Partitions that the generator's users are spread over; later ones get their share at random.
    pub(crate) users_over: i32,
    /// Share of events that have 1 to 20 KB.
    pub(crate) large_share: f64,
    /// How many partitions there are now.
    pub(crate) partitions: Arc<AtomicI32>,
    /// Which of [`SKEWS`] some of the producers have now, counted from 1; 0 for none.
    pub(crate) skew: Arc<AtomicUsize>,
}

/// A producer on a thread of its own.
pub(crate) struct Load {
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    /// Starts sending.
    pub(crate) fn start(config: ClientConfig, traffic: Traffic) -> Self {
        let stop = CancellationToken::new();
        let sent = Arc::new(AtomicU64::new(0));
        let sending = Sending { traffic, stop: stop.clone(), sent: Arc::clone(&sent) };
        let thread = std::thread::spawn(move || sending.run(config));
        Self { stop, sent, thread }
    }

    /// How many records were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops sending and waits until all is acknowledged.
    pub(crate) async fn stop(self) -> Result<()> {
        self.stop.cancel();
        let thread = self.thread;
        let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
        joined.map_err(|_| anyhow!("the producing thread panicked"))?
    }
}

/// What the thread has.
struct Sending {
    traffic: Traffic,
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
}

impl Sending {
    fn run(&self, mut config: ClientConfig) -> Result<()> {
        let failures = Failures::default();
        // A broker may be away for long. Without idempotence a record that may have been lost is sent again: the log is
        // the truth, not what was meant to be in it.
        config.set("acks", "all").set("linger.ms", "2").set("message.timeout.ms", "0");
        config.set("topic.metadata.refresh.interval.ms", "1000");
        let producer: ThreadedProducer<Failures> = config.create_with_context(failures.clone())?;
        let options = Options {
            seed: self.traffic.seed,
            partitions: self.traffic.users_over,
            duplicates: 0.03,
            malformed: 0.01,
            spread: Duration::from_secs(60),
            ..Options::default()
        };
        let mut generator = Generator::new(options)?;
        let mut random = ChaCha8Rng::seed_from_u64(self.traffic.seed);
        let began = Instant::now();
        while !self.stop.is_cancelled() {
            let due = Duration::from_secs_f64(self.sent.load(Ordering::Relaxed) as f64 / self.traffic.rate);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            let (now, stamp) = self.clock(&mut random);
            let mut record = generator.next_record(now);
            enlarge(&mut record, self.traffic.large_share);
            // A duplicate may so arrive on another partition than the first: two writers then meet at one key.
            if random.random_bool(0.3) {
                record.partition = random.random_range(0..self.traffic.partitions.load(Ordering::Relaxed));
            }
            send_one(&producer, &self.traffic.topic, &record, stamp)?;
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        producer.flush(Duration::from_secs(120)).context("Kafka did not acknowledge all records")?;
        let failed = failures.0.load(Ordering::Relaxed);
        ensure!(failed == 0, "Kafka refused {failed} records");
        Ok(())
    }

    /// What the producer of the next record takes for now, and the record's own time if that is not now.
    fn clock(&self, random: &mut ChaCha8Rng) -> (DateTime<Utc>, Option<i64>) {
        let now = Utc::now();
        let skew = SKEWS.get(self.traffic.skew.load(Ordering::Relaxed).wrapping_sub(1));
        match skew {
            Some(days) if random.random_bool(SKEWED) => {
                let wrong = skewed(now, *days);
                // Kafka knows no time before 1970, and takes 0 for none.
                (wrong, Some(wrong.timestamp_millis().max(1)))
            }
            _ => (now, None),
        }
    }
}

fn skewed(now: DateTime<Utc>, days: i64) -> DateTime<Utc> {
    let wrong = TimeDelta::try_days(days).and_then(|days| now.checked_add_signed(days));
    wrong.unwrap_or(now)
}

/// Gives a share of the events another 1 to 20 KB of data. It depends on nothing but the event, so that a duplicate stays
/// the same byte for byte.
fn enlarge(record: &mut Record, share: f64) {
    let Some(payload) = record.payload.as_mut().filter(|_| !matches!(record.kind, Kind::Malformed(_))) else {
        return;
    };
    let mut random = ChaCha8Rng::from_seed(*blake3::hash(payload).as_bytes());
    if random.random_bool(share) && payload.ends_with(b"}}") {
        let length = random.random_range(1_000..20_000);
        payload.truncate(payload.len() - 2);
        payload.extend_from_slice(br#","padding":""#);
        // Half random: compressed in part, as most of what is large.
        payload.extend(
            (0..length).map(|index| if index % 2 == 0 { b'.' } else { b'a' + random.random_range(0..26_u8) }),
        );
        payload.extend_from_slice(br#""}}"#);
    }
}

fn send_one(
    producer: &ThreadedProducer<Failures>,
    topic: &str,
    record: &Record,
    stamp: Option<i64>,
) -> Result<()> {
    let kind = if matches!(record.kind, Kind::Malformed(_)) { MALFORMED } else { GOOD };
    let headers = OwnedHeaders::new().insert(Header { key: KIND, value: Some(kind) });
    let mut outgoing = BaseRecord::to(topic).partition(record.partition).key(&record.key).headers(headers);
    if let Some(payload) = &record.payload {
        outgoing = outgoing.payload(payload);
    }
    if let Some(stamp) = stamp {
        outgoing = outgoing.timestamp(stamp);
    }
    loop {
        match producer.send(outgoing) {
            Ok(()) => return Ok(()),
            // A partition that was added a moment ago is not known to this client yet; a full queue waits for Kafka.
            Err((
                KafkaError::MessageProduction(
                    RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::UnknownPartition,
                ),
                unsent,
            )) => {
                outgoing = unsent;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error).with_context(|| format!("failed to send to {topic}")),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_events_are_events_and_a_duplicate_is_as_large() {
        let record = |share| {
            let options = Options { malformed: 0.0, ..Options::default() };
            let mut record = Generator::new(options).unwrap().next_record(DateTime::UNIX_EPOCH);
            enlarge(&mut record, share);
            record.payload.unwrap()
        };
        let (small, large) = (record(0.0), record(1.0));
        assert!(large.len() > small.len() + 1_000 && large == record(1.0));
        crate::content::Said::read(&large).unwrap();
    }

    #[test]
    fn wrong_clocks_stay_within_what_an_event_can_say() {
        let years = SKEWS.map(|days| chrono::Datelike::year(&skewed(Utc::now(), days)));
        assert!(years.iter().all(|year| (1..=9999).contains(year)), "{years:?}");
        assert!(years.iter().any(|year| *year < 1970) && years.iter().any(|year| *year > 9900), "{years:?}");
    }
}
