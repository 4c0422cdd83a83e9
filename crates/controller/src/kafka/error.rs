//! Why lag could not be read, in words that lead to the way out.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use super::Connection;

/// Why lag could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum LagError {
    /// The topic is not there.
    #[error(
        "topic `{topic}` does not exist on {brokers}; create it, for example: kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 12"
    )]
    TopicMissing {
        /// The topic that was asked for.
        topic: String,
        /// The brokers that were asked.
        brokers: String,
    },
    /// No broker answered.
    #[error(
        "no Kafka broker of {brokers} could be reached ({detail}); check `source.bootstrapServers`, that the brokers run, and that network policies let the operator and the consumers through"
    )]
    Unreachable {
        /// The brokers that were tried.
        brokers: String,
        /// What librdkafka says.
        detail: String,
    },
    /// User name or password are wrong.
    #[error(
        "Kafka refused the login ({detail}); check user name and password in the Secret of `source.security.credentialsSecretRef`, and `source.security.mechanism`"
    )]
    AuthenticationFailed {
        /// What librdkafka says.
        detail: String,
    },
    /// No secure connection came about.
    #[error(
        "no secure connection to Kafka came about ({detail}); check `source.security.protocol`, the certificate authority in `source.security.caSecretRef` and the host names in `source.bootstrapServers`"
    )]
    TlsFailed {
        /// What librdkafka says.
        detail: String,
    },
    /// The user may not do this.
    #[error(
        "Kafka does not allow it ({detail}); the user needs Describe and Read on topic `{topic}` and group `{group}`"
    )]
    NotAuthorized {
        /// What librdkafka says.
        detail: String,
        /// The topic that was asked for.
        topic: String,
        /// The group that was asked for.
        group: String,
    },
    /// A setting is not understood.
    #[error(
        "librdkafka refuses the settings ({detail}); check `source.properties` and the certificates in the referenced Secrets"
    )]
    InvalidSettings {
        /// What librdkafka says.
        detail: String,
    },
    /// Something else.
    #[error("lag could not be read from {brokers} ({detail}); it is tried again")]
    Failed {
        /// The brokers that were asked.
        brokers: String,
        /// What librdkafka says.
        detail: String,
    },
}

impl LagError {
    /// All that [`Self::reason`] gives.
    pub(crate) const REASONS: [&str; 7] = [
        "TopicNotFound",
        "KafkaUnreachable",
        "KafkaAuthenticationFailed",
        "KafkaTlsFailed",
        "KafkaNotAuthorized",
        "KafkaSettingsInvalid",
        "LagReadFailed",
    ];

    /// Reason of the condition, also the label of the metric.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::TopicMissing { .. } => "TopicNotFound",
            Self::Unreachable { .. } => "KafkaUnreachable",
            Self::AuthenticationFailed { .. } => "KafkaAuthenticationFailed",
            Self::TlsFailed { .. } => "KafkaTlsFailed",
            Self::NotAuthorized { .. } => "KafkaNotAuthorized",
            Self::InvalidSettings { .. } => "KafkaSettingsInvalid",
            Self::Failed { .. } => "LagReadFailed",
        }
    }
}

/// An error that a client reported on its own, beside the answers to requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) code: RDKafkaErrorCode,
    pub(super) detail: String,
}

/// Turns the failure of a request into what a person can act on. A request only says that it timed out; `reported` is what
/// the client had to say meanwhile, and the most telling of it names the cause, best with the broker that it is about.
pub(super) fn classify(error: &KafkaError, reported: &[Reported], connection: &Connection) -> LagError {
    let brokers = connection.brokers.clone();
    let own = Reported { code: code_of(error), detail: error.to_string() };
    let telling = reported
        .iter()
        .chain(std::iter::once(&own))
        .max_by_key(|reported| (weight(reported.code), reported.detail.contains("://")));
    let Reported { code, detail } = telling.unwrap_or(&own).clone();
    let detail = tidy(&detail);
    match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
            LagError::AuthenticationFailed { detail }
        }
        RDKafkaErrorCode::SSL => LagError::TlsFailed { detail },
        // A broker that ends the handshake, for want of a client certificate for example, looks like a broken connection.
        RDKafkaErrorCode::BrokerTransportFailure if detail.contains("SSL") => LagError::TlsFailed { detail },
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            LagError::TopicMissing { topic: connection.topic.clone(), brokers }
        }
        RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed => LagError::NotAuthorized {
            detail,
            topic: connection.topic.clone(),
            group: connection.group.clone(),
        },
        RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::Resolve
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::RequestTimedOut => LagError::Unreachable { brokers, detail },
        _ => LagError::Failed { brokers, detail },
    }
}

