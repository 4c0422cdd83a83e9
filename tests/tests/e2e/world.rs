//! The cluster with the operator on it, and the places where scenarios play.

use std::time::Duration;

use analytics_api::AnalyticsPipeline;
use anyhow::{Context, Result, ensure};
use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options};
use testbed::{Image, Testbed, TestbedOptions, wait};
use tokio_util::sync::CancellationToken;

/// How long anything may take that takes seconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(90);
/// How long a backlog may take, with rollouts and quiet times in between.
pub(crate) const LATER: Duration = Duration::from_secs(240);

/// Pods that consume.
pub(crate) const CONSUMERS: &str =
    "app.kubernetes.io/name=analytics-consumer,app.kubernetes.io/component=consumer";

/// The cluster with the operator on it, Kafka and PostgreSQL.
pub(crate) struct World {
    pub(crate) bed: Testbed,
    pub(crate) client: Client,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let (bed, image) =
            tokio::try_join!(Box::pin(Testbed::start(TestbedOptions::default())), Box::pin(Image::build()))?;
        bed.cluster.load_image(image.archive()).await?;
        let world = Self { client: bed.cluster.client().await?, bed };
        world.install().await.context("failed to install the operator")?;
        Ok(world)
    }

    // As the README says.
    async fn install(&self) -> Result<()> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/install");
        self.bed.cluster.kubectl(&["apply", "--server-side", "-k", folder]).await?;
        let words = [
            "-n",
            "analytics-system",
            "rollout",
            "status",
            "deployment/analytics-controller",
            "--timeout=120s",
        ];
        self.bed.cluster.kubectl(&words).await.map(drop)
    }

    pub(crate) async fn controller_log(&self) -> String {
        let words = ["-n", "analytics-system", "logs", "deployment/analytics-controller", "--tail=200"];
        self.bed.cluster.kubectl(&words).await.unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// A namespace, a topic of four partitions and a database, with the Secret that leads to it.
pub(crate) struct Place<'a> {
    pub(crate) world: &'a World,
    pub(crate) namespace: String,
    pub(crate) topic: String,
    pub(crate) database: PgPool,
    database_name: String,
}

impl<'a> Place<'a> {
    pub(crate) async fn make(world: &'a World, name: &str) -> Result<Self> {
        let bed = &world.bed;
        bed.cluster.create_restricted_namespace(name).await?;
        let topic = format!("{name}-events");
        bed.kafka.create_topic(&topic, 4).await?;
        let database_name = format!("{name}_data");
        let url = bed.postgres.create_database(&database_name).await?;
        let database = PgPool::connect(&url).await?;
        let place = Self { world, namespace: name.to_owned(), topic, database, database_name };
        place.secret("analytics-db", json!({"url": place.url_for_pods()?})).await?;
        Ok(place)
    }

    /// The way to the database from a pod.
    pub(crate) fn url_for_pods(&self) -> Result<String> {
        let url = self.world.bed.postgres.url_for_pods().context("no address for pods")?;
        let (server, _) = url.rsplit_once('/').context("a database URL has a path")?;
        Ok(format!("{server}/{}", self.database_name))
    }

