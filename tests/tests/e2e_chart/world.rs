//! The cluster, the chart and one pipeline.

use std::path::PathBuf;
use std::time::Duration;

use analytics_api::AnalyticsPipeline;
use anyhow::{Context, Result, ensure};
use chrono::Utc;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options};
use testbed::{ClusterOptions, Image, Testbed, TestbedOptions, helm, process, wait};
use tokio_util::sync::CancellationToken;

/// Namespace of the operator.
pub(crate) const OPERATOR: &str = "analytics-system";
/// Namespace of the pipeline.
pub(crate) const PIPELINES: &str = "analytics";
/// Name of the pipeline.
pub(crate) const PIPELINE: &str = "clicks";
/// How long anything may take that takes seconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(120);

const TOPIC: &str = "clicks";

pub(crate) struct World {
    pub(crate) bed: Testbed,
    pub(crate) client: Client,
    pub(crate) database: PgPool,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("policy.yaml"), AUDIT_POLICY)?;
        let apiserver_arguments = vec![
            format!("--audit-policy-file={}", folder.path().join("policy.yaml").display()),
            format!("--audit-log-path={}", folder.path().join("audit.log").display()),
        ];
        let options =
            TestbedOptions { cluster: ClusterOptions { apiserver_arguments }, ..TestbedOptions::default() };
        let (bed, image) = tokio::try_join!(Box::pin(Testbed::start(options)), Box::pin(Image::build()))?;
        bed.cluster.load_image(image.archive()).await?;
        for namespace in [OPERATOR, PIPELINES] {
            bed.cluster.create_restricted_namespace(namespace).await?;
        }
        bed.kafka.create_topic(TOPIC, 4).await?;
        let database = bed.postgres.pool().await?;
        let world = Self { client: bed.cluster.client().await?, bed, database, folder };
        world.write_database_secret("").await?;
        Ok(world)
    }

    /// Writes the Secret of the database, with `parameters` behind the URL.
    pub(crate) async fn write_database_secret(&self, parameters: &str) -> Result<()> {
        let url = self.bed.postgres.url_for_pods().context("no address for pods")?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "analytics-db", "namespace": PIPELINES},
            "stringData": {"url": format!("{url}{parameters}")},
        });
        let api: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(self.client.clone(), PIPELINES);
        api.patch("analytics-db", &PatchParams::apply("user").force(), &Patch::Apply(secret)).await?;
        Ok(())
    }

    /// Runs `helm` against the cluster, for the release `analytics`.
    pub(crate) async fn helm(
        &self,
        action: &[&str],
        chart: Option<&PathBuf>,
        values: &[&str],
    ) -> Result<String> {
        let mut command = helm::command()?;
        command.env("KUBECONFIG", self.bed.cluster.kubeconfig()).args(action).args(["--namespace", OPERATOR]);
        command.args(["--wait", "--timeout", "3m"]);
        if let Some(chart) = chart {
            command.arg(chart).args(["--set", "image.tag=dev"]);
        }
        for value in values {
            command.args(["--set", value]);
        }
        process::output(command).await
    }

    /// The pipeline, with `spec` merged over what it needs.
    pub(crate) async fn apply(&self, spec: Value) -> Result<()> {
        self.apply_in(PIPELINES, spec).await
    }

    pub(crate) async fn apply_in(&self, namespace: &str, spec: Value) -> Result<()> {
        let brokers = self.bed.kafka.bootstrap_for_pods().context("no address for pods")?;
        let mut object = json!({
            "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline",
            "metadata": {"name": PIPELINE, "namespace": namespace},
            "spec": {
                "source": {"bootstrapServers": brokers, "topic": TOPIC},
                "sink": {"urlSecretRef": {"name": "analytics-db"}},
                "consumer": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
            },
        });
        if let (Some(target), Some(patch)) = (object["spec"].as_object_mut(), spec.as_object()) {
            target.extend(patch.clone());
        }
        let parameters = PatchParams::apply("user").force();
        let api: Api<AnalyticsPipeline> = Api::namespaced(self.client.clone(), namespace);
        api.patch(PIPELINE, &parameters, &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Waits until the pipeline, as it is described now, is Ready.
    pub(crate) async fn ready(&self) -> Result<()> {
        let api: Api<AnalyticsPipeline> = Api::namespaced(self.client.clone(), PIPELINES);
        wait::until_true("the pipeline is Ready", SOON, || async {
            let pipeline = api.get(PIPELINE).await?;
            let conditions = pipeline.status.map(|status| status.conditions).unwrap_or_default();
            let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
            let as_wanted = ready.as_ref().is_some_and(|ready| {
                ready.status == "True" && ready.observed_generation == pipeline.metadata.generation
            });
            ensure!(as_wanted, "generation {:?}: {ready:?}", pipeline.metadata.generation);
            Ok(true)
        })
        .await
    }

    /// Sends so many events and waits until each is a row.
    pub(crate) async fn events_flow(&self, seed: u64, events: u64) -> Result<()> {
        let rows = || async {
            let counted =
                sqlx::query_scalar("SELECT count(*) FROM events").fetch_optional(&self.database).await;
            anyhow::Ok(counted?.unwrap_or(0_i64))
        };
        let before = rows().await.unwrap_or_default();
        let target = Target {
            brokers: self.bed.kafka.bootstrap(),
            topic: TOPIC.to_owned(),
            events,
            rate: None,
            dated_from: Some(Utc::now()),
            properties: Vec::new(),
        };
        let generator = Generator::new(Options { seed, partitions: 4, ..Options::default() })?;
        let counts = produce(generator, target, CancellationToken::new(), |_| {}).await?;
        let wanted = before + i64::try_from(counts.distinct)?;
        wait::until_true("each event is a row", SOON, || async {
            let found = rows().await?;
            ensure!(found == wanted, "{found} rows of {wanted}");
            Ok(true)
        })
        .await
    }

    /// The pods of a namespace that carry a label, without those that are going.
    pub(crate) async fn pods(&self, namespace: &str, name: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector = format!("app.kubernetes.io/name={name},app.kubernetes.io/component!=migration");
        let pods = api.list(&ListParams::default().labels(&selector)).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// Names of the consumers, each with how often it was started again.
    pub(crate) async fn consumers(&self) -> Result<Vec<(String, i32)>> {
        let pods = self.pods(PIPELINES, "analytics-consumer").await?;
        let mut consumers: Vec<_> = pods.iter().map(|pod| (pod.name_any(), restarts(pod))).collect();
        consumers.sort();
        Ok(consumers)
    }

    /// Waits until there are so many consumers.
    pub(crate) async fn consumers_become(&self, wanted: usize) -> Result<()> {
        wait::until_true(&format!("{wanted} consumers"), SOON, || async {
            let found = self.consumers().await?;
            ensure!(found.len() == wanted, "there are {found:?}");
            Ok(true)
        })
        .await
    }

    pub(crate) async fn controller_logs(&self) -> String {
        let words = [
            "-n",
            OPERATOR,
            "logs",
            "-l",
            "app.kubernetes.io/name=analytics-controller",
            "--tail=100",
            "--prefix",
        ];
        self.bed.cluster.kubectl(&words).await.unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// How often the container of a pod was started again.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).sum()
}

/// Everything that the operator asks for is written down, without contents.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: [\"system:serviceaccount:analytics-system:analytics-controller\"]
  - level: None
";
