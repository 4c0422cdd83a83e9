//! Kafka, PostgreSQL and a cluster side by side, and the record by which other processes find them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::node::Entrance;
use crate::{Cluster, ClusterOptions, Kafka, KafkaOptions, Node, Postgres, PostgresOptions, run};

/// What a test wants of each; the addresses for pods are filled in.
#[derive(Debug, Clone, Default)]
pub struct TestbedOptions {
    /// Kafka.
    pub kafka: KafkaOptions,
    /// PostgreSQL.
    pub postgres: PostgresOptions,
    /// The cluster.
    pub cluster: ClusterOptions,
}

/// All three, reachable from each other.
#[derive(Debug)]
pub struct Testbed {
    /// Kafka, reached by pods at [`Kafka::bootstrap_for_pods`].
    pub kafka: Kafka,
    /// PostgreSQL, reached by pods at [`Postgres::url_for_pods`].
    pub postgres: Postgres,
    /// The cluster.
    pub cluster: Cluster,
}

impl Testbed {
    /// Starts all three at the same time.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start(mut options: TestbedOptions) -> Result<Self> {
        let node = Node::start().await?;
        options.kafka.pod_address = Some(node.host_address());
        options.postgres.pod_address = Some(node.host_address());
        let cluster = Cluster::start_on(node, options.cluster);
        let kafka = Kafka::start(options.kafka);
        let postgres = Postgres::start(options.postgres);
        let (cluster, kafka, postgres) =
            tokio::try_join!(Box::pin(cluster), Box::pin(kafka), Box::pin(postgres))?;
        Ok(Self { kafka, postgres, cluster })
    }

    /// How other processes reach this test bed.
    ///
    /// # Errors
    /// Never, for a test bed made by [`Testbed::start`].
    pub fn endpoints(&self) -> Result<Endpoints> {
        Ok(Endpoints {
            process: std::process::id(),
            kafka: self.kafka.bootstrap(),
            kafka_for_pods: self.kafka.bootstrap_for_pods().context("Kafka has no address for pods")?,
            database_url: self.postgres.url(),
            database_url_for_pods: self
                .postgres
                .url_for_pods()
                .context("PostgreSQL has no address for pods")?,
            kubeconfig: self.cluster.kubeconfig().to_owned(),
            entrance: self.cluster.node().context("the cluster is not our own")?.entrance(),
        })
    }
}

/// How to reach a test bed that `testbed up` keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// The process that holds it.
    pub process: u32,
    /// Kafka's bootstrap servers for programs on this machine.
    pub kafka: String,
    /// Kafka's bootstrap servers for pods.
    pub kafka_for_pods: String,
    /// PostgreSQL for programs on this machine.
    pub database_url: String,
    /// PostgreSQL for pods.
    pub database_url_for_pods: String,
    /// An administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The way into the node, for [`Cluster::running`].
    pub entrance: Entrance,
}

impl Endpoints {
    /// Where the record lies.
    #[must_use]
    pub fn file() -> PathBuf {
        run::root().join("up.json")
    }

    /// The test bed that `testbed up` runs now, if it does.
    #[must_use]
    pub fn running() -> Option<Self> {
        let found: Self = serde_json::from_str(&fs::read_to_string(Self::file()).ok()?).ok()?;
        // The process id alone might belong to someone else by now.
        let arguments = fs::read(format!("/proc/{}/cmdline", found.process)).ok()?;
        let serves = arguments.split(|byte| *byte == 0).any(|word| word == b"serve");
        (serves && found.kubeconfig.is_file()).then_some(found)
    }

    /// Leaves the record for [`Endpoints::running`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self) -> Result<()> {
        let partial = Self::file().with_extension("partial");
        fs::write(&partial, serde_json::to_string_pretty(self)?)?;
        fs::rename(partial, Self::file()).context("failed to record the test bed")
    }
}
