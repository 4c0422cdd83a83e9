//! The cluster, the operator from its chart, and one pipeline.

use std::net::SocketAddr;
use std::time::Duration;

use analytics_api::AnalyticsPipeline;
use anyhow::{Context, Result, ensure};
use chrono::Utc;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options};
use testbed::{Collector, Image, Testbed, TestbedOptions, cache, helm, process, wait};
use tokio_util::sync::CancellationToken;

/// Namespace of the operator.
pub(crate) const OPERATOR: &str = "analytics-system";
/// Namespace and name of the pipeline, those of the cases in grafana/alerts/tests.
pub(crate) const PIPELINES: &str = "shop";
pub(crate) const PIPELINE: &str = "clicks";
/// The label by which Prometheus chooses.
pub(crate) const RELEASE: &str = "watcher";
/// How long anything may take that takes seconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(180);

/// How many consumers the pipeline has.
pub(crate) const CONSUMERS: i32 = 2;

const TOPIC: &str = "clicks";

pub(crate) struct World {
    pub(crate) bed: Testbed,
    pub(crate) client: Client,
    pub(crate) database: PgPool,
    pub(crate) collector: Collector,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let (bed, image) =
            tokio::try_join!(Box::pin(Testbed::start(TestbedOptions::default())), Box::pin(Image::build()))?;
        bed.cluster.load_image(image.archive()).await?;
        for (part, archive) in [("prometheus_operator", "operator.tar"), ("prometheus", "prometheus.tar")] {
            bed.cluster.load_image(&cache::part(part)?.join(archive)).await?;
        }
        for namespace in [OPERATOR, PIPELINES] {
            bed.cluster.create_restricted_namespace(namespace).await?;
        }
        bed.kafka.create_topic(TOPIC, 4).await?;
        let database = bed.postgres.pool().await?;
        let collector =
            Collector::start_at(bed.cluster.host_address().context("no address for pods")?).await?;
        Ok(Self { client: bed.cluster.client().await?, bed, database, collector })
    }

    /// Installs the chart as where nothing monitors yet.
    pub(crate) async fn install(&self) -> Result<()> {
        self.helm("install", &[]).await
    }

    /// What is turned on once there is a Prometheus Operator. Nothing of it changes the controller itself.
    pub(crate) async fn switch_monitoring_on(&self) -> Result<()> {
        let release = |value: &str| format!("{value}.labels.release={RELEASE}");
        let (service, rule) = (release("serviceMonitor"), release("prometheusRule"));
        let values =
            ["serviceMonitor.enabled=true", "serviceMonitor.interval=2s", "serviceMonitor.scrapeTimeout=2s"];
        let more = [service.as_str(), "prometheusRule.enabled=true", rule.as_str()];
        self.helm("upgrade", &[values.as_slice(), more.as_slice()].concat()).await
    }

    async fn helm(&self, action: &str, values: &[&str]) -> Result<()> {
        let mut command = helm::command()?;
        command.env("KUBECONFIG", self.bed.cluster.kubeconfig()).args([action, "analytics"]);
        command.arg(helm::chart()).args(["--namespace", OPERATOR, "--wait", "--timeout", "3m"]);
        // Traces over HTTP from the controller; those of the consumers go by gRPC.
        let values_of_all = json!({
            "image": {"tag": "dev"},
            "logging": {"format": "json"},
            "pipelineMonitors": {"labels": {"release": RELEASE}},
            "env": [
                {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": self.collector.http_endpoint()},
                {"name": "OTEL_EXPORTER_OTLP_PROTOCOL", "value": "http/protobuf"},
            ],
        });
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), values_of_all.to_string())?;
        command.arg("--values").arg(file.path());
        for value in values {
            command.args(["--set", value]);
        }
        process::output(command).await.map(drop)
    }

    /// A pipeline that knows nothing of Prometheus.
    pub(crate) async fn apply_pipeline(&self) -> Result<()> {
        let url = self.bed.postgres.url_for_pods().context("no address for pods")?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "analytics-db"}, "stringData": {"url": url},
        });
        let secrets = Api::<Secret>::namespaced(self.client.clone(), PIPELINES);
        secrets.patch("analytics-db", &PatchParams::apply("user").force(), &Patch::Apply(secret)).await?;
        self.change_pipeline(&json!({})).await?;
        let api = self.pipelines();
        wait::until_true("the pipeline is Ready", SOON, || async {
            let status = api.get(PIPELINE).await?.status.unwrap_or_default();
            let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready");
            ensure!(ready.as_ref().is_some_and(|ready| ready.status == "True"), "{ready:?}");
            Ok(status.ready_replicas == Some(CONSUMERS))
        })
        .await
    }

    /// Applies the pipeline with these further fields of the parts of its specification.
    pub(crate) async fn change_pipeline(&self, parts: &Value) -> Result<()> {
        let brokers = self.bed.kafka.bootstrap_for_pods().context("no address for pods")?;
        let mut object = json!({
            "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline",
            "metadata": {"name": PIPELINE, "namespace": PIPELINES},
            "spec": {
                "source": {"bootstrapServers": brokers, "topic": TOPIC},
                "sink": {"urlSecretRef": {"name": "analytics-db"}, "rollupUsers": "Enabled"},
                "scaling": {"minReplicas": CONSUMERS, "maxReplicas": CONSUMERS},
                "consumer": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
                "telemetry": {"tracing": {"endpoint": self.collector.grpc_endpoint(), "sampleRatio": "1"}},
            },
        });
        for (part, fields) in parts.as_object().into_iter().flatten() {
            for (field, value) in fields.as_object().into_iter().flatten() {
                object["spec"][part][field] = value.clone();
            }
        }
        self.pipelines().patch(PIPELINE, &PatchParams::apply("user").force(), &Patch::Apply(object)).await?;
        Ok(())
    }

    pub(crate) fn pipelines(&self) -> Api<AnalyticsPipeline> {
        Api::namespaced(self.client.clone(), PIPELINES)
    }

    /// Sends events and waits until each is a row.
    pub(crate) async fn produce_and_await(&self, seed: u64, events: u64) -> Result<()> {
        let options = Options { seed, partitions: 4, ..Options::default() };
        self.produce_all(options, events, None).await
    }

    /// The same with events of any kind, at so many each second.
    pub(crate) async fn produce_all(&self, options: Options, events: u64, rate: Option<f64>) -> Result<()> {
        let before = self.rows().await.unwrap_or_default();
        let target = Target {
            brokers: self.bed.kafka.bootstrap(),
            topic: TOPIC.to_owned(),
            events,
            rate,
            dated_from: Some(Utc::now()),
            properties: Vec::new(),
        };
        let counts = produce(Generator::new(options)?, target, CancellationToken::new(), |_| {}).await?;
        let wanted = before + i64::try_from(counts.distinct)?;
        wait::until_true("each event is a row", SOON, || async {
            let found = self.rows().await?;
            ensure!(found == wanted, "{found} rows of {wanted}");
            Ok(true)
        })
        .await
    }

    pub(crate) async fn rows(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&self.database).await?)
    }

    /// Which controller runs, and how often it was started again.
    pub(crate) async fn controller(&self) -> Result<Vec<(String, i32)>> {
        let pods = self.pods(OPERATOR, "analytics-controller").await?;
        let restarts = |pod: &Pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            statuses.into_iter().flatten().map(|status| status.restart_count).sum()
        };
        Ok(pods.iter().map(|pod| (pod.name_any(), restarts(pod))).collect())
    }

    /// The pods of an application, without those of migrations and those that are going.
    pub(crate) async fn pods(&self, namespace: &str, name: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector = format!("app.kubernetes.io/name={name},app.kubernetes.io/component!=migration");
        let pods = api.list(&ListParams::default().labels(&selector)).await?.items;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    pub(crate) async fn logs(&self) -> String {
        let mut text = String::new();
        for words in [
            ["-n", OPERATOR, "logs", "deployment/analytics-controller", "--tail=100"],
            ["-n", super::stack::NAMESPACE, "logs", "deployment/prometheus-operator", "--tail=100"],
            ["-n", super::stack::NAMESPACE, "logs", "prometheus-watcher-0", "--tail=100"],
        ] {
            let said = self.bed.cluster.kubectl(&words).await;
            text.push_str(&said.unwrap_or_else(|error| format!("{error:#}\n")));
        }
        text
    }
}

/// Where a pod answers.
pub(crate) fn address(pod: &Pod, port: u16) -> Result<SocketAddr> {
    let ip =
        pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("a pod without address")?;
    Ok(SocketAddr::new(ip.parse()?, port))
}
