//! Kafka with TLS, SASL and client certificates.

use std::path::Path;

use anyhow::{Context, Result};
use tempfile::TempDir;
use testbed::kafka::Listener;
use testbed::{Authority, ConsumerOptions, Issued, Kafka, KafkaOptions, Postgres, PostgresOptions};

use crate::Outcome::{Ends, Named, Ready};
use crate::play;

const TOPIC: &str = "secured";
const PASSWORD: &str = "correct horse";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_right_works_and_what_is_wrong_is_named() -> Result<()> {
    let files = Files::make()?;
    let (kafka, postgres) = tokio::try_join!(
        Box::pin(Kafka::start(files.kafka())),
        Box::pin(Postgres::start(PostgresOptions::default()))
    )?;
    kafka.create_topic(TOPIC, 1).await?;
    let start = Start { kafka: &kafka, files: &files, url: postgres.url() };
    let login = |name, mechanism, password: &str| {
        Ok::<_, anyhow::Error>(
            start
                .tls(name, "LOGIN")?
                .with("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
                .with("KAFKA_SASL_MECHANISM", mechanism)
                .with("KAFKA_SASL_USERNAME", "analytics")
                .with("KAFKA_SASL_PASSWORD", password),
        )
    };
    let mutual = |name, client: &str| {
        let certificate = files.path(&format!("{client}.crt"));
        let key = files.path(&format!("{client}.key"));
        let options = start.tls(name, "MUTUAL")?;
        Ok::<_, anyhow::Error>(
            options.with("KAFKA_SSL_CERTIFICATE_FILE", certificate).with("KAFKA_SSL_KEY_FILE", key),
        )
    };
    play(vec![
        ("tls", start.tls("tls", "TLS")?, Ready),
        ("plain", login("plain", "PLAIN", PASSWORD)?, Ready),
        ("scram-256", login("scram-256", "SCRAM-SHA-256", PASSWORD)?, Ready),
        ("scram-512", login("scram-512", "SCRAM-SHA-512", PASSWORD)?, Ready),
        ("mutual", mutual("mutual", "client")?, Ready),
        (
            "wrong-password",
            login("wrong-password", "PLAIN", "wrong")?,
            Named(&["Kafka refused the credentials", "KAFKA_SASL_PASSWORD"]),
        ),
        (
            "wrong-scram-password",
            login("wrong-scram-password", "SCRAM-SHA-512", "wrong")?,
            Named(&["Kafka refused the credentials", "KAFKA_SASL_PASSWORD"]),
        ),
        (
            "wrong-authority",
            start.tls("wrong-authority", "TLS")?.with("KAFKA_SSL_CA_FILE", files.path("other.crt")),
            Named(&["signed by an authority that is not trusted here", "KAFKA_SSL_CA_FILE"]),
        ),
        (
            "expired",
            start.tls("expired", "EXPIRED")?,
            Named(&["the certificate of localhost:", "has expired"]),
        ),
        (
            "wrong-host",
            start.tls("wrong-host", "ELSEWHERE")?,
            Named(&["is not valid for this host name, only for kafka.example"]),
        ),
        (
            "no-client-certificate",
            start.tls("no-client-certificate", "MUTUAL")?,
            Named(&["Kafka wants another client certificate", "KAFKA_SSL_CERTIFICATE_FILE"]),
        ),
        (
            "tls-to-plaintext",
            start.tls("tls-to-plaintext", "TLS")?.with("KAFKA_BROKERS", kafka.bootstrap()),
            Named(&[
                "no secure connection to Kafka",
                "PLAINTEXT broker listener?",
                "KAFKA_SECURITY_PROTOCOL",
            ]),
        ),
        (
            "plaintext-to-tls",
            start.tls("plaintext-to-tls", "TLS")?.with("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT"),
            Named(&[
                "no Kafka broker can be reached",
                "a listener that wants TLS",
                "KAFKA_SECURITY_PROTOCOL",
            ]),
        ),
        (
            "unreadable-authority",
            start.tls("unreadable-authority", "TLS")?.with("KAFKA_SSL_CA_FILE", files.path("nothing.crt")),
            Ends(2, "KAFKA_SSL_CA_FILE: cannot read the file"),
        ),
        (
            "authority-that-is-none",
            start.tls("authority-that-is-none", "TLS")?.with("KAFKA_SSL_CA_FILE", files.path("client.key")),
            Ends(1, "failed to make the Kafka client"),
        ),
    ])
    .await
}

struct Start<'a> {
    kafka: &'a Kafka,
    files: &'a Files,
    url: String,
}

