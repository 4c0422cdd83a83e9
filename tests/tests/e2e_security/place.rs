//! Where a scenario plays.

use analytics_api::{AnalyticsPipeline, labels};
use anyhow::{Context, Result, ensure};
use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options};
use testbed::wait;
use tokio_util::sync::CancellationToken;

use crate::world::{LATER, World};

/// Partitions of each topic.
const PARTITIONS: i32 = 4;

/// A namespace, a topic of four partitions and a database, with the Secret `analytics-db` that leads to it.
pub(crate) struct Place<'a> {
    pub(crate) world: &'a World,
    pub(crate) namespace: String,
    pub(crate) database: PgPool,
    topic: String,
    database_name: String,
}

impl<'a> Place<'a> {
    /// In a namespace that is there already.
    pub(crate) async fn make(world: &'a World, name: &str) -> Result<Self> {
        let topic = format!("{name}-events");
        world.kafka.create_topic(&topic, PARTITIONS).await?;
        let database_name = format!("{name}_data");
        let database = PgPool::connect(&world.postgres.create_database(&database_name).await?).await?;
        let place = Self { world, namespace: name.to_owned(), database, topic, database_name };
        place.secret("analytics-db", json!({"url": place.url("", "")?})).await?;
        Ok(place)
    }

    /// Deletes the pipelines and waits until no pod of theirs is left.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.pipelines().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        wait::until_true(&format!("nothing is left in {}", self.namespace), LATER, || async {
            let pods = self.api::<Pod>().list_metadata(&ListParams::default()).await?.items;
            ensure!(pods.is_empty(), "{} pods are left", pods.len());
            Ok(true)
        })
        .await
    }

    /// The way to the database from a pod, as `login` (`user:password`, empty: the owner), with `parameters` behind it.
    pub(crate) fn url(&self, login: &str, parameters: &str) -> Result<String> {
        let url = self.world.postgres.url_for_pods().context("no address for pods")?;
        let (server, _) = url.rsplit_once('/').context("a database URL has a path")?;
        let (owner, host) = server.split_once('@').context("a database URL has a login")?;
        let login = if login.is_empty() { owner.to_owned() } else { format!("postgres://{login}") };
        Ok(format!("{login}@{host}/{}{parameters}", self.database_name))
    }

    /// A pipeline of this place, with `spec` merged over what every one needs.
    pub(crate) fn pipeline(&self, name: &str, spec: Value) -> Result<Value> {
        let brokers = self.world.kafka.bootstrap_for_pods().context("no address for pods")?;
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
    pub(crate) async fn apply(&self, name: &str, spec: Value) -> Result<()> {
        let object = self.pipeline(name, spec)?;
        let resource = kube::api::ApiResource::erase::<AnalyticsPipeline>(&());
        let api =
            Api::<DynamicObject>::namespaced_with(self.world.client.clone(), &self.namespace, &resource);
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Writes a Secret.
    pub(crate) async fn secret(&self, name: &str, data: Value) -> Result<()> {
        write_secret(self.world, &self.namespace, name, data).await
    }

    pub(crate) fn pipelines(&self) -> Api<AnalyticsPipeline> {
        self.api()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
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
            let generation = pipeline.metadata.generation;
            let conditions = pipeline.status.map(|status| status.conditions).unwrap_or_default();
            let found = conditions.into_iter().find(|found| found.type_ == condition);
            let as_wanted = |found: &Condition| {
                found.status == status && found.reason == reason && found.observed_generation == generation
            };
            ensure!(found.as_ref().is_some_and(as_wanted), "it is {found:?}");
            Ok(found)
        });
        Ok(found.await?.message)
    }

    /// Sends events, a tenth of them duplicates and some malformed; returns how many rows there shall be of them. With a
    /// rate, `stop` ends it early.
    pub(crate) async fn produce(
        &self,
        seed: u64,
        events: u64,
        rate: Option<f64>,
        stop: CancellationToken,
    ) -> Result<i64> {
        let options =
            Options { seed, partitions: PARTITIONS, duplicates: 0.1, malformed: 0.01, ..Options::default() };
        let target = Target {
            brokers: self.world.kafka.bootstrap(),
            topic: self.topic.clone(),
            events,
            rate,
            dated_from: Some(Utc::now()),
            properties: Vec::new(),
        };
        let counts = produce(Generator::new(options)?, target, stop, |_| {}).await?;
        Ok(i64::try_from(counts.distinct)?)
    }

    /// Waits until the table holds exactly so many rows and nothing waits in the topic.
    pub(crate) async fn stored(&self, rows: i64) -> Result<()> {
        wait::until_true(&format!("{rows} rows in {}", self.namespace), LATER, || async {
            let found: i64 =
                sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.database).await?;
            let lag = self.lag().await?;
            ensure!(found == rows && lag == 0, "there are {found} rows, {lag} events wait");
            Ok(true)
        })
        .await
    }

    pub(crate) async fn lag(&self) -> Result<i64> {
        self.world.kafka.lag(&self.namespace, &self.topic).await
    }

    /// Names of the consumers that run and are ready.
    pub(crate) async fn ready_pods(&self, pipeline: &str) -> Result<Vec<String>> {
        let selector = format!("app.kubernetes.io/instance={pipeline},app.kubernetes.io/component=consumer");
        let pods = self.api::<Pod>().list(&ListParams::default().labels(&selector)).await?.items;
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let ready = |condition: &k8s_openapi::api::core::v1::PodCondition| {
                condition.type_ == "Ready" && condition.status == "True"
            };
            pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().flatten().any(ready)
        };
        Ok(pods.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).collect())
    }

    /// Waits until so many consumers are ready.
    pub(crate) async fn consumers(&self, pipeline: &str, wanted: usize) -> Result<Vec<String>> {
        wait::until(&format!("{wanted} consumers of {pipeline}"), LATER, || async {
            let found = self.ready_pods(pipeline).await?;
            ensure!(found.len() == wanted, "there are {found:?}");
            Ok(Some(found))
        })
        .await
    }

    pub(crate) async fn deployment(&self, pipeline: &str) -> Result<Deployment> {
        Ok(self.api().get(&labels::consumer_name(pipeline)).await?)
    }
}

/// Writes a Secret into any namespace.
pub(crate) async fn write_secret(world: &World, namespace: &str, name: &str, data: Value) -> Result<()> {
    let object =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    let api: Api<Secret> = Api::namespaced(world.client.clone(), namespace);
    api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?;
    Ok(())
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
