//! The Kafka clients of the controller: one for each cluster and credentials, shared by the pipelines that have both in
//! common, whatever their topics and groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use analytics_runtime::certificate;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tokio::task::JoinHandle;

use super::ends::Arrivals;
use super::listener::Listener;
use super::reader::{self, Failure, Kind};
use super::settings::{self, fingerprint};
use super::silence::{Silence, Turn};
use super::{Connection, LagError, Quiet, Reading, topics};

/// A client that no pipeline has used for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// A client that has just taken the place of another has asked for coordinators itself: another one would know no better.
const RENEWED: Duration = Duration::from_secs(10);
/// A client that does not get through is given so long to find its way by itself, as all its pipelines would lose it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Client = BaseConsumer<Listener>;

/// The Kafka clients of the controller.
#[derive(Clone)]
pub(crate) struct Clients {
    timeout: Duration,
    open: Arc<Mutex<HashMap<blake3::Hash, Entry>>>,
}

/// A cluster, as certain credentials see it.
struct Entry {
    client: Option<(Arc<Client>, Instant)>,
    /// When a client was last given up for another one.
    renewed: Option<Instant>,
    silence: Arc<Silence>,
    used: Instant,
}

/// What it takes to ask about one pipeline.
#[derive(Clone)]
struct Question {
    connection: Connection,
    settings: BTreeMap<String, String>,
    key: blake3::Hash,
}