impl Start<'_> {
    /// A consumer of a group of its own at one of the TLS listeners, with the right authority.
    fn tls(&self, group: &str, listener: &str) -> Result<ConsumerOptions> {
        let brokers = self.kafka.bootstrap_of(listener).with_context(|| format!("no listener {listener}"))?;
        Ok(ConsumerOptions::new(self.kafka, TOPIC, &self.url)
            .with("KAFKA_BROKERS", brokers)
            .with("KAFKA_GROUP_ID", group)
            .with("KAFKA_SECURITY_PROTOCOL", "SSL")
            .with("KAFKA_SSL_CA_FILE", self.files.path("ca.crt")))
    }
}

/// Authorities, certificates and keys on disk.
struct Files {
    folder: TempDir,
    authority: Authority,
}

impl Files {
    fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new("test authority")?;
        std::fs::write(folder.path().join("ca.crt"), authority.certificate())?;
        std::fs::write(folder.path().join("other.crt"), Authority::new("another")?.certificate())?;
        authority.client("analytics")?.write(folder.path(), "client")?;
        Ok(Self { folder, authority })
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn kafka(&self) -> KafkaOptions {
        let (here, elsewhere) = (["localhost"], ["kafka.example"]);
        let good = || self.authority.server(&here);
        let listeners = [
            self.listener("TLS", "SSL", good(), &[]),
            self.listener("LOGIN", "SASL_SSL", good(), &login_properties()),
            self.listener("MUTUAL", "SSL", good(), &self.mutual_properties()),
            self.listener("EXPIRED", "SSL", self.authority.expired_server(&here), &[]),
            self.listener("ELSEWHERE", "SSL", self.authority.server(&elsewhere), &[]),
        ];
        KafkaOptions {
            listeners: listeners.into_iter().flatten().collect(),
            scram_users: vec![("analytics".to_owned(), PASSWORD.to_owned())],
            ..KafkaOptions::default()
        }
    }

    fn listener(
        &self,
        name: &str,
        protocol: &str,
        certificate: Result<Issued>,
        further: &[(&str, String)],
    ) -> Result<Listener> {
        let store = certificate?.write_store(self.folder.path(), name)?;
        let mut properties = keystore(&store);
        properties.extend(further.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Ok(Listener {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            host: "localhost".to_owned(),
            properties,
        })
    }

    fn mutual_properties(&self) -> [(&'static str, String); 3] {
        [
            ("ssl.client.auth", "required".to_owned()),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", self.path("ca.crt")),
        ]
    }
}

fn keystore(store: &Path) -> Vec<(String, String)> {
    let location = store.display().to_string();
    [("ssl.keystore.type", "PEM".to_owned()), ("ssl.keystore.location", location)]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
}

fn login_properties() -> [(&'static str, String); 4] {
    let modules = "org.apache.kafka.common.security";
    let scram = format!("{modules}.scram.ScramLoginModule required;");
    [
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".to_owned()),
        (
            "plain.sasl.jaas.config",
            format!("{modules}.plain.PlainLoginModule required user_analytics=\"{PASSWORD}\";"),
        ),
        ("scram-sha-256.sasl.jaas.config", scram.clone()),
        ("scram-sha-512.sasl.jaas.config", scram),
    ]
}
