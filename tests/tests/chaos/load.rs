//! A steady stream of events, duplicates and malformed records, into however many partitions there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use chrono::Utc;
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

/// Partitions that the generator's users are spread over; later ones get their share at random.
pub(crate) const PARTITIONS: i32 = 8;

/// A producer on a thread of its own.
pub(crate) struct Load {
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Load {
    /// Starts sending `rate` records per second to `topic`, of which `partitions` may rise meanwhile.
    pub(crate) fn start(
        config: ClientConfig,
        topic: &str,
        seed: u64,
        rate: f64,
        partitions: Arc<AtomicI32>,
    ) -> Self {
        let stop = CancellationToken::new();
        let sent = Arc::new(AtomicU64::new(0));
        let (token, counter, topic) = (stop.clone(), Arc::clone(&sent), topic.to_owned());
        let sending = Sending { topic, seed, rate, partitions, stop: token, sent: counter };
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
    topic: String,
    seed: u64,
    rate: f64,
    partitions: Arc<AtomicI32>,
    stop: CancellationToken,
    sent: Arc<AtomicU64>,
}

impl Sending {
    fn run(&self, mut config: ClientConfig) -> Result<()> {
        let failures = Failures::default();
        // A broker may be away for long; what was sent once must arrive once. Added partitions are seen soon.
        config.set("enable.idempotence", "true").set("linger.ms", "2").set("message.timeout.ms", "0");
        config.set("topic.metadata.refresh.interval.ms", "1000");
        let producer: ThreadedProducer<Failures> = config.create_with_context(failures.clone())?;
        let options = Options {
            seed: self.seed,
            partitions: PARTITIONS,
            duplicates: 0.03,
            malformed: 0.01,
            spread: Duration::from_secs(60),
            ..Options::default()
        };
        let mut generator = Generator::new(options)?;
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let began = Instant::now();
        while !self.stop.is_cancelled() {
            let due = Duration::from_secs_f64(self.sent.load(Ordering::Relaxed) as f64 / self.rate);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            let mut record = generator.next_record(Utc::now());
            // A duplicate may so arrive on another partition than the first: two writers then meet at one key.
            if random.random_bool(0.3) {
                record.partition = random.random_range(0..self.partitions.load(Ordering::Relaxed));
            }
            send_one(&producer, &self.topic, &record)?;
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        producer.flush(Duration::from_secs(120)).context("Kafka did not acknowledge all records")?;
        let failed = failures.0.load(Ordering::Relaxed);
        ensure!(failed == 0, "Kafka refused {failed} records");
        Ok(())
    }
}

fn send_one(producer: &ThreadedProducer<Failures>, topic: &str, record: &Record) -> Result<()> {
    let kind = if matches!(record.kind, Kind::Malformed(_)) { MALFORMED } else { GOOD };
    let headers = OwnedHeaders::new().insert(Header { key: KIND, value: Some(kind) });
    let mut outgoing = BaseRecord::to(topic).partition(record.partition).key(&record.key).headers(headers);
    if let Some(payload) = &record.payload {
        outgoing = outgoing.payload(payload);
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