impl Clients {
    /// No client yet; each request may take `timeout`.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, open: Arc::default() }
    }

    /// Reads offsets and group of a pipeline. A cluster that does not answer is not waited for by each of its pipelines.
    pub(crate) async fn read(&self, connection: &Connection) -> Result<Reading, LagError> {
        settings::check(connection)?;
        let settings = settings::settings(connection);
        let key = fingerprint(&settings);
        let silence = self.silence(key);
        let question = Question { connection: connection.clone(), settings, key };
        match silence.turn(&connection.brokers).await {
            Turn::Ask => self.ask(question, Arc::clone(&silence)).await.unwrap_or_else(|error| {
                silence.note(None, Instant::now());
                Err(LagError::Failed { brokers: connection.brokers.clone(), detail: error.to_string() })
            }),
            Turn::Try(error) => {
                self.ask(question, silence);
                Err(error)
            }
            Turn::Leave(error) => Err(error),
        }
    }

    /// Whether something has arrived since log ends were seen, by requests that all pipelines of the cluster share.
    pub(crate) fn arrivals(&self, quiet: &Quiet) -> Arrivals {
        let mut open = self.lock();
        let Some(entry) = open.get_mut(&quiet.client) else { return Arrivals::Unknown };
        entry.used = Instant::now();
        let Some((client, _)) = &entry.client else { return Arrivals::Unknown };
        client.context().ends.compare(&quiet.topic, &quiet.ends, entry.used)
    }

    /// Reads the log ends of all quiet topics, with one request for each cluster, where that is due. Does not wait for it.
    pub(crate) fn read_ends(&self) {
        let open: Vec<_> = {
            let open = self.lock();
            open.values().filter_map(|entry| Some(Arc::clone(&entry.client.as_ref()?.0))).collect()
        };
        for client in open {
            let Some(wanted) = client.context().ends.due(Instant::now()) else { continue };
            let timeout = self.timeout;
            tokio::task::spawn_blocking(move || {
                let read = client.offsets_for_times(wanted, timeout).ok();
                client.context().ends.take(read.as_ref(), Instant::now());
                count_partitions(&client, timeout);
            });
        }
    }

    // librdkafka blocks, so it happens on a thread for that, and goes on there if nobody waits for it any more.
    fn ask(&self, question: Question, silence: Arc<Silence>) -> JoinHandle<Result<Reading, LagError>> {
        let clients = self.clone();
        tokio::task::spawn_blocking(move || {
            clients.close_idle();
            let outcome = clients.attempt(&question);
            let silent = outcome.as_ref().err().filter(|failure| failure.kind == Kind::Silent);
            silence.note(silent.map(|failure| &failure.error), Instant::now());
            outcome.map_err(|failure| failure.error)
        })
    }

    fn attempt(&self, question: &Question) -> Result<Reading, Failure> {
        let outcome = self.attempt_once(question);
        let outcome = match outcome {
            Err((failure, true)) if failure.kind == Kind::Moved => self.attempt_once(question),
            outcome => outcome,
        };
        outcome.map_err(|(failure, _)| {
            let error = look_closer(failure.error, &question.connection, self.timeout);
            Failure { error, kind: failure.kind }
        })
    }

    // A failure comes with whether another client takes the place of the one that failed.
    fn attempt_once(&self, question: &Question) -> Result<Reading, (Failure, bool)> {
        let client =
            self.client(question).map_err(|error| (Failure { error, kind: Kind::Answered }, false))?;
        reader::read(&client, &question.connection, self.timeout).map_err(|failure| {
            let renewed = self.renew(&question.key, &client, failure.kind);
            (failure, renewed)
        })
    }

    fn client(&self, question: &Question) -> Result<Arc<Client>, LagError> {
        let mut open = self.lock();
        let entry = open.entry(question.key).or_default();
        entry.used = Instant::now();
        if let Some((client, _)) = &entry.client {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(settings::open(&question.settings, &question.connection.group)?);
        entry.client = Some((Arc::clone(&client), entry.used));
        Ok(client)
    }

    // All pipelines lose the client and what it knows, so it must be worth it. True if another one will be used from now on.
    fn renew(&self, key: &blake3::Hash, client: &Arc<Client>, kind: Kind) -> bool {
        let mut open = self.lock();
        let Some(entry) = open.get_mut(key) else { return true };
        let Some((current, since)) = &entry.client else { return true };
        if !Arc::ptr_eq(current, client) {
            return true;
        }
        let worth = is_worth_another(kind, since.elapsed(), entry.renewed.map(|renewed| renewed.elapsed()));
        if worth {
            (entry.client, entry.renewed) = (None, Some(Instant::now()));
        }
        worth
    }

    /// Addresses of the clients that are open.
    #[cfg(test)]
    pub(super) fn opened(&self) -> Vec<usize> {
        self.lock()
            .values()
            .filter_map(|entry| Some(Arc::as_ptr(&entry.client.as_ref()?.0) as usize))
            .collect()
    }

    fn silence(&self, key: blake3::Hash) -> Arc<Silence> {
        let mut open = self.lock();
        let entry = open.entry(key).or_default();
        entry.used = Instant::now();
        Arc::clone(&entry.silence)
    }

    fn close_idle(&self) {
        let in_use =
            |entry: &Entry| entry.client.as_ref().is_some_and(|(client, _)| Arc::strong_count(client) > 1);
        let close: Vec<_> = self
            .lock()
            .extract_if(|_, entry| entry.used.elapsed() >= IDLE && !in_use(entry))
            .map(|(_, entry)| entry)
            .collect();
        // Closing a client takes a moment; others need not wait for it.
        drop(close);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<blake3::Hash, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self { client: None, renewed: None, silence: Arc::default(), used: Instant::now() }
    }
}

// Of all quiet topics at once, where that is due. Those that have been given more are looked at with all they have.
fn count_partitions(client: &Client, timeout: Duration) {
    let topics = client.context().ends.to_be_counted(Instant::now());
    if topics.is_empty() {
        return;
    }
    let counts = topics::partition_counts(client.client(), &topics, timeout).unwrap_or_default();
    for (topic, count) in client.context().ends.take_counts(counts) {
        let numbers = (0..i32::try_from(count).unwrap_or(i32::MAX)).collect();
        client.context().remember(&topic, Some(numbers));
    }
}

