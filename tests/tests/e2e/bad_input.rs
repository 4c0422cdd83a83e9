//! What cannot work, and what the user is told about it.

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::world::Place;

/// A Secret that is missing, or lacks a key, is named; once it is there all goes on by itself.
pub(crate) async fn missing_secrets_are_named(place: &Place<'_>) -> Result<()> {
    let spec =
        json!({"sink": {"urlSecretRef": {"name": "late", "key": "url"}}, "source": {"groupId": "late"}});
    place.apply(&place.pipeline("late", spec)?).await?;
    let message = place.condition("late", "Ready", "False", "SecretNotFound").await?;
    ensure!(
        message.contains("Secret `late`") && message.contains("kubectl -n secrets create secret"),
        "{message}"
    );

    place.secret("late", json!({"dsn": place.url_for_pods()?})).await?;
    let message = place.condition("late", "Ready", "False", "SecretKeyMissing").await?;
    ensure!(message.contains("has no key `url` (it has the keys dsn)"), "{message}");

    place.secret("late", json!({"dsn": null, "url": "mysql://someone:swordfish@host/db"})).await?;
    let message = place.condition("late", "Ready", "False", "SecretInvalid").await?;
    ensure!(message.contains("postgres://") && !message.contains("swordfish"), "{message}");

    place.secret("late", json!({"url": place.url_for_pods()?})).await?;
    place.ready("late").await?;
    let rows = place.produce(1, 500).await?;
    place.events("late", &["SecretNotFound"]).await?;
    // Its group is not the place's, so the rows alone tell.
    testbed::wait::until_true("the rows are there", testbed::place::LATER, || async {
        Ok(place.rows().await? == rows)
    })
    .await
}

/// A wrong password, a topic that is missing, a broker that is not there: each has its own words.
pub(crate) async fn servers_that_refuse_are_named(place: &Place<'_>) -> Result<()> {
    let url = place.url_for_pods()?;
    let (_, server) = url.rsplit_once('@').context("the URL names a user")?;
    place.secret("wrong-password", json!({"url": format!("postgres://nobody:wrong@{server}")})).await?;
    let named = |group: &str, more: Value| -> Result<Value> {
        let mut object = place.pipeline(group, json!({"source": {"groupId": group}}))?;
        for (part, value) in more.as_object().into_iter().flatten() {
            for (field, value) in value.as_object().into_iter().flatten() {
                object["spec"][part][field] = value.clone();
            }
        }
        Ok(object)
    };
    place
        .apply(&named("wrong-password", json!({"sink": {"urlSecretRef": {"name": "wrong-password"}}}))?)
        .await?;
    place.apply(&named("no-topic", json!({"source": {"topic": "nowhere"}}))?).await?;
    place.apply(&named("no-broker", json!({"source": {"bootstrapServers": "198.18.0.1:1"}}))?).await?;

    let message = place.condition("no-topic", "LagAvailable", "False", "TopicNotFound").await?;
    ensure!(message.contains("`nowhere` does not exist") && message.contains("kafka-topics.sh"), "{message}");
    let message = place.condition("no-broker", "LagAvailable", "False", "KafkaUnreachable").await?;
    ensure!(message.contains("198.18.0.1:1") && message.contains("bootstrapServers"), "{message}");
    let message = place.condition("wrong-password", "Migrated", "False", "MigrationFailed").await?;
    ensure!(message.contains("nobody") || message.contains("password"), "{message}");
    ensure!(!message.contains("nobody:wrong"), "no passwords in messages: {message}");
    place.condition("wrong-password", "Ready", "False", "MigrationFailed").await?;

    // What was missing appears, and the pipeline goes on by itself.
    place.world.bed.kafka.create_topic("nowhere", 1).await?;
    place.condition("no-topic", "LagAvailable", "True", "LagRead").await?;
    place.secret("wrong-password", json!({"url": url})).await?;
    place.ready("wrong-password").await
}

/// What contradicts itself is refused when it is applied; what contradicts another pipeline is not run.
pub(crate) async fn contradictions_are_refused(place: &Place<'_>) -> Result<()> {
    for (spec, words) in [
        (
            json!({"scaling": {"minReplicas": 3, "maxReplicas": 2}}),
            "`minReplicas` must be less than or equal to `maxReplicas`",
        ),
        (json!({"scaling": {"replicas": 3}}), "`replicas` may not be set when `mode` is Lag"),
        (
            json!({"source": {"security": {"protocol": "SASL_SSL", "mechanism": "PLAIN"}}}),
            "`credentialsSecretRef` must be set",
        ),
        (json!({"source": {"properties": {"group.id": "x"}}}), "use the fields of `source` instead"),
        (json!({"scaling": {"mode": "Sometimes"}}), "Unsupported value"),
    ] {
        refused(place, "clicks", spec, words).await?;
    }
    refused(place, &"a".repeat(60), json!({}), "must be at most 46 characters").await?;

    place.apply(&place.pipeline("first", json!({}))?).await?;
    place.condition("first", "Ready", "True", "ConsumersReady").await?;
    refused(place, "first", json!({"source": {"topic": "other"}}), "`topic` may not be changed").await?;
    place.apply(&place.pipeline("second", json!({}))?).await?;
    let message = place.condition("second", "Ready", "False", "ConflictingPipeline").await?;
    ensure!(message.contains("`first`") && message.contains("groupId"), "{message}");
    ensure!(place.deployment("second").await.is_err(), "the later of two is not run");
    place.condition("first", "Ready", "True", "ConsumersReady").await?;

    // When the first goes, the second comes.
    place.pipelines().delete("first", &DeleteParams::default()).await?;
    place.condition("second", "Ready", "True", "ConsumersReady").await?;
    Ok(())
}

async fn refused(place: &Place<'_>, name: &str, spec: Value, words: &str) -> Result<()> {
    let outcome = place.apply(&place.pipeline(name, spec.clone())?).await;
    let error = format!("{:#}", outcome.err().with_context(|| format!("accepted: {spec}"))?);
    ensure!(error.contains(words), "{spec}: {error}");
    Ok(())
}
