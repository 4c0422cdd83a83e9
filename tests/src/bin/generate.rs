//! Fills a Kafka topic with believable events and says exactly what it sent.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Parser;
use rdkafka::config::ClientConfig;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options, topic};
use tokio_util::sync::CancellationToken;

/// Fills a Kafka topic with believable events: seven types, duplicates and malformed records included.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Kafka's bootstrap servers.
    #[arg(long, env = "KAFKA_BROKERS", default_value = "localhost:9092")]
    brokers: String,
    /// The topic; it must exist, unless --create makes it.
    #[arg(long, env = "KAFKA_TOPIC", default_value = "user-events")]
    topic: String,
    /// Create the topic first, with so many partitions.
    #[arg(long, value_name = "PARTITIONS")]
    create: Option<i32>,
    /// Partitions to spread users over; by default all that the topic has.
    #[arg(long)]
    partitions: Option<i32>,
    /// How many records to send.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Records per second; without it, as fast as possible.
    #[arg(long)]
    rate: Option<f64>,
    /// The same seed (with --dated-from) gives the same bytes; by default the clock chooses, so each run is new.
    #[arg(long)]
    seed: Option<u64>,
    /// Distinct users.
    #[arg(long, default_value_t = 10_000)]
    users: usize,
    /// How much busier some users are than others: the exponent of Zipf's law. 0 makes all alike, and so the partitions.
    #[arg(long, default_value_t = 1.0)]
    exponent: f64,
    /// Date events evenly over so many hours back; 0 dates them now.
    #[arg(long, default_value_t = 24.0)]
    spread_hours: f64,
    /// Date events back from this moment (RFC 3339) instead of from now.
    #[arg(long)]
    dated_from: Option<DateTime<Utc>>,
    /// Share of records that repeat an earlier one, 0 to 1.
    #[arg(long, default_value_t = 0.02)]
    duplicates: f64,
    /// Share of records that cannot be stored, 0 to 1.
    #[arg(long, default_value_t = 0.005)]
    malformed: f64,
    /// A librdkafka setting, as NAME=VALUE; may be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
}

fn property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main]
#[allow(clippy::print_stderr)] // one line on standard error is how a command fails
async fn main() -> ExitCode {
    match perform().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("generate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn perform() -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,librdkafka=error".to_owned());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let options = options(&arguments).await?;
    let target = target(&arguments)?;
    let seed = options.seed;
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let counts = produce(Generator::new(options)?, target, stop, |_| {}).await?;
    report(&arguments, seed, &counts)
}

#[allow(clippy::print_stdout)] // the counts are this program's output
fn report(arguments: &Arguments, seed: u64, counts: &testbed::generator::Counts) -> anyhow::Result<()> {
    if arguments.json {
        let mut value = serde_json::to_value(counts)?;
        value["seed"] = seed.into();
        value["produced"] = counts.produced().into();
        println!("{value}");
    } else {
        println!("seed        {seed:>10}");
        print!("{counts}");
    }
    Ok(())
}

async fn options(arguments: &Arguments) -> anyhow::Result<Options> {
    let spread = Duration::try_from_secs_f64(arguments.spread_hours * 3600.0)
        .with_context(|| format!("--spread-hours {} is no length of time", arguments.spread_hours))?;
    let partitions = partitions(arguments).await?;
    // A second is fine enough: two runs by hand are further apart.
    let seed = arguments.seed.unwrap_or_else(|| Utc::now().timestamp().unsigned_abs());
    Ok(Options {
        seed,
        partitions,
        users: arguments.users,
        exponent: arguments.exponent,
        spread,
        duplicates: arguments.duplicates,
        malformed: arguments.malformed,
    })
}

async fn partitions(arguments: &Arguments) -> anyhow::Result<i32> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &arguments.brokers);
    for (name, value) in &arguments.properties {
        config.set(name, value);
    }
    match (arguments.create, arguments.partitions) {
        (Some(partitions), _) => {
            topic::create(&config, &arguments.topic, partitions).await.map(|()| partitions)
        }
        (None, Some(partitions)) => Ok(partitions),
        (None, None) => topic::partitions(&config, &arguments.topic).await,
    }
}

fn target(arguments: &Arguments) -> anyhow::Result<Target> {
    if let Some(rate) = arguments.rate {
        anyhow::ensure!(rate.is_finite() && rate > 0.0, "--rate must be above 0, not {rate}");
    }
    Ok(Target {
        brokers: arguments.brokers.clone(),
        topic: arguments.topic.clone(),
        events: arguments.events,
        rate: arguments.rate,
        dated_from: arguments.dated_from,
        properties: arguments.properties.clone(),
    })
}
