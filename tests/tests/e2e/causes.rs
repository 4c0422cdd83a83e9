//! Failures, caused on purpose, each with the runbooks that it is a case of.

use anyhow::{Context, Result, ensure};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options};
use tokio_util::sync::CancellationToken;

use crate::runbooks::tried;
use crate::world::Place;

const APL: &str = "clicks";

async fn running(place: &Place<'_>, spec: Value) -> Result<()> {
    place.apply(&place.pipeline(APL, spec)?).await?;
    place.ready(APL).await
}

/// Consumers that store one event at a time.
fn slow() -> Value {
    json!({
        "scaling": {"minReplicas": 1, "maxReplicas": 1, "targetLagSeconds": 1},
        "delivery": {"batch": {"maxEvents": 1}},
    })
}

/// Sends events without end until the token is cancelled.
async fn flood(place: &Place<'_>, partitions: i32, malformed: f64, stop: CancellationToken) -> Result<()> {
    let options = Options { partitions, malformed, users: 50, ..Options::default() };
    let target = Target {
        brokers: place.world.bed.kafka.bootstrap(),
        topic: place.topic.clone(),
        events: 3_000_000,
        rate: Some(6_000.0),
        dated_from: None,
        properties: Vec::new(),
    };
    produce(Generator::new(options)?, target, stop, |_| {}).await.map(drop)
}

/// Does something while events flow, then lets them end.
async fn while_flooded<F>(place: &Place<'_>, partitions: i32, malformed: f64, work: F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let stop = CancellationToken::new();
    let worked = async {
        let outcome = work.await;
        stop.cancel();
        outcome
    };
    let (flooded, worked) = tokio::join!(flood(place, partitions, malformed, stop.clone()), worked);
    flooded.and(worked)
}

pub(crate) async fn a_table_is_locked(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    let mut transaction = place.database.begin().await?;
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut *transaction).await?;
    place.produce(1, 3_000).await?;
    tried(place, APL, "AnalyticsDatabaseErrors", &["did not take the batch", "lock timeout", "Lock"]).await?;
    tried(place, APL, "AnalyticsPartitionStalled", &["Ready=", "next_offset", "did not take the batch"])
        .await?;
    Ok(transaction.rollback().await?)
}

pub(crate) async fn consumers_are_too_slow(place: &Place<'_>) -> Result<()> {
    running(place, slow()).await?;
    while_flooded(place, 4, 0.0, async {
        tried(
            place,
            APL,
            "AnalyticsLagGrowsAtLimit",
            &["ScalingLimited=True", "MaxReplicas", "capacityPerReplica"],
        )
        .await?;
        tried(place, APL, "AnalyticsLagObjectiveMissed", &["LAG", "ScalingLimited=True"]).await?;
        tried(place, APL, "AnalyticsSinkSaturated", &["wait_event", "SinkSaturated=", "idx_scan"]).await
    })
    .await
}

pub(crate) async fn all_events_have_one_key(place: &Place<'_>) -> Result<()> {
    running(place, slow()).await?;
    let work = tried(place, APL, "AnalyticsHotPartition", &["user_id", "next_offset", "HotPartition="]);
    while_flooded(place, 1, 0.0, work).await
}

pub(crate) async fn a_producer_sends_nonsense(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    let work = tried(place, APL, "AnalyticsDeadLettersArriving", &["invalid_json", "detail"]);
    while_flooded(place, 4, 0.5, work).await
}

pub(crate) async fn nobody_sends_anything(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    let end = format!("{} [0] offset 0", place.topic);
    tried(place, APL, "AnalyticsNoEvents", &["LAG", &end]).await
}

/// Stops the consumers behind the end of the log and removes what they have not read.
async fn removed_before_it_was_read(place: &Place<'_>, on_offset_gap: &str) -> Result<()> {
    let spec = json!({"source": {"onOffsetGap": on_offset_gap}});
    running(place, spec.clone()).await?;
    let rows = place.produce(1, 2_000).await?;
    place.stored(rows).await?;
    let mut suspended = spec.clone();
    suspended["suspend"] = json!(true);
    place.apply(&place.pipeline(APL, suspended)?).await?;
    // A consumer that has been told to stop may still store.
    place.condition(APL, "Suspended", "True", "Suspended").await?;
    place.produce(2, 2_000).await?;
    let kafka = &place.world.bed.kafka;
    for (partition, end) in kafka.end_offsets(&place.topic).await? {
        kafka.delete_records(&place.topic, partition, end).await?;
    }
    place.apply(&place.pipeline(APL, spec)?).await
}

