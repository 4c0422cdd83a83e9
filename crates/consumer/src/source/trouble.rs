//! Why Kafka cannot be used, in words that lead to the setting that is wrong.
//!
//! librdkafka reports a cause once and then only that all brokers are down, and of every certificate it says the same. Here
//! the cause is remembered until a broker answers, and a refused certificate is looked at.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use analytics_runtime::certificate;
use rdkafka::error::RDKafkaErrorCode;

use crate::settings::Kafka;
use crate::status::Status;

/// The certificates (PEM) that the brokers' are checked against; empty where the image's own are.
#[must_use]
pub fn authorities(kafka: &Kafka) -> String {
    let file = kafka.client_properties.get("ssl.ca.location");
    file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
}

/// How long looking at a certificate may take.
const EXAMINATION: Duration = Duration::from_secs(5);

/// What is known of the way to Kafka.
#[derive(Default)]
pub(crate) struct Trouble {
    cause: Mutex<Option<String>>,
    /// What was reported last of a connection that broke; it may pass by itself.
    hint: Mutex<Option<String>>,
    examining: AtomicBool,
    /// Trusted certificates, in PEM.
    authorities: String,
}

impl Trouble {
    /// Knows nothing bad yet; `authorities` are the trusted certificates in PEM.
    pub(crate) fn new(authorities: String) -> Self {
        Self { authorities, ..Self::default() }
    }

    /// What is known to stand in the way.
    pub(crate) fn cause(&self) -> Option<String> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A broker answered.
    pub(crate) fn over(&self) {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Takes in what librdkafka reports; gives back what stands between this process and Kafka, or nothing when the report
    /// does not mean that.
    pub(crate) fn reported(&self, code: RDKafkaErrorCode, reason: &str) -> Option<String> {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        match explain(code, reason) {
            Report::Cause(text) => {
                // A certificate that was looked at is known better than librdkafka can tell.
                let known_better = code == RDKafkaErrorCode::SSL
                    && cause.as_ref().is_some_and(|cause| cause.contains(EXAMINED));
                if !known_better {
                    *cause = Some(text);
                }
                cause.clone()
            }
            Report::Hint(text) => {
                self.noted(&text);
                None
            }
            Report::Down(text) => {
                let hint = self.hint.lock().unwrap_or_else(PoisonError::into_inner);
                let why = hint.as_deref().unwrap_or(&text);
                let advice = if why.contains("closed by peer") { TLS_WANTED } else { "" };
                let text = format!("no Kafka broker can be reached: {why}{advice}");
                Some(cause.clone().unwrap_or(text))
            }
            Report::Other => None,
        }
    }

    /// Remembers why a connection broke, for the moment when no other is left.
    pub(crate) fn noted(&self, reason: &str) {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = Some(tidy(reason));
    }

    fn examined(&self, fault: &certificate::Fault) -> String {
        let text = format!("{EXAMINED}{fault} (KAFKA_SSL_CA_FILE holds the authority)");
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        text
    }
}

const TLS_WANTED: &str =
    "; a listener that wants TLS ends plain connections like this: check KAFKA_SECURITY_PROTOCOL";

const EXAMINED: &str = "no secure connection to Kafka: ";

/// Looks at the certificate of the broker that `reason` names, on a thread of its own: callbacks must not wait.
pub(super) fn examine(trouble: &Arc<Trouble>, status: &Arc<Status>, reason: &str) {
    let Some(address) = certificate::address_in(reason) else { return };
    if trouble.examining.swap(true, Ordering::SeqCst) {
        return;
    }
    let (trouble, status) = (Arc::clone(trouble), Arc::clone(status));
    std::thread::spawn(move || {
        if let Some(fault) = certificate::examine(&address, &trouble.authorities, EXAMINATION) {
            let text = trouble.examined(&fault);
            tracing::error!("{text}");
            status.kafka_unreachable(text);
        }
        trouble.examining.store(false, Ordering::SeqCst);
    });
}

enum Report {
    /// It says what is wrong.
    Cause(String),
    /// It says why one connection broke, which may pass by itself.
    Hint(String),
    /// It says that nothing works, and not why.
    Down(String),
    /// It is about something else, or passes by itself.
    Other,
}

fn explain(code: RDKafkaErrorCode, reason: &str) -> Report {
    let reason = tidy(reason);
    match code {
        RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
            Report::Cause(format!(
                "Kafka refused the credentials: {reason}; check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM"
            ))
        }
        // The broker ends the handshake with an alert, which librdkafka takes for a broken connection.
        RDKafkaErrorCode::BrokerTransportFailure if reason.contains("SSL alert") => Report::Cause(format!(
            "Kafka wants another client certificate than this, or one at all: {reason}; check KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE"
        )),
        RDKafkaErrorCode::SSL => insecure(&reason),
        RDKafkaErrorCode::BrokerTransportFailure if reason.contains("SSL handshake failed") => {
            insecure(&reason)
        }
        RDKafkaErrorCode::BrokerTransportFailure => Report::Hint(reason),
        RDKafkaErrorCode::Resolve => {
            Report::Cause(format!("a host name of KAFKA_BROKERS is not known: {reason}"))
        }
        RDKafkaErrorCode::AllBrokersDown => Report::Down(reason),
        _ => Report::Other,
    }
}

