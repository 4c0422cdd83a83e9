//! What servers refuse, as the real controller tells it.

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use serde_json::{Value, json};
use testbed::place::LATER;
use testbed::wait;

use crate::trust::{PASSWORD, USER};
use crate::world::Place;

/// A pipeline that cannot work: its name, what is wrong with it, the condition and reason that say so, and words of the message.
struct Row {
    name: &'static str,
    spec: Value,
    condition: &'static str,
    reason: &'static str,
    words: &'static [&'static str],
}

pub(crate) async fn what_servers_refuse_is_named(place: &Place<'_>) -> Result<()> {
    secrets(place).await?;
    let rows: Vec<Row> = kafka(place)?.into_iter().chain(database()).collect();
    for row in &rows {
        let mut spec = row.spec.clone();
        spec["source"]["groupId"] = json!(row.name);
        spec["scaling"] = json!({"mode": "Fixed", "replicas": 1});
        place.apply(&place.pipeline(row.name, spec)?).await?;
    }
    let outcomes = join_all(rows.iter().map(|row| named(place, row))).await;
    let failed: Vec<_> =
        outcomes.into_iter().filter_map(|row| row.err().map(|error| format!("{error:#}"))).collect();
    ensure!(failed.is_empty(), "{} rows failed:\n{}", failed.len(), failed.join("\n"));

    // What was wrong is put right, and the pipeline goes on by itself.
    place.secret("wrong-user", json!({"username": USER, "password": PASSWORD})).await?;
    place.condition("wrong-password", "LagAvailable", "True", "LagRead").await?;
    place.condition("wrong-password", "Ready", "True", "ConsumersReady").await.map(drop)
}

async fn named(place: &Place<'_>, row: &Row) -> Result<()> {
    // The first words may be about the attempt; those about the cause follow.
    let message = wait::until(&format!("{} is named", row.name), LATER, || async {
        let message = place.condition(row.name, row.condition, "False", row.reason).await?;
        for word in row.words {
            ensure!(message.contains(word), "`{message}` lacks `{word}`");
        }
        Ok(Some(message))
    })
    .await?;
    for secret in [PASSWORD, "swordfish"] {
        ensure!(!message.contains(secret), "{}: no passwords in messages: {message}", row.name);
    }
    place.condition(row.name, "Ready", "False", row.reason).await.map(drop)
}

async fn secrets(place: &Place<'_>) -> Result<()> {
    let trust = &place.world.trust;
    let secure = place.url("", "?sslmode=verify-full")?;
    for (name, data) in [
        ("kafka-user", json!({"username": USER, "password": PASSWORD})),
        ("wrong-user", json!({"username": USER, "password": "swordfish"})),
        ("right-ca", json!({"ca.crt": trust.authority.certificate()})),
        ("wrong-ca", json!({"ca.crt": trust.other.certificate()})),
        ("wrong-db", json!({"url": place.url("analytics:swordfish", "")?})),
        ("secure-db", json!({"url": secure})),
    ] {
        place.secret(name, data).await?;
    }
    // It is there, but not for pipelines of this namespace.
    place.secret_in("plugin", "only-elsewhere", json!({"url": secure})).await
}

fn kafka(place: &Place<'_>) -> Result<Vec<Row>> {
    let brokers = |listener: &str| place.world.kafka.bootstrap_of(listener).context("no such listener");
    let source = |brokers: String, mut security: Value, ca: &str| {
        security["caSecretRef"] = json!({"name": ca});
        json!({"source": {"bootstrapServers": brokers, "security": security}})
    };
    let login = |user: &str| json!({"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-512", "credentialsSecretRef": {"name": user}});
    let encrypted = || json!({"protocol": "SSL"});
    let plain = place.world.kafka.bootstrap_for_pods().context("no address for pods")?;
    let lag = |name, spec, reason, words| Row { name, spec, condition: "LagAvailable", reason, words };
    Ok(vec![
        lag(
            "wrong-password",
            source(brokers("LOGIN")?, login("wrong-user"), "right-ca"),
            "KafkaAuthenticationFailed",
            &["source.security.credentialsSecretRef"],
        ),
        lag(
            "wrong-authority",
            source(brokers("LOGIN")?, login("kafka-user"), "wrong-ca"),
            "KafkaTlsFailed",
            &["signed by an authority that is not trusted here", "source.security.caSecretRef"],
        ),
        lag(
            "wrong-host",
            source(brokers("ELSEWHERE")?, encrypted(), "right-ca"),
            "KafkaTlsFailed",
            &["is not valid for this host name, only for kafka.example"],
        ),
        lag(
            "expired",
            source(brokers("EXPIRED")?, encrypted(), "right-ca"),
            "KafkaTlsFailed",
            &["has expired: renew it"],
        ),
        lag(
            "no-encryption",
            source(plain, encrypted(), "right-ca"),
            "KafkaTlsFailed",
            &["source.security.protocol"],
        ),
    ])
}

fn database() -> Vec<Row> {
    let sink = |url: &str| json!({"sink": {"urlSecretRef": {"name": url}}});
    let with_authority =
        |url: &str, ca: &str| json!({"sink": {"urlSecretRef": {"name": url}, "caSecretRef": {"name": ca}}});
    let migrated =
        |name, spec, words| Row { name, spec, condition: "Migrated", reason: "MigrationFailed", words };
    let refused = |name, spec, reason, words| Row { name, spec, condition: "Reconciled", reason, words };
    vec![
        migrated("database-password", sink("wrong-db"), &["password authentication failed for user"]),
        migrated(
            "database-authority",
            with_authority("secure-db", "wrong-ca"),
            &["signed by an authority that is not trusted here", "sink.caSecretRef"],
        ),
        refused(
            "unused-authority",
            with_authority("analytics-db", "right-ca"),
            "SecretInvalid",
            &["Secret `analytics-db`", "add ?sslmode=verify-full to the URL"],
        ),
        refused(
            "of-others",
            sink("only-elsewhere"),
            "SecretNotFound",
            &["Secret `only-elsewhere`", "does not exist in namespace `refusals`"],
        ),
    ]
}