pub(crate) async fn retention_has_passed_the_offset(place: &Place<'_>) -> Result<()> {
    removed_before_it_was_read(place, "fail").await?;
    tried(place, APL, "AnalyticsPartitionWaiting", &["Response Body", "waits", "next_offset", "[0] offset"])
        .await
}

pub(crate) async fn retention_has_taken_records(place: &Place<'_>) -> Result<()> {
    removed_before_it_was_read(place, "earliest").await?;
    tried(place, APL, "AnalyticsOffsetsLost", &["next_offset", "partition 0", "is outside the log"]).await
}

pub(crate) async fn the_topic_is_missing(place: &Place<'_>) -> Result<()> {
    place.world.bed.kafka.delete_topic(&place.topic).await?;
    place.apply(&place.pipeline(APL, json!({}))?).await?;
    tried(place, APL, "AnalyticsLagUnknown", &["LagAvailable=False TopicNotFound", "Unknown topic"]).await
}

pub(crate) async fn the_password_is_wrong(place: &Place<'_>) -> Result<()> {
    let url = place.url_for_pods()?;
    let (_, server) = url.rsplit_once('@').context("the URL names a user")?;
    place.secret("analytics-db", json!({"url": format!("postgres://nobody:wrong@{server}")})).await?;
    place.apply(&place.pipeline(APL, json!({}))?).await?;
    let words = ["Migrated=False", "password authentication failed", "-migrate-"];
    tried(place, APL, "AnalyticsMigrationFailed", &words).await
}

pub(crate) async fn a_secret_is_missing(place: &Place<'_>) -> Result<()> {
    let spec = json!({"sink": {"urlSecretRef": {"name": "nowhere", "key": "url"}}});
    place.apply(&place.pipeline(APL, spec)?).await?;
    tried(place, APL, "AnalyticsPipelineNotReady", &["Ready=False SecretNotFound", "nowhere"]).await
}

pub(crate) async fn a_column_has_another_name(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    sqlx::query("ALTER TABLE events RENAME COLUMN service TO origin").execute(&place.database).await?;
    place.produce(1, 100).await?;
    tried(place, APL, "AnalyticsDatabaseRefuses", &["does not exist", "Ready=", "pipeline_offsets"]).await
}

pub(crate) async fn there_are_no_connections_left(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    // A user of its own with everything but connections.
    for statement in [
        "CREATE ROLE crowded LOGIN PASSWORD 'crowded' CONNECTION LIMIT 0",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO crowded",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO crowded",
    ] {
        sqlx::query(statement).execute(&place.database).await?;
    }
    let url = place.url_for_pods()?;
    let (_, server) = url.rsplit_once('@').context("the URL names a user")?;
    place.secret("analytics-db", json!({"url": format!("postgres://crowded:crowded@{server}")})).await?;
    let words = ["too many connections for role", "most", "events"];
    tried(place, APL, "AnalyticsDatabaseOutOfResources", &words).await
}

pub(crate) async fn another_program_takes_the_connections(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    let url = place.world.bed.postgres.url_of(&format!("{}_data", place.namespace));
    let options = url.parse::<PgConnectOptions>()?.application_name("greedy");
    let mut held = Vec::new();
    let counted = "SELECT count(*) > 0.92 * current_setting('max_connections')::int FROM pg_stat_activity \
                   WHERE backend_type = 'client backend'";
    while !sqlx::query_scalar::<_, bool>(counted).fetch_one(&place.database).await? {
        held.push(options.connect().await?);
    }
    let words = ["greedy", "max_connections", APL];
    tried(place, APL, "AnalyticsDatabaseConnectionsNearLimit", &words).await
}