fn insecure(reason: &str) -> Report {
    Report::Cause(format!(
        "no secure connection to Kafka came about: {reason}; check KAFKA_SECURITY_PROTOCOL, KAFKA_SSL_CA_FILE, KAFKA_SSL_CERTIFICATE_FILE and KAFKA_SSL_KEY_FILE"
    ))
}

/// Without what differs from one attempt to the next.
fn tidy(reason: &str) -> String {
    let end = reason.find(" (after ").unwrap_or(reason.len());
    reason[..end].trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str =
        "sasl_ssl://kafka:9093/bootstrap: SASL authentication error: no (after 3ms in state AUTH_REQ)";
    const BAD: &str = "ssl://kafka:9093/1: SSL handshake failed: certificate verify failed (after 5ms in state SSL_HANDSHAKE)";

    #[test]
    fn a_cause_is_remembered_until_a_broker_answers() {
        let trouble = Trouble::default();
        let refused = trouble.reported(RDKafkaErrorCode::Authentication, REFUSED).unwrap_or_default();
        assert!(refused.contains("SASL authentication error: no; check KAFKA_SASL_USERNAME"), "{refused}");
        let down = trouble.reported(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(down.as_ref(), Some(&refused), "that all are down says less");
        trouble.over();
        let down =
            trouble.reported(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down").unwrap_or_default();
        assert_eq!(down, "no Kafka broker can be reached: 1/1 brokers are down");
    }

    #[test]
    fn what_was_seen_in_a_certificate_counts_for_more_than_what_librdkafka_says_of_it() {
        let trouble = Trouble::default();
        let said = trouble.reported(RDKafkaErrorCode::SSL, BAD).unwrap_or_default();
        assert!(said.contains("certificate verify failed; check"), "{said}");
        let seen = trouble.examined(&certificate::Fault::Expired("kafka:9093".to_owned()));
        assert!(seen.contains("has expired"), "{seen}");
        assert_eq!(trouble.reported(RDKafkaErrorCode::SSL, BAD), Some(seen));
    }

    /// Connections break in rolling restarts of brokers, and a consumer with other brokers left stays ready.
    #[test]
    fn a_broken_connection_is_told_only_when_no_other_is_left() {
        let trouble = Trouble::default();
        let refused = "kafka:9092/1: Connect to ipv4#10.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";
        assert_eq!(trouble.reported(RDKafkaErrorCode::BrokerTransportFailure, refused), None);
        let down =
            trouble.reported(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down").unwrap_or_default();
        assert!(down.starts_with("no Kafka broker can be reached: kafka:9092/1: Connect"), "{down}");
    }

    #[test]
    fn a_broker_that_ends_the_handshake_is_no_broken_connection() {
        let table = [
            (
                "ssl://k:1/1: Receive failed: sslv3 alert bad certificate: SSL alert number 42",
                "KAFKA_SSL_CERTIFICATE_FILE",
            ),
            (
                "ssl://k:1/1: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
                "KAFKA_SECURITY_PROTOCOL",
            ),
        ];
        for (reason, setting) in table {
            let said = Trouble::default().reported(RDKafkaErrorCode::BrokerTransportFailure, reason);
            assert!(said.as_ref().is_some_and(|said| said.contains(setting)), "{said:?}");
        }
    }
}
