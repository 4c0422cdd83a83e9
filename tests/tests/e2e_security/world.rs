//! The cluster with the operator on it, and servers that insist.

use anyhow::{Context, Result};
use kube::Client;
use testbed::{
    Cluster, ClusterOptions, Image, Kafka, KafkaOptions, Node, Postgres, PostgresOptions, helm, place,
    process,
};

use crate::trust::{PASSWORD, ROTATING, Trust, USER};

/// Namespace of the operator.
pub(crate) const OPERATOR: &str = "analytics-system";
/// The namespace that the installed operator does not watch: a test runs a controller of its own for it.
pub(crate) const DISTURBED: &str = "disturbed";

/// Namespaces with pipelines.
const NAMESPACES: [&str; 5] = ["plugin", "refusals", "rotation", "upgrade", DISTURBED];

/// The cluster with the operator on it, and servers that insist. The servers end before the cluster does.
pub(crate) struct World {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    pub(crate) trust: Trust,
}

/// Where a scenario plays.
pub(crate) type Place<'a> = testbed::Place<'a, World>;

impl place::World for World {
    fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    fn postgres(&self) -> &Postgres {
        &self.postgres
    }
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let trust = Trust::make()?;
        let node = Node::start().await?;
        let pod_address = Some(node.host_address());
        let host = node.host_address().to_string();
        let kafka = KafkaOptions {
            pod_address,
            listeners: trust.listeners(&host)?,
            scram_users: [USER, ROTATING].map(|user| (user.to_owned(), PASSWORD.to_owned())).to_vec(),
            ..KafkaOptions::default()
        };
        let settings = trust.database_settings(&host).await?;
        let postgres = PostgresOptions { pod_address, settings, ..PostgresOptions::default() };
        let (cluster, kafka, postgres, image) = tokio::try_join!(
            Box::pin(Cluster::start_on(node, ClusterOptions::default())),
            Box::pin(Kafka::start(kafka)),
            Box::pin(Postgres::start(postgres)),
            Box::pin(Image::build())
        )?;
        cluster.load_image(image.archive()).await?;
        for namespace in NAMESPACES.iter().chain([&OPERATOR]) {
            cluster.create_restricted_namespace(namespace).await?;
        }
        let client = cluster.client().await?;
        let world = Self { kafka, postgres, cluster, client, trust };
        world.install().await.context("failed to install the operator")?;
        Ok(world)
    }

    // With Roles in the namespaces that it watches, and no right anywhere else.
    async fn install(&self) -> Result<()> {
        let watched: Vec<_> = NAMESPACES.into_iter().filter(|name| *name != DISTURBED).collect();
        let namespaces = format!("watchNamespaces={{{}}}", watched.join(","));
        self.helm("install", &["image.tag=dev", &namespaces], &[]).await
    }

    /// Installs or upgrades the chart, and waits until the controller is ready.
    pub(crate) async fn helm(&self, action: &str, values: &[&str], further: &[&str]) -> Result<()> {
        let mut command = helm::command()?;
        command.env("KUBECONFIG", self.cluster.kubeconfig()).args([action, "analytics"]).arg(helm::chart());
        command.args(["--namespace", OPERATOR, "--wait", "--timeout", "3m"]).args(further);
        for value in values {
            command.args(["--set", value]);
        }
        process::output(command).await.map(drop)
    }
}
