//! A Kubernetes of one node: real API server, scheduler, controllers, kubelet, containerd and proxy.

mod config;
mod identity;
mod parts;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Node as NodeObject, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::node::Entrance;
use crate::process::{self, Process};
use crate::together::Endpoints;
use crate::{Node, cache, wait};
use identity::Identity;

/// What a test wants of its cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// Further arguments of kube-apiserver, such as `--enable-admission-plugins=…`.
    pub apiserver_arguments: Vec<String>,
}

/// A cluster: one of our own, which ends when dropped, or one that a user has.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    entrance: Option<Entrance>,
    own: Option<Own>,
}

/// The order of the fields is the order of their end: the node takes all processes in it along.
#[derive(Debug)]
struct Own {
    node: Node,
    _parts: Vec<Process>,
}

/// How long a part may take; all together need about 6 s on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

impl Cluster {
    /// Starts a node and a cluster on it, and waits until pods can be scheduled.
    ///
    /// # Errors
    /// When a part does not start; the error holds the end of its log.
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        Self::start_on(Node::start().await?, options).await
    }

    /// Like [`Cluster::start`] on a node that exists, whose address servers outside can listen on already.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_on(node: Node, options: ClusterOptions) -> Result<Self> {
        let began = Instant::now();
        let identity = Identity::create(&node)?;
        config::write(&node)?;
        let mut parts = parts::Parts::new(&node, &identity)?;
        parts.start_foundation(&options)?;
        import(node.entrance(), &cache::part("pause")?.join("pause.tar"))
            .await
            .map_err(|error| parts.explain(error))?;
        let kubeconfig = identity.admin_kubeconfig();
        let client = connect(&kubeconfig).await?;
        api_server_ready(&client, &mut parts).await?;
        tracing::info!("The Kubernetes API answers after {:.1} s", began.elapsed().as_secs_f32());
        parts.start_controllers()?;
        node_ready(&client, &mut parts).await?;
        tracing::info!("The Kubernetes node is ready after {:.1} s", began.elapsed().as_secs_f32());
        let parts = parts.into_processes();
        let entrance = Some(node.entrance());
        Ok(Self { kubeconfig, entrance, own: Some(Own { node, _parts: parts }) })
    }

    /// Uses the cluster that a kubeconfig's current context names, and leaves it running.
    ///
    /// # Errors
    /// When the file is missing.
    pub fn existing(kubeconfig: impl Into<PathBuf>) -> Result<Self> {
        let kubeconfig = kubeconfig.into();
        ensure!(kubeconfig.is_file(), "there is no kubeconfig {}", kubeconfig.display());
        Ok(Self { kubeconfig, entrance: None, own: None })
    }

    /// Uses the cluster that `testbed up` keeps, and leaves it running.
    #[must_use]
    pub fn running(endpoints: &Endpoints) -> Self {
        Self { kubeconfig: endpoints.kubeconfig.clone(), entrance: Some(endpoints.entrance), own: None }
    }

    /// The kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with an administrator's rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.kubeconfig).await
    }

    /// The node, if the cluster is our own.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.own.as_ref().map(|own| &own.node)
    }

    /// The address at which pods reach servers of this machine, if the cluster is our own.
    #[must_use]
    pub fn host_address(&self) -> Option<Ipv4Addr> {
        self.node().map(Node::host_address)
    }

    /// A `kubectl` with an administrator's rights, to be given arguments.
    ///
    /// # Errors
    /// When Kubernetes' programs have not been prepared.
    pub fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(cache::part("kubernetes")?.join("kubectl"));
        command.env("KUBECONFIG", &self.kubeconfig);
        Ok(command)
    }

    /// Runs `kubectl` and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the error holds what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command()?;
        command.args(arguments);
        process::output(command).await
    }

    /// Puts the images of a docker archive on the node, so that no pod needs to pull them.
    ///
    /// # Errors
    /// When the cluster is a user's own, or the archive is no image.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        let entrance =
            self.entrance.context("images can be put on our own cluster only: push them to a registry")?;
        import(entrance, archive).await
    }

    /// Gives an image on the node a second name, both as `repository:tag`.
    ///
    /// # Errors
    /// When the cluster is a user's own, or it has no such image.
    pub async fn tag_image(&self, name: &str, second: &str) -> Result<()> {
        let entrance = self.entrance.context("images can be named on our own cluster only")?;
        let mut command = entrance.command(cache::part("containerd")?.join("ctr"));
        command.args(["--namespace=k8s.io", "images", "tag", "--force"]);
        command.args([name, second].map(|name| format!("docker.io/library/{name}")));
        process::output(command).await.map(drop)
    }

    /// Creates a namespace in which pods can be created at once.
    ///
    /// # Errors
    /// When it exists already.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        self.create_namespace_with(name, &[]).await
    }

    /// Like [`Cluster::create_namespace`] with the Pod Security level "restricted": pods that ask for more are refused.
    ///
    /// # Errors
    /// When it exists already.
    pub async fn create_restricted_namespace(&self, name: &str) -> Result<()> {
        self.create_namespace_with(name, &[("pod-security.kubernetes.io/enforce", "restricted")]).await
    }

    async fn create_namespace_with(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let client = self.client().await?;
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        // Pods are refused before the controller has made the namespace's service account.
        let accounts: Api<ServiceAccount> = Api::namespaced(client, name);
        wait::until_true("the namespace has its service account", PATIENCE, || async {
            Ok(accounts.get_opt("default").await?.is_some())
        })
        .await
    }

    /// What a person would look at first when a test has failed: objects, events and logs of the namespace.
    pub async fn diagnose(&self, namespace: &str) -> String {
        let mut text = String::new();
        for line in [
            "get all,configmaps -o wide",
            "get analyticspipelines -o yaml",
            "get events --sort-by=.lastTimestamp",
            "describe pods",
            "logs --all-containers --prefix --tail=40 --ignore-errors --selector=app.kubernetes.io/part-of=analytics-pipeline",
        ] {
            let words = ["--namespace", namespace].into_iter().chain(line.split(' '));
            let said = match self.kubectl(&words.collect::<Vec<_>>()).await {
                Ok(said) => said,
                Err(error) => format!("{error:#}\n"),
            };
            text.push_str(&format!("--- kubectl {line}\n{said}"));
        }
        text
    }
}

