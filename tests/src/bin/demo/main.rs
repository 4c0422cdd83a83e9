//! The whole path on this machine, by one command: servers, operator, one resource, 200,000 events, and the proof
//! that each of them was stored exactly once.

mod install;
mod kafka;
mod live;
mod place;
mod queries;
mod report;
mod screen;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use rdkafka::config::ClientConfig;
use testbed::generator::{Options, topic};

use place::Place;
use report::Report;
use screen::Screen;

/// Shows the operator at work. With KUBECONFIG set it uses that cluster, and then needs KAFKA_BROKERS, DATABASE_URL and
/// IMAGE too; without, it starts Kafka, PostgreSQL and Kubernetes on this machine (as root).
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many records to send.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Records per second.
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// Decides the events; the same seed sends the same users and data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Stop everything that the demo has started and remove what it made.
    Clean,
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut screen = Screen::new();
    match perform(&mut screen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.line(&format!("demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn perform(screen: &mut Screen) -> Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "error".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Command::Clean) => clean(screen).await,
        None => run(screen, &arguments).await,
    }
}

async fn run(screen: &mut Screen, arguments: &Arguments) -> Result<()> {
    let place = Place::prepare(screen).await?;
    queries::refuse_foreign_tables(&place.database_url).await?;
    let mut kafka = ClientConfig::new();
    kafka.set("bootstrap.servers", &place.kafka);
    topic::create(&kafka, install::TOPIC, arguments.partitions).await?;
    let shown = tokio::select! {
        shown = show(screen, &place, arguments) => shown,
        _ = tokio::signal::ctrl_c() => bail!("interrupted; `make clean` stops the servers"),
    };
    if shown.is_err() {
        screen.line(&place.cluster.diagnose(install::NAMESPACE).await);
        screen.line("The servers still run, for a look at what went wrong; `make clean` stops them.");
    }
    shown
}

async fn show(screen: &mut Screen, place: &Place, arguments: &Arguments) -> Result<()> {
    screen.step("Operator installed from manifests/install", install::operator(place)).await?;
    let pipeline = screen
        .step(
            "manifests/samples/user-events.yaml applied, each consumer held to 2 % of a core",
            install::pipeline(place),
        )
        .await?;
    screen.step("Pipeline is Ready", install::await_ready(place)).await?;

    let options = Options { seed: arguments.seed, partitions: arguments.partitions, ..Options::default() };
    let load = live::Load { options, events: arguments.events, rate: arguments.rate };
    let outcome = live::run(screen, place, &pipeline, load).await?;

    let report = Report::new(outcome);
    screen.line(&report.table());
    queries::show(screen, &place.database_url).await?;
    screen.line(&place.farewell(&pipeline));
    report.verdict()
}

async fn clean(screen: &mut Screen) -> Result<()> {
    // A KUBECONFIG without the rest is somebody's usual one, and nothing of ours is there.
    if let Ok(Some(place)) = Place::external() {
        screen.step("Operator and pipeline removed from your cluster", install::remove(&place)).await?;
        screen.line("  Your Kafka topic and PostgreSQL tables are left as they are.");
    }
    screen.step("Servers stopped, their data removed", place::stop_servers()).await
}
