//! Where a scenario of an end-to-end test plays: a namespace, a topic and a database of its own, on servers that it shares with
//! others.

use std::time::Duration;

use analytics_api::{AnalyticsPipeline, labels};
use anyhow::{Context, Result, ensure};
use chrono::Utc;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::generator::produce::{Target, produce};
use crate::generator::{Generator, Options};
use crate::{Cluster, Kafka, Postgres, wait};

/// How long a backlog may take, with rollouts and quiet times in between.
pub const LATER: Duration = Duration::from_secs(240);

/// Pods that consume.
pub const CONSUMERS: &str = "app.kubernetes.io/name=analytics-consumer,app.kubernetes.io/component=consumer";

/// Partitions of each topic.
const PARTITIONS: i32 = 4;

/// A cluster with the operator on it, and the servers of its pipelines.
#[expect(async_fn_in_trait, reason = "tests know which world they are in")]
pub trait World {
    /// The cluster.
    fn cluster(&self) -> &Cluster;
    /// A connection to its API server.
    fn client(&self) -> &Client;
    /// Where events come from.
    fn kafka(&self) -> &Kafka;
    /// Where rows go.
    fn postgres(&self) -> &Postgres;

    /// The last lines of the controller's log, or why there are none.
    async fn controller_log(&self) -> String {
        let words = ["-n", "analytics-system", "logs", "deployment/analytics-controller", "--tail=200"];
        self.cluster().kubectl(&words).await.unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// A namespace, a topic of four partitions and a database, with the Secret `analytics-db` that leads to it.
pub struct Place<'a, W> {
    /// What is around it.
    pub world: &'a W,
    /// Its namespace, also the group of its pipelines.
    pub namespace: String,
    /// Its topic.
    pub topic: String,
    /// Its database.
    pub database: PgPool,
    database_name: String,
}

impl<'a, W: World> Place<'a, W> {
    /// Makes all of it.
    ///
    /// # Errors
    /// The server that refused.
    pub async fn make(world: &'a W, name: &str) -> Result<Self> {
        world.cluster().create_restricted_namespace(name).await?;
        Self::within(world, name).await
    }

    /// In a namespace that is there already.
    ///
    /// # Errors
    /// The server that refused.
    pub async fn within(world: &'a W, namespace: &str) -> Result<Self> {
        let topic = format!("{namespace}-events");
        world.kafka().create_topic(&topic, PARTITIONS).await?;
        let database_name = format!("{namespace}_data");
        let database = PgPool::connect(&world.postgres().create_database(&database_name).await?).await?;
        let place = Self { world, namespace: namespace.to_owned(), topic, database, database_name };
        place.secret("analytics-db", json!({"url": place.url_for_pods()?})).await?;
        Ok(place)
    }

    /// Deletes the pipelines and waits until no pod is left.
    ///
    /// # Errors
    /// When some are left after minutes.
    pub async fn clear(&self) -> Result<()> {
        self.pipelines().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        wait::until_true(&format!("nothing is left in {}", self.namespace), LATER, || async {
            let pods = self.api::<Pod>().list_metadata(&ListParams::default()).await?.items;
            ensure!(pods.is_empty(), "{} pods are left", pods.len());
            Ok(true)
        })
        .await
    }

    /// The way to the database from a pod.
    ///
    /// # Errors
    /// When pods have none.
    pub fn url_for_pods(&self) -> Result<String> {
        self.url("", "")
    }

    /// The same as `login` (`user:password`, empty: the owner), with `parameters` behind it.
    ///
    /// # Errors
    /// When pods have none.
    pub fn url(&self, login: &str, parameters: &str) -> Result<String> {
        let url = self.world.postgres().url_for_pods().context("no address for pods")?;
        let (server, _) = url.rsplit_once('/').context("a database URL has a path")?;
        let (owner, host) = server.split_once('@').context("a database URL has a login")?;
        let login = if login.is_empty() { owner.to_owned() } else { format!("postgres://{login}") };
        Ok(format!("{login}@{host}/{}{parameters}", self.database_name))
    }

    /// A pipeline of this place, with `spec` merged over what every one needs.
    ///
    /// # Errors
    /// When pods cannot reach Kafka.
    pub fn pipeline(&self, name: &str, spec: Value) -> Result<Value> {
        let brokers = self.world.kafka().bootstrap_for_pods().context("no address for pods")?;
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
    ///
    /// # Errors
    /// The API server's answer.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("an object has a name")?;
        let resource = ApiResource::erase::<AnalyticsPipeline>(&());
        let api =
            Api::<DynamicObject>::namespaced_with(self.world.client().clone(), &self.namespace, &resource);
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Writes a Secret.
    ///
    /// # Errors
    /// The API server's answer.
    pub async fn secret(&self, name: &str, data: Value) -> Result<()> {
        self.secret_in(&self.namespace, name, data).await
    }

    /// Writes a Secret into any namespace.
    ///
    /// # Errors
    /// The API server's answer.
    pub async fn secret_in(&self, namespace: &str, name: &str, data: Value) -> Result<()> {
        let object =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        let api = Api::<Secret>::namespaced(self.world.client().clone(), namespace);
        api.patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Objects of this place.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.world.client().clone(), &self.namespace)
    }

    /// Pipelines of this place.
    pub fn pipelines(&self) -> Api<AnalyticsPipeline> {
        self.api()
    }

    /// The consumers of a pipeline.
    ///
    /// # Errors
    /// The API server's answer.
    pub async fn deployment(&self, pipeline: &str) -> Result<Deployment> {
        Ok(self.api().get(&labels::consumer_name(pipeline)).await?)
    }

