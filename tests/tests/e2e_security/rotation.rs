//! Credentials that change while events flow.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use testbed::place::{LATER, World as _};
use tokio_util::sync::CancellationToken;

use crate::trust::{PASSWORD, ROTATING};
use crate::world::Place;

const PIPELINE: &str = "clicks";
const NEW_PASSWORD: &str = "battery staple";
/// Between two looks at the consumers.
const LOOK: Duration = Duration::from_millis(200);

/// The password of Kafka and the certificate for the database are replaced under load: consumers follow one by one, at no
/// moment is there none, and each event is stored once.
pub(crate) async fn credentials_are_rotated_without_a_gap(place: &Place<'_>) -> Result<()> {
    prepare(place).await?;
    place.apply(&place.pipeline(PIPELINE, spec(place)?)?).await?;
    place.consumers("two consumers", |count| count == 2).await?;
    let before = place.pod_names().await?;
    place.condition(PIPELINE, "LagAvailable", "True", "LagRead").await?;

    let stop = CancellationToken::new();
    let load = place.produce_until(1, 1_000_000, Some(300.0), stop.clone());
    let rotation = async {
        let rotated = rotate(place, &before).await;
        stop.cancel();
        rotated
    };
    let (rows, fewest) = tokio::join!(load, rotation);
    let (rows, fewest) = (rows?, fewest?);
    eprintln!("rotation: {rows} events meanwhile, and never fewer than {fewest} consumers ready");
    ensure!(fewest >= 1, "there was a moment without a ready consumer");
    place.stored(rows).await?;
    // The controller reads lag with the new password, too.
    place.condition(PIPELINE, "LagAvailable", "True", "LagRead").await?;
    nothing_secret_is_told(place).await
}

/// Neither metrics nor logs nor the pipeline itself hold what the Secrets hold.
async fn nothing_secret_is_told(place: &Place<'_>) -> Result<()> {
    let kubectl = |words: String| async move {
        let words: Vec<_> = words.split(' ').collect();
        place.world.cluster.kubectl(&words).await
    };
    let namespace = &place.namespace;
    let mut told = kubectl(format!("-n {namespace} get apl,events -o yaml")).await?;
    for pod in place.pod_names().await? {
        let metrics =
            kubectl(format!("get --raw /api/v1/namespaces/{namespace}/pods/{pod}:9090/proxy/metrics"))
                .await?;
        ensure!(metrics.contains("events_processed_total"), "{pod} has no metrics: {metrics}");
        told += &metrics;
        told += &kubectl(format!("-n {namespace} logs {pod}")).await?;
    }
    told += &place.world.controller_log().await;
    for secret in [PASSWORD, NEW_PASSWORD, "certified@", "PRIVATE KEY"] {
        let line = told.lines().find(|line| line.contains(secret));
        ensure!(line.is_none(), "`{secret}` is told: {line:?}");
    }
    Ok(())
}

async fn prepare(place: &Place<'_>) -> Result<()> {
    let authority = &place.world.trust.authority;
    sqlx::query(AssertSqlSafe("CREATE ROLE certified LOGIN SUPERUSER")).execute(&place.database).await?;
    place.secret("kafka-user", json!({"username": ROTATING, "password": PASSWORD})).await?;
    place.secret("ca", json!({"ca.crt": authority.certificate()})).await?;
    place.secret("certified-db", json!({"url": place.url("certified", "?sslmode=verify-full")?})).await?;
    place.secret("certified", certificate(place)?).await
}

/// A certificate for the database's role, as a Secret of the type `kubernetes.io/tls` holds it.
fn certificate(place: &Place<'_>) -> Result<Value> {
    let issued = place.world.trust.authority.client("certified")?;
    Ok(json!({"tls.crt": issued.certificate, "tls.key": issued.key}))
}

fn spec(place: &Place<'_>) -> Result<Value> {
    let brokers = place.world.kafka.bootstrap_of("LOGIN").context("no such listener")?;
    Ok(json!({
        "source": {
            "bootstrapServers": brokers,
            "security": {
                "protocol": "SASL_SSL",
                "mechanism": "SCRAM-SHA-512",
                "credentialsSecretRef": {"name": "kafka-user"},
                "caSecretRef": {"name": "ca"},
            },
        },
        "sink": {
            "urlSecretRef": {"name": "certified-db"},
            "caSecretRef": {"name": "ca"},
            "clientCertificateSecretRef": {"name": "certified"},
        },
        "scaling": {"mode": "Fixed", "replicas": 2},
    }))
}

/// Rotates both, and counts ready consumers until every one is a new one; gives back the fewest that were seen.
async fn rotate(place: &Place<'_>, before: &[String]) -> Result<usize> {
    place.world.kafka.change_password(ROTATING, NEW_PASSWORD).await?;
    place.secret("kafka-user", json!({"username": ROTATING, "password": NEW_PASSWORD})).await?;
    place.secret("certified", certificate(place)?).await?;
    let deadline = tokio::time::Instant::now() + LATER;
    let mut fewest = usize::MAX;
    loop {
        let ready = place.pod_names().await?;
        fewest = fewest.min(ready.len());
        if ready.len() == 2 && ready.iter().all(|name| !before.contains(name)) && settled(place).await? {
            return Ok(fewest);
        }
        ensure!(tokio::time::Instant::now() < deadline, "the consumers are still {ready:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Both Secrets were taken up: no pod of an older kind is left.
async fn settled(place: &Place<'_>) -> Result<bool> {
    let deployment = place.deployment(PIPELINE).await?;
    let status = deployment.status.unwrap_or_default();
    Ok(status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == Some(2)
        && status.replicas == Some(2))
}