    /// A pipeline of this place, with `spec` merged over what every one needs.
    pub(crate) fn pipeline(&self, name: &str, spec: Value) -> Result<Value> {
        let brokers = self.world.bed.kafka.bootstrap_for_pods().context("no address for pods")?;
        let mut object = json!({
            "apiVersion": "analyticspipeline.dev/v1alpha1",
            "kind": "AnalyticsPipeline",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "source": {"bootstrapServers": brokers, "topic": self.topic, "groupId": self.namespace},
                "sink": {"urlSecretRef": {"name": "analytics-db"}},
                "consumer": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}}
            }
        });
        merge(&mut object["spec"], spec);
        Ok(object)
    }

    /// Applies a pipeline as `kubectl apply --server-side` does.
    pub(crate) async fn apply(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("an object has a name")?;
        let resource = kube::api::ApiResource::erase::<AnalyticsPipeline>(&());
        let api =
            Api::<DynamicObject>::namespaced_with(self.world.client.clone(), &self.namespace, &resource);
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Writes a Secret.
    pub(crate) async fn secret(&self, name: &str, data: Value) -> Result<()> {
        let object =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        let api = Api::<Secret>::namespaced(self.world.client.clone(), &self.namespace);
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?;
        Ok(())
    }

    pub(crate) fn pipelines(&self) -> Api<AnalyticsPipeline> {
        Api::namespaced(self.world.client.clone(), &self.namespace)
    }

    /// Waits until a condition has this status and reason, and returns its message.
    pub(crate) async fn condition(
        &self,
        name: &str,
        condition: &str,
        status: &str,
        reason: &str,
    ) -> Result<String> {
        let what = format!("{name}: {condition}={status} ({reason})");
        let found = wait::until(&what, LATER, || async {
            let pipeline = self.pipelines().get(name).await?;
            let found = find(&pipeline, condition).cloned();
            let generation = pipeline.metadata.generation;
            let current = |found: &Condition| {
                found.status == status && found.reason == reason && found.observed_generation == generation
            };
            ensure!(found.as_ref().is_some_and(current), "it is {found:?}");
            Ok(found)
        });
        Ok(found.await?.message)
    }

    /// Waits until the pipeline is Ready, for whatever reason.
    pub(crate) async fn ready(&self, name: &str) -> Result<()> {
        wait::until_true(&format!("{name} is Ready"), LATER, || async {
            let pipeline = self.pipelines().get(name).await?;
            let ready = find(&pipeline, "Ready").cloned();
            ensure!(ready.as_ref().is_some_and(|ready| ready.status == "True"), "it is {ready:?}");
            Ok(true)
        })
        .await
    }

    /// Sends events, a tenth of them duplicates and some malformed; returns how many rows there shall be of them.
    pub(crate) async fn produce(&self, seed: u64, events: u64) -> Result<i64> {
        let options = Options { seed, partitions: 4, duplicates: 0.1, malformed: 0.01, ..Options::default() };
        let target = Target {
            brokers: self.world.bed.kafka.bootstrap(),
            topic: self.topic.clone(),
            events,
            rate: None,
            dated_from: Some(Utc::now()),
            properties: Vec::new(),
        };
        let counts = produce(Generator::new(options)?, target, CancellationToken::new(), |_| {}).await?;
        Ok(i64::try_from(counts.distinct)?)
    }

    pub(crate) async fn rows(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.database).await?)
    }

    /// Waits until the table holds exactly so many rows and nothing waits in the topic.
    pub(crate) async fn stored(&self, rows: i64) -> Result<()> {
        wait::until_true(&format!("{rows} rows in {}", self.namespace), LATER, || async {
            let (found, lag) = (self.rows().await?, self.lag().await?);
            ensure!(found == rows && lag == 0, "there are {found} rows, {lag} events wait");
            Ok(true)
        })
        .await
    }

    pub(crate) async fn lag(&self) -> Result<i64> {
        self.world.bed.kafka.lag(&self.namespace, &self.topic).await
    }

    /// Waits until little enough waits.
    pub(crate) async fn lag_at_most(&self, events: i64) -> Result<()> {
        let what = format!("at most {events} events wait in {}", self.namespace);
        wait::until_true(&what, LATER, || async { Ok(self.lag().await? <= events) }).await
    }

    /// Consumers that run and are ready.
    pub(crate) async fn ready_pods(&self) -> Result<Vec<Pod>> {
        let api = Api::<Pod>::namespaced(self.world.client.clone(), &self.namespace);
        let pods = api.list(&ListParams::default().labels(CONSUMERS)).await?;
        let ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            pod.metadata.deletion_timestamp.is_none()
                && conditions
                    .into_iter()
                    .flatten()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        Ok(pods.items.into_iter().filter(ready).collect())
    }

    pub(crate) async fn pod_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.ready_pods().await?.iter().map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until the number of ready consumers is as wanted.
    pub(crate) async fn consumers(&self, what: &str, wanted: impl Fn(usize) -> bool) -> Result<usize> {
        wait::until(&format!("{}: {what}", self.namespace), LATER, || async {
            let count = self.ready_pods().await?.len();
            ensure!(wanted(count), "there are {count}");
            Ok(Some(count))
        })
        .await
    }

    pub(crate) async fn deployment(&self, pipeline: &str) -> Result<Deployment> {
        let api = Api::namespaced(self.world.client.clone(), &self.namespace);
        Ok(api.get(&analytics_api::labels::consumer_name(pipeline)).await?)
    }

    pub(crate) async fn kubectl(&self, words: &[&str]) -> Result<String> {
        let words: Vec<_> = ["-n", self.namespace.as_str()].iter().chain(words).copied().collect();
        self.world.bed.cluster.kubectl(&words).await
    }

    /// Waits until there are Events about a pipeline with these reasons. An Event may come late, and the one of a controller
    /// that is killed at that moment never; what it tells of happens again.
    pub(crate) async fn events(&self, pipeline: &str, reasons: &[&str]) -> Result<()> {
        let api = Api::<Event>::namespaced(self.world.client.clone(), &self.namespace);
        let about = |event: &Event| {
            event.regarding.as_ref().is_some_and(|regarding| regarding.name.as_deref() == Some(pipeline))
        };
        wait::until_true(&format!("Events {reasons:?} of {pipeline}"), LATER, || async {
            let events = api.list(&ListParams::default()).await?;
            let found: Vec<_> =
                events.items.into_iter().filter(about).filter_map(|event| event.reason).collect();
            ensure!(
                reasons.iter().all(|reason| found.iter().any(|found| found == reason)),
                "there are {found:?}"
            );
            Ok(true)
        })
        .await
    }
}

fn find<'a>(pipeline: &'a AnalyticsPipeline, condition: &str) -> Option<&'a Condition> {
    pipeline.status.as_ref()?.conditions.iter().find(|found| found.type_ == condition)
}

fn merge(target: &mut Value, patch: Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, patch) => *target = patch,
    }
}