    /// `kubectl` in this namespace.
    ///
    /// # Errors
    /// What it said when it failed.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        let words: Vec<_> = ["-n", self.namespace.as_str()].iter().chain(words).copied().collect();
        self.world.cluster().kubectl(&words).await
    }

    /// Waits until a condition has this status and reason, and returns its message.
    ///
    /// # Errors
    /// What the condition is instead, after minutes.
    pub async fn condition(&self, name: &str, condition: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{name}: {condition}={status} ({reason})");
        let found = wait::until(&what, LATER, || async {
            let pipeline = self.pipelines().get(name).await?;
            let found = find(&pipeline, condition).cloned();
            let generation = pipeline.metadata.generation;
            let as_wanted = |found: &Condition| {
                found.status == status && found.reason == reason && found.observed_generation == generation
            };
            ensure!(found.as_ref().is_some_and(as_wanted), "it is {found:?}");
            Ok(found)
        });
        Ok(found.await?.message)
    }

    /// Waits until the pipeline is Ready, for whatever reason.
    ///
    /// # Errors
    /// What the condition is instead, after minutes.
    pub async fn ready(&self, name: &str) -> Result<()> {
        wait::until_true(&format!("{name} is Ready"), LATER, || async {
            let pipeline = self.pipelines().get(name).await?;
            let ready = find(&pipeline, "Ready").cloned();
            ensure!(ready.as_ref().is_some_and(|ready| ready.status == "True"), "it is {ready:?}");
            Ok(true)
        })
        .await
    }

    /// Sends events, a tenth of them duplicates and some malformed; returns how many rows there shall be of them.
    ///
    /// # Errors
    /// Kafka's answer.
    pub async fn produce(&self, seed: u64, events: u64) -> Result<i64> {
        self.produce_until(seed, events, None, CancellationToken::new()).await
    }

    /// The same at a rate (events per second), until `stop` ends it.
    ///
    /// # Errors
    /// Kafka's answer.
    pub async fn produce_until(
        &self,
        seed: u64,
        events: u64,
        rate: Option<f64>,
        stop: CancellationToken,
    ) -> Result<i64> {
        let options =
            Options { seed, partitions: PARTITIONS, duplicates: 0.1, malformed: 0.01, ..Options::default() };
        let target = Target {
            brokers: self.world.kafka().bootstrap(),
            topic: self.topic.clone(),
            events,
            rate,
            dated_from: Some(Utc::now()),
            properties: Vec::new(),
        };
        let counts = produce(Generator::new(options)?, target, stop, |_| {}).await?;
        Ok(i64::try_from(counts.distinct)?)
    }

    /// Rows in the table.
    ///
    /// # Errors
    /// PostgreSQL's answer.
    pub async fn rows(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.database).await?)
    }

    /// Waits until the table holds exactly so many rows and nothing waits in the topic.
    ///
    /// # Errors
    /// How many there are instead, after minutes.
    pub async fn stored(&self, rows: i64) -> Result<()> {
        wait::until_true(&format!("{rows} rows in {}", self.namespace), LATER, || async {
            let (found, lag) = (self.rows().await?, self.lag().await?);
            ensure!(found == rows && lag == 0, "there are {found} rows, {lag} events wait");
            Ok(true)
        })
        .await
    }

    /// Events that wait in the topic.
    ///
    /// # Errors
    /// Kafka's answer.
    pub async fn lag(&self) -> Result<i64> {
        self.world.kafka().lag(&self.namespace, &self.topic).await
    }

    /// Waits until little enough waits.
    ///
    /// # Errors
    /// When more does after minutes.
    pub async fn lag_at_most(&self, events: i64) -> Result<()> {
        let what = format!("at most {events} events wait in {}", self.namespace);
        wait::until_true(&what, LATER, || async { Ok(self.lag().await? <= events) }).await
    }

    /// Consumers that run and are ready.
    ///
    /// # Errors
    /// The API server's answer.
    pub async fn ready_pods(&self) -> Result<Vec<Pod>> {
        let pods = self.api::<Pod>().list(&ListParams::default().labels(CONSUMERS)).await?;
        let is_ready = |pod: &Pod| {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            pod.metadata.deletion_timestamp.is_none()
                && conditions
                    .into_iter()
                    .flatten()
                    .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        Ok(pods.items.into_iter().filter(is_ready).collect())
    }

    /// Their names, in order.
    ///
    /// # Errors
    /// The API server's answer.
    pub async fn pod_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.ready_pods().await?.iter().map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until the number of ready consumers is as wanted, and returns it.
    ///
    /// # Errors
    /// How many there are instead, after minutes.
    pub async fn consumers(&self, what: &str, wanted: impl Fn(usize) -> bool) -> Result<usize> {
        wait::until(&format!("{}: {what}", self.namespace), LATER, || async {
            let count = self.ready_pods().await?.len();
            ensure!(wanted(count), "there are {count}");
            Ok(Some(count))
        })
        .await
    }

    /// Waits until there are Events about a pipeline with these reasons. An Event may come late, and the one of a controller
    /// that is killed at that moment never; what it tells of happens again.
    ///
    /// # Errors
    /// Which there are instead, after minutes.
    pub async fn events(&self, pipeline: &str, reasons: &[&str]) -> Result<()> {
        let about = |event: &Event| {
            event.regarding.as_ref().is_some_and(|regarding| regarding.name.as_deref() == Some(pipeline))
        };
        wait::until_true(&format!("Events {reasons:?} of {pipeline}"), LATER, || async {
            let events = self.api::<Event>().list(&ListParams::default()).await?;
            let found: Vec<_> =
                events.items.into_iter().filter(about).filter_map(|event| event.reason).collect();
            let is_there = |reason: &&str| found.iter().any(|found| found == reason);
            ensure!(reasons.iter().all(is_there), "there are {found:?}");
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