pub(crate) async fn a_setting_is_malformed(place: &Place<'_>) -> Result<()> {
    // The migration would refuse it as well, so it comes after that.
    running(place, json!({})).await?;
    let env = json!([
        {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://198.18.0.1:4317"},
        {"name": "OTEL_EXPORTER_OTLP_PROTOCOL", "value": "pigeon"},
    ]);
    place.apply(&place.pipeline(APL, json!({"consumer": {"env": env}}))?).await?;
    tried(place, APL, "AnalyticsConsumerRestarting", &["exitCode", "OTEL_EXPORTER_OTLP_PROTOCOL is `pigeon`"])
        .await
}

/// A stopped process answers nobody.
pub(crate) async fn a_process_hangs(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    let pods = place.pod_names().await?;
    let pod = pods.first().context("no consumer")?;
    let mut stopped = false;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let ours = environment
            .split(|byte| *byte == 0)
            .any(|line| line == format!("CONSUMER_INSTANCE={pod}").as_bytes());
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (true, Some(id)) = (ours, id.and_then(rustix::process::Pid::from_raw)) {
            rustix::process::kill_process(id, rustix::process::Signal::STOP)?;
            stopped = true;
        }
    }
    ensure!(stopped, "no process of {pod}");
    tried(place, APL, "AnalyticsConsumerDown", &[pod, "Liveness probe failed"]).await
}

pub(crate) async fn the_database_is_closed(place: &Place<'_>) -> Result<()> {
    running(place, json!({})).await?;
    let server = place.world.bed.postgres.pool().await?;
    let close = format!("ALTER DATABASE {}_data ALLOW_CONNECTIONS false", place.namespace);
    sqlx::query(sqlx::AssertSqlSafe(close)).execute(&server).await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
    sqlx::query(end).bind(format!("{}_data", place.namespace)).execute(&server).await?;
    place.produce(1, 100).await?;
    tried(
        place,
        APL,
        "AnalyticsConsumerNotReady",
        &["0/1", "Response Body", "not currently accepting connections"],
    )
    .await
}

pub(crate) async fn an_object_belongs_to_another(place: &Place<'_>) -> Result<()> {
    let services = Api::namespaced(place.world.client.clone(), &place.namespace);
    let foreign: k8s_openapi::api::core::v1::Service = serde_json::from_value(json!({
        "metadata": {"name": "clicks-consumer"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]}
    }))?;
    services.create(&PostParams::default(), &foreign).await?;
    place.apply(&place.pipeline(APL, json!({}))?).await?;
    tried(place, APL, "AnalyticsControllerFails", &["clicks", "Service `clicks-consumer` exists"]).await
}

const OPERATOR: [&str; 2] = ["-n", "analytics-system"];

async fn of_operator(place: &Place<'_>, words: &[&str]) -> Result<()> {
    place.world.bed.cluster.kubectl(&[OPERATOR.as_slice(), words].concat()).await.map(drop)
}

pub(crate) async fn the_lease_is_forbidden(place: &Place<'_>) -> Result<()> {
    let binding = place
        .world
        .bed
        .cluster
        .kubectl(&[
            "-n",
            "analytics-system",
            "get",
            "rolebinding",
            "analytics-controller-leader-election",
            "-o",
            "json",
        ])
        .await?;
    of_operator(place, &["delete", "rolebinding", "analytics-controller-leader-election"]).await?;
    let outcome =
        tried(place, APL, "AnalyticsControllerWithoutLeader", &["Lease", "forbidden", "no\n"]).await;
    let mut binding: Value = serde_json::from_str(&binding)?;
    binding["metadata"] = json!({"name": binding["metadata"]["name"], "namespace": "analytics-system"});
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), binding.to_string())?;
    of_operator(place, &["apply", "-f", file.path().to_str().context("a path")?]).await?;
    outcome
}

pub(crate) async fn there_is_no_controller(place: &Place<'_>) -> Result<()> {
    of_operator(place, &["scale", "deployment/analytics-controller", "--replicas=0"]).await?;
    tried(place, APL, "AnalyticsControllerAbsent", &["from 1 to 0", "ScalingReplicaSet"]).await
}
