//! Where the demo runs: on servers of its own, or on those of a user.

use std::env;
use std::path::Path;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use testbed::together::Endpoints;
use testbed::{Cluster, Image, process, run};

use crate::install::{self, Pipeline};
use crate::screen::Screen;

/// How to reach everything.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) cluster: Cluster,
    /// Bootstrap servers for this process.
    pub(crate) kafka: String,
    /// Bootstrap servers for pods.
    pub(crate) kafka_for_pods: String,
    /// The database for this process.
    pub(crate) database_url: String,
    /// The database for pods.
    pub(crate) database_url_for_pods: String,
    /// The image of both binaries, as the cluster knows it.
    pub(crate) image: String,
}

impl Place {
    pub(crate) async fn prepare(screen: &mut Screen) -> Result<Self> {
        if let Some(place) = Self::external()? {
            let asked = place.cluster.kubectl(&["config", "current-context"]).await?;
            screen.line(&format!("  Using your cluster, context {}", asked.trim()));
            return Ok(place);
        }
        // Servers of an earlier run are replaced: a fresh start takes seconds, and nothing of that run can blur the
        // numbers of this one.
        if Endpoints::running().is_some() {
            screen.step("Servers of an earlier run stopped", stop_servers()).await?;
        }
        let started = async { tokio::try_join!(start_servers(), Image::build()) };
        let (endpoints, image) =
            screen.step("Kafka, PostgreSQL and Kubernetes started, image built", started).await?;
        let cluster = Cluster::running(&endpoints);
        screen.step("Image put on the node", cluster.load_image(image.archive())).await?;
        Ok(Self {
            cluster,
            kafka: endpoints.kafka,
            kafka_for_pods: endpoints.kafka_for_pods,
            database_url: endpoints.database_url,
            database_url_for_pods: endpoints.database_url_for_pods,
            image: Image::NAME.to_owned(),
        })
    }

    /// The user's own servers, if KUBECONFIG is set.
    ///
    /// All four variables are needed together: a KUBECONFIG that merely happens to be set must not bring 200,000 made-up
    /// events into somebody's cluster.
    pub(crate) fn external() -> Result<Option<Self>> {
        // Ours is what the last line of an earlier run told people to export.
        let not_ours = |path: &String| !Path::new(path).starts_with(run::root());
        let Some(kubeconfig) = variable("KUBECONFIG").filter(not_ours) else { return Ok(None) };
        let wanted = ["KAFKA_BROKERS", "DATABASE_URL", "IMAGE"];
        let missing: Vec<&str> = wanted.into_iter().filter(|name| variable(name).is_none()).collect();
        ensure!(
            missing.is_empty(),
            "KUBECONFIG is set, so the demo would use that cluster, but {} is not: set it to what both this machine and \
             the cluster's pods can reach, or unset KUBECONFIG to run everything on this machine",
            missing.join(" and ")
        );
        let value = |name| variable(name).unwrap_or_default();
        Ok(Some(Self {
            cluster: Cluster::existing(kubeconfig)?,
            kafka: value("KAFKA_BROKERS"),
            kafka_for_pods: value("KAFKA_BROKERS"),
            database_url: value("DATABASE_URL"),
            database_url_for_pods: value("DATABASE_URL"),
            image: value("IMAGE"),
        }))
    }

    /// How to look further and how to stop.
    pub(crate) fn farewell(&self, pipeline: &Pipeline) -> String {
        let kubectl = self.cluster.kubectl_command();
        let kubectl = kubectl
            .map_or("kubectl".to_owned(), |command| command.get_program().to_string_lossy().into_owned());
        let kubeconfig = self.cluster.kubeconfig().display();
        let generate = env::current_exe().map(|own| own.with_file_name("generate").display().to_string());
        format!(
            "Everything still runs. To look further:\n\
             \n\
             \x20 export KUBECONFIG={kubeconfig}\n\
             \x20 {kubectl} get apl,pods --namespace {namespace}\n\
             \x20 {kubectl} describe apl {name} --namespace {namespace}\n\
             \x20 psql {database}\n\
             \x20 {generate} --brokers {kafka} --topic {topic} --events 100000 --rate 2000\n\
             \n\
             To stop and remove it all:  make clean\n",
            namespace = install::NAMESPACE,
            name = pipeline.name,
            database = self.database_url,
            generate = generate.unwrap_or_else(|_| "generate".to_owned()),
            kafka = self.kafka,
            topic = install::TOPIC,
        )
    }
}

/// Starts the servers in a process of their own, so that they outlive this one and its terminal.
async fn start_servers() -> Result<Endpoints> {
    process::output(testbed_command("up")?).await?;
    Endpoints::running().context("the servers have ended just after their start")
}

/// Ends the servers, if they run, and removes what they have left.
pub(crate) async fn stop_servers() -> Result<()> {
    process::output(testbed_command("down")?).await.map(drop)
}

fn testbed_command(action: &str) -> Result<Command> {
    let program = env::current_exe()?.with_file_name("testbed");
    ensure!(program.is_file(), "{} is missing: run `make build`", program.display());
    let mut command = Command::new(program);
    command.arg(action);
    Ok(command)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
