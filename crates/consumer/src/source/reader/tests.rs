//! The reading thread against librdkafka's mock cluster; the tests are the writers and the claims.

use std::thread::JoinHandle;

use analytics_runtime::health::Health;
use prometheus::Registry;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr as Code};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::batch::Batch;
use crate::settings::{BatchLimits, Deduplication, Settings, Tombstones};
use crate::source::end_of_partition::can_read;
use crate::source::{Context, client_config, lookup_config};

const TOPIC: &str = "t";
const SOON: Duration = Duration::from_secs(60);
const LIMITS: BatchLimits = BatchLimits { max_events: 10, max_bytes: 1 << 20 };

/// A reading thread with two partitions, or more, and two slots.
struct Rig {
    cluster: MockCluster<'static, DefaultProducerContext>,
    settings: Settings,
    slots: Arc<[Slot]>,
    claims: UnboundedReceiver<Claim>,
    control: std::sync::mpsc::Sender<Control>,
    health: Health,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<bool>>,
}

impl Rig {
    fn start() -> Self {
        let (mut rig, mut reader) = Self::prepare(2);
        rig.thread = Some(std::thread::spawn(move || {
            let result = reader.run();
            reader.close();
            result.is_ok()
        }));
        rig
    }

    /// All but the thread.
    fn prepare(partitions: i32) -> (Self, Reader) {
        let cluster = MockCluster::new(1).expect("a cluster");
        cluster.create_topic(TOPIC, partitions, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let variables =
            [("KAFKA_BROKERS", &*brokers), ("KAFKA_TOPIC", TOPIC), ("DATABASE_URL", "postgres://a@b/c")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings::from_variables(&variables.into()).expect("good settings");
        let health = Health::new("test");
        let status = Arc::new(Status::new(health.clone()));
        status.schema_ready();
        let metrics = Arc::new(Metrics::new(&Registry::new(), TOPIC).expect("fresh registry"));
        let positions: Arc<Positions> = Arc::default();
        let context =
            Context::new(TOPIC.into(), Arc::clone(&positions), Arc::clone(&metrics), Arc::clone(&status));
        let consumer = Consumer::from_config_and_context(&client_config(&settings.kafka), context);
        let slots: Arc<[Slot]> = (0..2).map(|_| Slot::new(LIMITS)).collect();
        let ((requests, claims), (control, controlled)) = (unbounded_channel(), std::sync::mpsc::channel());
        let shutdown = CancellationToken::new();
        let reader = Reader {
            consumer: Arc::new(consumer.expect("a client")),
            topic: TOPIC.into(),
            slots: Arc::clone(&slots),
            claims: requests,
            control: controlled,
            assignments: Arc::default(),
            positions,
            policy: RecordPolicy {
                deduplication: Deduplication::None,
                tombstones: Tombstones::DeadLetter,
                event_max_bytes: 1 << 20,
            },
            metrics,
            status,
            busy: Arc::new(BusyClock::new(2)),
            shutdown: shutdown.clone(),
            partitions: HashMap::new(),
            generation: 0,
            paused: BTreeSet::new(),
            unreadable: false,
        };
        (Self { cluster, settings, slots, claims, control, health, shutdown, thread: None }, reader)
    }

    /// Lets two partitions begin at their beginnings, and says for which generations.
    fn begin(&mut self) -> Vec<u64> {
        let claims: Vec<Claim> =
            (0..2).map(|_| self.claims.blocking_recv().expect("a partition to take over")).collect();
        for Claim { partition, generation, .. } in &claims {
            let claimed = Control::Claimed { partition: *partition, generation: *generation, offset: 0 };
            self.control.send(claimed).expect("the reading thread");
        }
        claims.iter().map(|claim| claim.generation).collect()
    }

    fn produce(&self, partition: i32, records: usize) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().expect("a producer");
        for _ in 0..records {
            let record = BaseRecord::<(), [u8]>::to(TOPIC).partition(partition).payload(b"not json");
            producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
        }
        producer.flush(SOON).expect("all are produced");
    }

    /// Takes batches of a slot, as its writer would, until so many records have come.
    fn take(&self, slot: usize, records: usize) {
        let (mut batch, mut taken) = (Batch::default(), 0);
        until(&format!("{records} records in slot {slot}"), || {
            while self.slots[slot].take(&mut batch) {
                taken += batch.dead_letters().len();
                batch.clear(&LIMITS);
            }
            taken >= records
        });
        assert_eq!(taken, records);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let Some(thread) = self.thread.take() else { return };
        let ended = thread.join().is_ok_and(|result| result);
        assert!(ended || std::thread::panicking(), "the reading thread ends in good order");
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A batch may be stuck for long, on a lock or on the topic of the dead letters.
#[test]
fn a_writer_that_is_stuck_holds_up_its_own_partitions_only() {
    let mut rig = Rig::start();
    rig.begin();
    rig.produce(0, 100);
    until("the first slot is full", || !rig.slots[0].wait_for_room(Duration::ZERO));
    for _ in 0..3 {
        rig.produce(1, 100);
        rig.take(1, 100);
    }
    assert!(!rig.slots[0].wait_for_room(Duration::ZERO), "nobody took anything");
    // And when its writer is free again, nothing is missing and nothing comes twice.
    rig.take(0, 100);
    rig.produce(0, 50);
    rig.take(0, 50);
}

#[test]
fn a_topic_made_anew_is_taken_over_again_as_a_whole() {
    let mut rig = Rig::start();
    let before = rig.begin();
    rig.produce(0, 5);
    rig.take(0, 5);
    rig.control.send(Control::Recreated).expect("the reading thread");
    let after = rig.begin();
    assert!(after.iter().min() > before.iter().max(), "{before:?} {after:?}");
    // The test says where it begins: at the beginning, again.
    rig.take(0, 5);
}

/// librdkafka says it once, and brokers answer all the while.
#[test]
fn a_topic_that_must_not_be_read_is_an_obstacle_until_a_record_comes() {
    let mut rig = Rig::start();
    rig.begin();
    until("it is ready", || rig.health.is_ready());
    // The mock cluster's answer to the very first request may be lost on librdkafka.
    let refusals = [Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 4];
    rig.cluster.request_errors(RDKafkaApiKey::Fetch, &refusals);
    until("it says why", || rig.health.reason().is_some_and(|reason| reason.contains("Read on the topic")));
    let lookup = lookup_config(&rig.settings.kafka);
    assert_eq!(can_read(&lookup, TOPIC, 0).ok(), Some(true), "the end of a log can be read without a record");
    assert!(!rig.health.is_ready(), "and whoever looked has to say so");
    rig.produce(1, 1);
    until("it is ready again", || rig.health.is_ready());
}

/// A group that hands out partitions in turn gives one of two members 0, 2, 4 and 6.
#[test]
fn writers_have_equal_shares_whatever_partitions_come_and_go() {
    let (mut rig, mut reader) = Rig::prepare(8);
    let mut begin = |reader: &mut Reader| {
        while let Ok(Claim { partition, generation, .. }) = rig.claims.try_recv() {
            reader.begin(partition, generation, 5);
        }
    };
    let shares = |slots: &[Slot]| -> Vec<Vec<i32>> {
        slots.iter().map(|slot| (0..8).filter(|partition| slot.rests_at(*partition, 5)).collect()).collect()
    };
    reader.assign(&[0, 2, 4, 6]);
    begin(&mut reader);
    assert_eq!(shares(&rig.slots), [vec![0, 4], vec![2, 6]]);
    reader.revoke(&[2, 6]);
    assert_eq!(shares(&rig.slots), [vec![0, 4], vec![]]);
    // A rebalance ends with what is new, if only with nothing.
    reader.assign(&[]);
    begin(&mut reader);
    assert_eq!(shares(&rig.slots), [vec![4], vec![0]]);
}
