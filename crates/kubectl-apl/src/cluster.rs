//! Everything that talks to the cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use analytics_api::{AnalyticsPipeline, labels};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::{Client, Config, ResourceExt};
use serde_json::json;

use crate::arguments::Connection;
use crate::metrics::Metrics;

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The kubeconfig cannot be used.
    #[error("failed to find the cluster: {0}")]
    Config(#[from] kube::config::KubeconfigError),
    /// There is no such pipeline.
    #[error(
        "there is no AnalyticsPipeline `{name}` in namespace `{namespace}`; list them with: kubectl get apl --all-namespaces"
    )]
    Missing {
        /// Name that was asked for.
        name: String,
        /// Namespace that was searched.
        namespace: String,
    },
    /// No consumer runs in which a command could be run.
    #[error(
        "no consumer of `{0}` runs, and dead letters are read inside one: wait for it or start one (kubectl apl resume {0}, or scaling.minReplicas: 1)"
    )]
    NoConsumer(String),
    /// The API server refused.
    #[error("the API server says: {0}")]
    Api(#[from] kube::Error),
    /// kubectl could not be run.
    #[error("failed to run kubectl: {0}")]
    Kubectl(std::io::Error),
    /// No controller has anything recorded.
    #[error(
        "no controller in namespace `{0}` has recorded a decision about it; name the operator's namespace with --operator-namespace, or wait for the next decision"
    )]
    NoRecording(String),
    /// A recording is none.
    #[error(transparent)]
    Recording(#[from] autoscaler::RecordError),
    /// A file could not be read.
    #[error("failed to read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// One consumer and what it says of itself.
#[derive(Debug)]
pub(crate) struct Consumer {
    /// Name of the pod.
    pub(crate) name: String,
    /// Whether it is ready.
    pub(crate) ready: bool,
    /// How often its container was started again.
    pub(crate) restarts: i32,
    /// Its metrics, when they could be read.
    pub(crate) metrics: Option<Metrics>,
}

/// A cluster and a namespace in it.
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// Connects as kubectl would.
    pub(crate) async fn connect(connection: &Connection) -> Result<Self, Failure> {
        let options =
            KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options).await?;
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config)?, namespace })
    }

    /// The pipeline.
    pub(crate) async fn pipeline(&self, name: &str) -> Result<AnalyticsPipeline, Failure> {
        let api: Api<AnalyticsPipeline> = Api::namespaced(self.client.clone(), &self.namespace);
        let missing = || Failure::Missing { name: name.to_owned(), namespace: self.namespace.clone() };
        api.get_opt(name).await?.ok_or_else(missing)
    }

    /// Names of the pipelines.
    pub(crate) async fn names(&self) -> Result<Vec<String>, Failure> {
        let api: Api<AnalyticsPipeline> = Api::namespaced(self.client.clone(), &self.namespace);
        let pipelines = api.list_metadata(&ListParams::default()).await?.items;
        Ok(pipelines.iter().map(ResourceExt::name_any).collect())
    }

    /// The consumers of a pipeline, each asked for its metrics through the API server.
    pub(crate) async fn consumers(&self, pipeline: &str) -> Result<Vec<Consumer>, Failure> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let selector = format!(
            "{}={},{}={pipeline},{}=consumer",
            labels::LABEL_NAME,
            labels::APP_NAME,
            labels::LABEL_INSTANCE,
            labels::LABEL_COMPONENT
        );
        let pods = pods.list(&ListParams::default().labels(&selector)).await?.items;
        let mut consumers = join_all(pods.iter().map(|pod| self.consumer(pod))).await;
        consumers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(consumers)
    }

    async fn consumer(&self, pod: &Pod) -> Consumer {
        let statuses =
            pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
        Consumer {
            name: pod.name_any(),
            // One that is stopping may be gone before it can be asked anything.
            ready: pod.metadata.deletion_timestamp.is_none()
                && !statuses.is_empty()
                && statuses.iter().all(|status| status.ready),
            restarts: statuses.iter().map(|status| status.restart_count).sum(),
            metrics: self.metrics(&pod.name_any()).await,
        }
    }

    // Whoever may not use the proxy, or asks a consumer that is just starting, sees the rest all the same.
    async fn metrics(&self, pod: &str) -> Option<Metrics> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:9090/proxy/metrics", self.namespace);
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        let text = self.client.request_text(request).await.ok()?;
        Some(Metrics::parse(&text))
    }

    /// The latest decisions about a pipeline, from whichever controller leads.
    pub(crate) async fn recording(&self, operator: &str, pipeline: &str) -> Result<String, Failure> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), operator);
        let selector = format!("{}=controller", labels::LABEL_COMPONENT);
        let mut refused = None;
        for pod in pods.list(&ListParams::default().labels(&selector)).await? {
            let (pod, namespace) = (pod.name_any(), &self.namespace);
            let path = format!(
                "/api/v1/namespaces/{operator}/pods/{pod}:9090/proxy/decisions/{namespace}/{pipeline}"
            );
            let Ok(request) = http::Request::get(path).body(Vec::new()) else { continue };
            match self.client.request_text(request).await {
                Ok(text) => return Ok(text),
                // A controller that does not lead.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or_else(|| Failure::NoRecording(operator.to_owned()), Failure::Api))
    }

    /// Stops or resumes a pipeline and says what that means.
    pub(crate) async fn suspend(&self, name: &str, suspend: bool) -> Result<String, Failure> {
        let before = self.pipeline(name).await?;
        if before.spec.suspend == suspend {
            return Ok(format!("{name} was {} already\n", if suspend { "paused" } else { "running" }));
        }
        let api: Api<AnalyticsPipeline> = Api::namespaced(self.client.clone(), &self.namespace);
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        api.patch(name, &PatchParams::default(), &patch).await?;
        Ok(if suspend {
            format!(
                "{name} is paused: its consumers stop; offsets and data stay. Go on with: kubectl apl resume {name}\n"
            )
        } else {
            format!("{name} goes on where it stopped. See how: kubectl apl status {name}\n")
        })
    }

    /// Runs `analytics-consumer dead-letters` in a ready consumer, with this terminal as its own.
    pub(crate) async fn dead_letters(
        &self,
        connection: &Connection,
        name: &str,
        words: &[String],
    ) -> Result<ExitCode, Failure> {
        self.pipeline(name).await?;
        let consumers = self.consumers(name).await?;
        let pod = consumers
            .iter()
            .find(|consumer| consumer.ready)
            .ok_or_else(|| Failure::NoConsumer(name.to_owned()))?;
        let mut command = tokio::process::Command::new("kubectl");
        if let Some(context) = &connection.context {
            command.args(["--context", context]);
        }
        command.args(["--namespace", &self.namespace, "exec", &pod.name, "--container", "consumer", "--"]);
        command.args(["/usr/local/bin/analytics-consumer", "dead-letters"]);
        command.args(if words.is_empty() { vec!["list".to_owned()] } else { words.to_vec() });
        let status = command.status().await.map_err(Failure::Kubectl)?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
