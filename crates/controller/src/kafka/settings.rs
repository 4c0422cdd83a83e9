//! By which settings a cluster is reached. Pipelines that reach it alike share a client, whatever else they have set.

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::clients::Client;
use super::listener::Listener;
use super::{Connection, LagError};

/// What of a pipeline's settings has to do with how its brokers are reached …
const OF_CONNECTIONS: [&str; 6] = ["security.", "sasl.", "ssl.", "socket.", "https.ca.", "broker.address."];
/// … and what has by its whole name. All else is about consuming, which the controller does not do.
const OF_CONNECTIONS_TOO: [&str; 3] =
    ["enable.ssl.certificate.verification", "enable.sasl.oauthbearer.unsecure.jwt", "client.dns.lookup"];

/// The settings of the client that a pipeline's lag is read with. What the controller sets stands above the pipeline's own.
pub(super) fn settings(connection: &Connection) -> BTreeMap<String, String> {
    let mut settings = connection.settings.clone();
    settings.retain(|name, _| {
        OF_CONNECTIONS.iter().any(|prefix| name.starts_with(prefix))
            || OF_CONNECTIONS_TOO.contains(&name.as_str())
    });
    for (name, value) in [
        ("bootstrap.servers", brokers(connection).as_str()),
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

// In whatever order they are written, it is one cluster.
fn brokers(connection: &Connection) -> String {
    let mut brokers: Vec<&str> =
        connection.brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
    brokers.sort_unstable();
    brokers.dedup();
    brokers.join(",")
}

/// Whether librdkafka understands all of a pipeline's settings, those that only its consumers use among them.
pub(super) fn check(connection: &Connection) -> Result<(), LagError> {
    let mut config = ClientConfig::new();
    for (name, value) in connection.settings.iter().filter(|(name, _)| !name.starts_with("group.")) {
        config.set(name, value);
    }
    config.create_native_config().map(|_| ()).map_err(|error| refused(&error))
}

/// Opens a client. The group is one that these credentials may use. The client never joins it; but without any, librdkafka (2.12)
/// follows a null pointer when a coordinator answers that it is none any more.
pub(super) fn open(settings: &BTreeMap<String, String>, group: &str) -> Result<Client, LagError> {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Error);
    config.set("group.id", group);
    for (name, value) in settings {
        config.set(name, value);
    }
    Client::from_config_and_context(&config, Listener::default()).map_err(|error| refused(&error))
}

// Only the text of a setting's error is wanted: its value may be a password or a key.
fn refused(error: &KafkaError) -> LagError {
    let detail = match error {
        KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
        other => other.to_string(),
    };
    LagError::InvalidSettings { detail }
}

/// Over the settings themselves: a ClientConfig shows passwords as stars only, and a new password needs a new client.
pub(super) fn fingerprint(settings: &BTreeMap<String, String>) -> blake3::Hash {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(brokers: &str, settings: &[(&str, &str)]) -> Connection {
        Connection {
            brokers: brokers.into(),
            topic: "t".into(),
            group: "g".into(),
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// A thousand pipelines on one cluster must not mean a thousand connections, and a new password needs a new one.
    #[test]
    fn clients_are_shared_by_cluster_and_credentials() {
        let one = connection("a:1,b:1", &[("sasl.password", "x")]);
        let other =
            |topic: &str, group: &str| Connection { topic: topic.into(), group: group.into(), ..one.clone() };
        let table = [
            (other("other", "g"), true, "another topic"),
            (other("t", "h"), true, "another group"),
            (connection("b:1, a:1", &[("sasl.password", "x")]), true, "another order"),
            (connection("b:1,a:1,b:1", &[("sasl.password", "x")]), true, "a broker twice"),
            (
                connection("a:1,b:1", &[("sasl.password", "x"), ("fetch.max.bytes", "1024")]),
                true,
                "a setting of consumers",
            ),
            (connection("a:1", &[("sasl.password", "x")]), false, "another cluster, perhaps"),
            (connection("a:1,b:1", &[("sasl.password", "y")]), false, "another password"),
            (
                connection("a:1,b:1", &[("sasl.password", "x"), ("socket.keepalive.enable", "true")]),
                false,
                "another kind of connection",
            ),
            (
                connection(
                    "a:1,b:1",
                    &[("sasl.password", "x"), ("enable.ssl.certificate.verification", "false")],
                ),
                false,
                "another check of certificates",
            ),
        ];
        for (connection, same, what) in table {
            assert_eq!(client_of(&one) == client_of(&connection), same, "{what}");
        }
    }

    /// The pipelines that share a client need not have the same settings, and each has to hear of its own mistakes.
    #[test]
    fn a_setting_that_librdkafka_refuses_is_named_without_its_value() {
        assert_eq!(check(&connection("a:1", &[("fetch.max.bytes", "1024")])), Ok(()));
        let table =
            [("fetch.max.bytes", "plenty"), ("fetch.most", "secret"), ("socket.keepalive.enable", "secret")];
        for (name, value) in table {
            let error = check(&connection("a:1", &[(name, value)])).unwrap_err();
            assert_eq!(error.reason(), "KafkaSettingsInvalid");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