// What librdkafka adds in brackets (times, counts of repetitions) differs from one attempt to the next; a message that does
// not would be written to the status each time.
fn tidy(detail: &str) -> String {
    let detail = detail.replace(['\n', '\r'], " ");
    let end = detail.find(" (after ").unwrap_or(detail.len());
    detail[..end].trim().to_owned()
}

pub(super) fn code_of(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
}

// The more it says about the cause, the heavier.
const fn weight(code: RDKafkaErrorCode) -> u8 {
    match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => 5,
        RDKafkaErrorCode::SSL => 4,
        RDKafkaErrorCode::Resolve => 3,
        RDKafkaErrorCode::BrokerTransportFailure => 2,
        RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::RequestTimedOut => 1,
        // Whatever a broker itself answered.
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        Connection {
            brokers: "kafka:9092".into(),
            topic: "clicks".into(),
            group: "shop".into(),
            settings: [("sasl.password".to_owned(), "secret".to_owned())].into(),
        }
    }

    fn reported(code: RDKafkaErrorCode) -> Reported {
        Reported { code, detail: format!("said {code:?}") }
    }

    /// A time-out alone would send people looking at the network when the password is wrong.
    #[test]
    fn the_most_telling_error_names_the_cause() {
        let timeout = KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure);
        let table = [
            (vec![], "KafkaUnreachable"),
            (vec![RDKafkaErrorCode::AllBrokersDown], "KafkaUnreachable"),
            (
                vec![RDKafkaErrorCode::AllBrokersDown, RDKafkaErrorCode::Authentication],
                "KafkaAuthenticationFailed",
            ),
            (vec![RDKafkaErrorCode::SSL, RDKafkaErrorCode::AllBrokersDown], "KafkaTlsFailed"),
            (vec![RDKafkaErrorCode::Resolve], "KafkaUnreachable"),
        ];
        for (codes, reason) in table {
            let reported: Vec<_> = codes.iter().copied().map(reported).collect();
            assert_eq!(classify(&timeout, &reported, &connection()).reason(), reason, "{codes:?}");
        }
    }

    /// The same failure is told twice, once with the broker whose certificate is then looked at.
    #[test]
    fn of_two_that_say_the_same_the_one_with_the_broker_is_told() {
        let with_broker = "ssl://kafka:9093/bootstrap: SSL handshake failed: certificate verify failed";
        let code = RDKafkaErrorCode::SSL;
        let plain = reported(code);
        for order in [[with_broker, &plain.detail], [&plain.detail, with_broker]] {
            let reported = order.map(|detail| Reported { code, detail: detail.to_owned() });
            let error = classify(&KafkaError::MetadataFetch(code), &reported, &connection());
            assert!(error.to_string().contains("ssl://kafka:9093"), "{error}");
        }
    }

    #[test]
    fn answers_of_a_broker_count_for_more_than_old_connection_errors() {
        let error = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
        let error = classify(&error, &[reported(RDKafkaErrorCode::Resolve)], &connection());
        assert_eq!(error.reason(), "TopicNotFound");
        assert!(
            error.to_string().contains("topic `clicks` does not exist on kafka:9092; create it"),
            "{error}"
        );
    }

    #[test]
    fn the_same_failure_has_the_same_words_each_time() {
        let words = "kafka:9092/bootstrap: Connect to ipv4#198.18.0.1:1 failed: Connection refused";
        assert_eq!(
            tidy(&format!("{words} (after 0ms in state CONNECT, 3 identical error(s) suppressed)")),
            words
        );
        assert_eq!(tidy(words), words);
    }

    #[test]
    fn a_connection_does_not_print_its_passwords() {
        assert!(!format!("{:?}", connection()).contains("secret"));
    }
}
