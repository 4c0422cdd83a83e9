//! Load of a known size, and consumers of a known capacity.

use std::time::{Duration, Instant};

use analytics_api::AnalyticsPipeline;
use anyhow::{Context, Result, ensure};
use autoscaler::Replayed;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Counts, Generator, Options};
use testbed::place::LATER;
use testbed::wait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::commands;
use crate::world::Place;

/// Partitions of a topic: enough to tell the right number from "as many as can be".
pub(crate) const PARTITIONS: i32 = 16;
/// Most events in one transaction: a fifth of a second.
const BATCH: u32 = 10;
/// Events per second that one consumer stores, on all its connections together.
pub(crate) const CAPACITY: f64 = 100.0;
/// Connections of a consumer, by each of which partitions are stored, if it has two or more.
const CONNECTIONS: f64 = 2.0;

/// Makes every row pause, so that consumers have a capacity of [`CAPACITY`] and use next to no processor. The tables are there
/// only after the pipeline's migration.
pub(crate) async fn slow_down(place: &Place<'_>) -> Result<()> {
    let pause = CONNECTIONS / CAPACITY;
    let statements = [
        format!(
            "CREATE FUNCTION pause() RETURNS trigger LANGUAGE plpgsql AS \
             $$BEGIN PERFORM pg_sleep({pause}); RETURN NEW; END$$"
        ),
        "CREATE TRIGGER pause BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION pause()".to_owned(),
    ];
    for statement in statements {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&place.database).await?;
    }
    Ok(())
}

/// The specification of such a pipeline, with short windows, so that a test sees the way down.
pub(crate) fn spec() -> Value {
    json!({
        "delivery": {"batch": {"maxEvents": BATCH}},
        "scaling": {
            "targetLagSeconds": 20,
            "behavior": {"scaleDownStabilizationSeconds": 20, "cooldownSeconds": 10, "idleSeconds": 20}
        }
    })
}

/// A load that goes on until it is stopped.
pub(crate) struct Load {
    stop: tokio_util::sync::DropGuard,
    task: JoinHandle<Result<Counts>>,
}

impl Load {
    /// So many events per second, distinct and well formed, as many in each partition as in the others.
    pub(crate) fn start(place: &Place<'_>, seed: u64, rate: f64) -> Result<Self> {
        let brokers = place.world.bed.kafka.bootstrap();
        Self::start_at(brokers, &place.topic, seed, rate)
    }

    /// The same, on other brokers.
    pub(crate) fn start_at(brokers: String, topic: &str, seed: u64, rate: f64) -> Result<Self> {
        let options = Options {
            seed,
            partitions: PARTITIONS,
            exponent: 0.0,
            duplicates: 0.0,
            malformed: 0.0,
            ..Options::default()
        };
        let target = Target {
            brokers,
            topic: topic.to_owned(),
            events: u64::MAX,
            rate: Some(rate),
            dated_from: None,
            properties: Vec::new(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(produce(Generator::new(options)?, target, stop.clone(), |_| {}));
        Ok(Self { stop: stop.drop_guard(), task })
    }

    /// Ends it, and says how many rows there shall be of it.
    pub(crate) async fn end(self) -> Result<i64> {
        drop(self.stop);
        Ok(i64::try_from(self.task.await??.distinct)?)
    }
}

/// Waits until the status says something.
pub(crate) async fn status(
    place: &Place<'_>,
    name: &str,
    what: &str,
    wanted: impl Fn(&AnalyticsPipeline) -> bool,
) -> Result<AnalyticsPipeline> {
    wait::until(&format!("{name}: {what}"), LATER, || async {
        let pipeline = place.pipelines().get(name).await?;
        ensure!(wanted(&pipeline), "its status is {:?}", pipeline.status);
        Ok(Some(pipeline))
    })
    .await
}

/// Consumers that the Deployment asks for.
pub(crate) async fn replicas(place: &Place<'_>, name: &str) -> Result<i32> {
    place.deployment(name).await?.spec.and_then(|spec| spec.replicas).context("a Deployment without replicas")
}

/// Every decision that the leading controller has recorded, the oldest first.
pub(crate) async fn decisions(place: &Place<'_>, name: &str) -> Result<Vec<Replayed>> {
    let recording = commands::plugin(place, &["explain", name, "--record"]).await?;
    Ok(autoscaler::replay(recording.lines())?)
}

/// Watches for so long that the number of consumers that the Deployment asks for stays as it is.
pub(crate) async fn stays(place: &Place<'_>, name: &str, count: i32, watched: Duration) -> Result<()> {
    let since = Instant::now();
    while since.elapsed() < watched {
        let now = replicas(place, name).await?;
        ensure!(now == count, "{now} consumers instead of {count} after {} s", since.elapsed().as_secs());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

/// Notes of the Events about changes of the number of consumers, in the order in which they happened.
pub(crate) async fn changes(place: &Place<'_>) -> Result<Vec<String>> {
    let api = Api::<Event>::namespaced(place.world.client.clone(), &place.namespace);
    let mut events = api.list(&ListParams::default()).await?.items;
    events.retain(|event| event.action.as_deref() == Some("Scale"));
    events.sort_by_key(|event| event.event_time.clone().map(|time| time.0));
    Ok(events.into_iter().filter_map(|event| event.note).collect())
}