// Whether another client may get through where one that is so old did not.
fn is_worth_another(kind: Kind, age: Duration, since_renewal: Option<Duration>) -> bool {
    match kind {
        Kind::Answered => false,
        Kind::Moved => since_renewal.is_none_or(|since| since >= RENEWED),
        // Others still get through with it, and what it knows lets pipelines rest.
        Kind::Partly => age >= PATIENCE && since_renewal.is_none_or(|since| since >= IDLE),
        Kind::Silent => age >= PATIENCE,
    }
}

// librdkafka says the same of every certificate that it refuses: one look at it tells more.
fn look_closer(error: LagError, connection: &Connection, timeout: Duration) -> LagError {
    let LagError::TlsFailed { detail } = &error else { return error };
    let authorities = connection.settings.get("ssl.ca.pem").map_or("", String::as_str);
    // Where no broker is named, the first one will do.
    let first = || connection.brokers.split(',').next().map(|broker| broker.trim().to_owned());
    let fault = certificate::address_in(detail)
        .or_else(first)
        .and_then(|address| certificate::examine(&address, authorities, timeout));
    fault.map_or(error, |fault| LagError::TlsFailed { detail: fault.to_string() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rdkafka::mocking::MockCluster;
    use tokio::sync::Semaphore;

    use super::*;

    /// One pipeline without permissions must not cost all others their client, time after time.
    #[test]
    fn a_client_is_given_up_only_where_another_may_do_better() {
        let seconds = Duration::from_secs;
        let table = [
            (Kind::Answered, 3_600, None, false, "it was told no"),
            (Kind::Moved, 0, None, true, "the group is elsewhere"),
            (Kind::Moved, 1, Some(1), false, "it has just asked where"),
            (Kind::Moved, 10, Some(10), true, "the group is elsewhere again"),
            (Kind::Partly, 59, None, false, "it may find its way"),
            (Kind::Partly, 60, None, true, "it does not"),
            (Kind::Partly, 60, Some(60), false, "neither did the one before"),
            (Kind::Partly, 600, Some(600), true, "it is tried now and then"),
            (Kind::Silent, 59, Some(59), false, "it may find its way"),
            (Kind::Silent, 60, Some(60), true, "it does not"),
        ];
        for (kind, age, renewed, expected, why) in table {
            assert_eq!(is_worth_another(kind, seconds(age), renewed.map(seconds)), expected, "{why}");
        }
    }

    /// A cluster that swallows requests, beside one that answers: there are only so many places for work.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_that_does_not_answer_keeps_nobody_else_waiting() {
        let hole = TcpListener::bind("127.0.0.1:0").unwrap();
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("clicks", 1, 1).unwrap();
        let connection = |brokers: &str, number: usize| Connection {
            brokers: brokers.to_owned(),
            topic: "clicks".to_owned(),
            group: format!("group-{number}"),
            settings: BTreeMap::new(),
        };
        let (dead, healthy) = (hole.local_addr().unwrap().to_string(), cluster.bootstrap_servers());
        let clients = Clients::new(Duration::from_secs(3));
        let places = Arc::new(Semaphore::new(4));
        let started = Instant::now();
        let reads = (0..60).map(|number| {
            let (clients, places) = (clients.clone(), Arc::clone(&places));
            let brokers = if number % 3 == 2 { &healthy } else { &dead };
            let connection = connection(brokers, number);
            tokio::spawn(async move {
                let _place = places.acquire().await;
                clients.read(&connection).await
            })
        });
        let outcomes = futures::future::join_all(reads).await;
        for (number, outcome) in outcomes.into_iter().enumerate() {
            match outcome.unwrap() {
                Ok(reading) => assert!(number % 3 == 2 && reading.partition_count == 1, "{number}"),
                Err(error) => {
                    assert!(number % 3 != 2, "{number}: {error}");
                    assert_eq!(error.reason(), "KafkaUnreachable", "{error}");
                }
            }
        }
        // Forty times three seconds in four places would be thirty.
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}