async fn connect(kubeconfig: &Path) -> Result<Client> {
    // An error says that the process has chosen its provider already, which serves as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Retries while containerd is starting.
async fn import(node: Entrance, archive: &Path) -> Result<()> {
    ensure!(archive.is_file(), "there is no image archive {}", archive.display());
    let ctr = cache::part("containerd")?.join("ctr");
    let containerd_answers = || {
        let mut command = node.command(&ctr);
        command.arg("version");
        async { process::output(command).await.map(|_| true) }
    };
    wait::until_true("containerd answers", PATIENCE, containerd_answers).await?;
    let mut command = node.command(&ctr);
    command.args(["--namespace=k8s.io", "images", "import"]).arg(archive);
    process::output(command).await.map(drop)
}

async fn api_server_ready(client: &Client, parts: &mut parts::Parts<'_>) -> Result<()> {
    let ready = parts.await_with("the API server is ready", PATIENCE, || {
        let client = client.clone();
        async move {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            client.request_text(request).await?;
            Ok(true)
        }
    });
    ready.await
}

async fn node_ready(client: &Client, parts: &mut parts::Parts<'_>) -> Result<()> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let ready = parts.await_with("the node is ready", PATIENCE, || {
        let nodes = nodes.clone();
        async move { Ok(nodes.get(parts::NODE_NAME).await.is_ok_and(|node| is_ready(&node))) }
    });
    ready.await
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let untainted =
        node.spec.as_ref().is_none_or(|spec| spec.taints.as_deref().unwrap_or_default().is_empty());
    untainted && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
