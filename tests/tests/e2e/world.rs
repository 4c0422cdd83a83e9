//! The cluster with the operator on it, and the places where scenarios play.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use testbed::{Cluster, Image, Kafka, Postgres, Testbed, TestbedOptions, place};

/// How long anything may take that takes seconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Where a scenario plays.
pub(crate) type Place<'a> = testbed::Place<'a, World>;

/// The cluster with the operator on it, Kafka and PostgreSQL.
pub(crate) struct World {
    pub(crate) bed: Testbed,
    pub(crate) client: Client,
}

impl place::World for World {
    fn cluster(&self) -> &Cluster {
        &self.bed.cluster
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn kafka(&self) -> &Kafka {
        &self.bed.kafka
    }

    fn postgres(&self) -> &Postgres {
        &self.bed.postgres
    }
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
}
