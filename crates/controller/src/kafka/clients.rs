//! The Kafka clients of the controller: one for each cluster and credentials, shared by the pipelines that have both in
//! common, whatever their topics and groups.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use analytics_runtime::certificate;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;

use super::ends::{Arrivals, Ends};
use super::error::Reported;
use super::reader::{self, Failure};
use super::{Connection, LagError, Quiet, Reading};

/// A client that no pipeline has used for this long is closed.
const IDLE: Duration = Duration::from_secs(600);
/// How long the partitions of a topic are believed; a partition that is new must not wait longer to be seen.
const PARTITIONS: Duration = Duration::from_secs(30);
/// How many errors of its own a client remembers.
const REMEMBERED: usize = 16;

pub(super) type Client = BaseConsumer<Listener>;

/// The Kafka clients of the controller.
#[derive(Clone)]
pub(crate) struct Clients {
    timeout: Duration,
    open: Arc<Mutex<HashMap<blake3::Hash, Entry>>>,
}

struct Entry {
    client: Arc<Client>,
    used: Instant,
}

impl Clients {
    /// No client yet; each request may take `timeout`.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, open: Arc::default() }
    }

    /// Reads offsets and group of a pipeline. librdkafka blocks, so it happens on a thread for that.
    pub(crate) async fn read(&self, connection: &Connection) -> Result<Reading, LagError> {
        let (clients, connection) = (self.clone(), connection.clone());
        let brokers = connection.brokers.clone();
        tokio::task::spawn_blocking(move || {
            clients.close_idle();
            let outcome = match clients.attempt(&connection)? {
                Err(failure) if failure.renew => clients.attempt(&connection)?,
                outcome => outcome,
            };
            outcome.map_err(|failure| look_closer(failure.error, &connection, clients.timeout))
        })
        .await
        .unwrap_or_else(|error| Err(LagError::Failed { brokers, detail: error.to_string() }))
    }

    /// Whether something has arrived since log ends were seen, by requests that all pipelines of the cluster share.
    pub(crate) fn arrivals(&self, quiet: &Quiet) -> Arrivals {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = open.get_mut(&quiet.client) else { return Arrivals::Unknown };
        entry.used = Instant::now();
        entry.client.context().ends.compare(&quiet.topic, &quiet.ends, entry.used)
    }

    /// Reads the log ends of all quiet topics, with one request for each cluster, where that is due. Does not wait for it.
    pub(crate) fn read_ends(&self) {
        let open: Vec<_> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.values().map(|entry| Arc::clone(&entry.client)).collect()
        };
        for client in open {
            let Some(wanted) = client.context().ends.due(Instant::now()) else { continue };
            let timeout = self.timeout;
            tokio::task::spawn_blocking(move || {
                let read = client.offsets_for_times(wanted, timeout).ok();
                client.context().ends.take(read.as_ref(), Instant::now());
            });
        }
    }

    // A client that may be mistaken about a coordinator is not used again.
    fn attempt(&self, connection: &Connection) -> Result<Result<Reading, Failure>, LagError> {
        let client = self.client(connection)?;
        let outcome = reader::read(&client, connection, self.timeout);
        if outcome.as_ref().is_err_and(|failure| failure.renew) {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, entry| !Arc::ptr_eq(&entry.client, &client));
        }
        Ok(outcome)
    }

    fn client(&self, connection: &Connection) -> Result<Arc<Client>, LagError> {
        let settings = settings(connection);
        let key = fingerprint(&settings);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = open.get_mut(&key) {
            entry.used = Instant::now();
            return Ok(Arc::clone(&entry.client));
        }
        let client = Arc::new(self::open(&settings, &connection.group)?);
        open.insert(key, Entry { client: Arc::clone(&client), used: Instant::now() });
        Ok(client)
    }

    fn close_idle(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (keep, close): (HashMap<_, _>, HashMap<_, _>) = open
            .drain()
            .partition(|(_, entry)| entry.used.elapsed() < IDLE || Arc::strong_count(&entry.client) > 1);
        *open = keep;
        // Closing a client takes a moment; others need not wait for it.
        drop(open);
        drop(close);
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

// Only the text of a setting's error is wanted: its value may be a password or a key.
fn detail(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
        other => other.to_string(),
    }
}

// The pipeline's own settings first: what the controller sets stands above them.
fn settings(connection: &Connection) -> BTreeMap<String, String> {
    let mut settings = connection.settings.clone();
    settings.retain(|name, _| !name.starts_with("group."));
    for (name, value) in [
        ("bootstrap.servers", connection.brokers.as_str()),
        ("client.id", "analytics-controller"),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("allow.auto.create.topics", "false"),
        // Consumers see committed records only, so the end that matters is the last stable offset.
        ("isolation.level", "read_committed"),
        ("log.connection.close", "false"),
        // Nothing is consumed here, so there is no need to keep an eye on the topics in between.
        ("topic.metadata.refresh.interval.ms", "-1"),
        ("reconnect.backoff.max.ms", "2000"),
    ] {
        settings.insert(name.to_owned(), value.to_owned());
    }
    settings
}

// The group is one that these credentials may use. The client never joins it; but without any, librdkafka (2.12) follows a
// null pointer when a coordinator answers that it is none any more.
fn open(settings: &BTreeMap<String, String>, group: &str) -> Result<Client, LagError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Error);
    config.set("group.id", group);
    for (name, value) in settings {
        config.set(name, value);
    }
    Client::from_config_and_context(&config, Listener::default())
        .map_err(|error| LagError::InvalidSettings { detail: detail(&error) })
}

// Over the settings themselves: a ClientConfig shows passwords as stars only, and a new password needs a new client.
fn fingerprint(settings: &BTreeMap<String, String>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in settings {
        for part in [name, value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize()
}

/// By which client a pipeline's lag is read.
pub(super) fn client_of(connection: &Connection) -> blake3::Hash {
    fingerprint(&settings(connection))
}

/// Partitions by topic, and when they were read.
type Topics = HashMap<String, (Instant, Arc<[i32]>)>;

/// Collects what a client reports on its own, and remembers the partitions of topics for a while: they hardly ever change.
/// Log ends are remembered for a moment.
#[derive(Default)]
pub(super) struct Listener {
    ends: Ends,
    reported: Mutex<Vec<Reported>>,
    partitions: Mutex<Topics>,
}

impl Listener {
    /// Partitions of a topic, if they were read not long ago.
    pub(super) fn partitions(&self, topic: &str) -> Option<Arc<[i32]>> {
        let known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(topic)
            .filter(|(at, _)| at.elapsed() < PARTITIONS)
            .map(|(_, partitions)| Arc::clone(partitions))
    }

    /// Remembers the partitions of a topic; `None` forgets them.
    pub(super) fn remember(&self, topic: &str, partitions: Option<Arc<[i32]>>) {
        let mut known = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < PARTITIONS);
        match partitions {
            Some(partitions) => known.insert(topic.to_owned(), (Instant::now(), partitions)),
            None => known.remove(topic),
        };
    }

    pub(super) fn take(&self) -> Vec<Reported> {
        std::mem::take(&mut self.reported.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, error: &KafkaError, detail: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() == REMEMBERED {
            reported.remove(0);
        }
        reported.push(Reported { code, detail: detail.to_owned() });
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "Kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "Kafka client");
        self.note(&error, reason);
    }
}

impl ConsumerContext for Listener {}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(brokers: &str, group: &str, password: &str) -> Connection {
        Connection {
            brokers: brokers.into(),
            topic: "t".into(),
            group: group.into(),
            settings: [("sasl.password".to_owned(), password.to_owned())].into(),
        }
    }

    /// A thousand pipelines on one cluster must not mean a thousand connections, and a new password needs a new one.
    #[test]
    fn clients_are_shared_by_cluster_and_credentials() {
        let key = |connection: &Connection| fingerprint(&settings(connection));
        let one = connection("a:1", "g", "x");
        assert_eq!(key(&one), key(&Connection { topic: "other".into(), ..one.clone() }));
        assert_eq!(key(&one), key(&connection("a:1", "h", "x")));
        assert_ne!(key(&one), key(&connection("b:1", "g", "x")));
        assert_ne!(key(&one), key(&connection("a:1", "g", "y")));
    }

    #[test]
    fn a_setting_that_librdkafka_refuses_is_named_without_its_value() {
        let mut bad = connection("a:1", "g", "x");
        bad.settings = [("fetch.max.bytes".to_owned(), "plenty".to_owned())].into();
        let Err(error) = Clients::new(Duration::from_secs(1)).client(&bad) else { panic!("accepted") };
        assert_eq!(error.reason(), "KafkaSettingsInvalid");
        assert!(error.to_string().contains("fetch.max.bytes"), "{error}");
    }
}
