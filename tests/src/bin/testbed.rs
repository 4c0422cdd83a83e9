//! Keeps Kafka, PostgreSQL and a Kubernetes cluster running for the demo and for people.
#![allow(clippy::print_stdout)] // a command speaks on stdout

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use testbed::together::Endpoints;
use testbed::{Cluster, Image, PostgresOptions, Testbed, TestbedOptions, cache, run};
use tokio::signal::unix::{SignalKind, signal};

/// A real Kafka, PostgreSQL and Kubernetes on this machine.
#[derive(Debug, Parser)]
#[command(name = "testbed", version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start all three in the background and say how to reach them; at once when they run already.
    Up,
    /// Start all three and keep them until Ctrl-C or `testbed down`.
    Serve,
    /// Say how to reach them; exit code 1 when they do not run.
    Status,
    /// Stop all three, and remove what crashed test beds have left.
    Down,
    /// Build the image of the consumer and the controller and print the path of its docker archive.
    Image,
    /// Put the images of a docker archive on the running cluster's node.
    Load {
        /// The archive, such as `testbed image` prints.
        archive: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Action::Up => up(),
        Action::Serve => serve(),
        Action::Status => Ok(status()),
        Action::Down => down(),
        Action::Image => image(),
        Action::Load { archive } => load(&archive),
    }
}

fn up() -> Result<ExitCode> {
    if Endpoints::running().is_none() {
        run::sweep()?;
        let (mut server, log) = start_server()?;
        follow(&mut server, &log)?;
    }
    Ok(status())
}

/// Starts `testbed serve` so that it outlives this process and its terminal.
fn start_server() -> Result<(Child, PathBuf)> {
    let log = run::root().join("up.log");
    let output = File::create(&log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
    Ok((command.spawn().context("failed to start the server")?, log))
}

/// Shows the server's log line by line until it is up.
fn follow(server: &mut Child, log: &Path) -> Result<()> {
    let mut lines = BufReader::new(File::open(log)?);
    loop {
        let up = Endpoints::running().is_some();
        let ended = server.try_wait()?;
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            print!("{line}");
            line.clear();
        }
        if up {
            return Ok(());
        }
        if let Some(status) = ended {
            bail!("the test bed did not start ({status}); its log is {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a person looks at keeps what it has committed, unlike the databases of tests.
fn lasting() -> TestbedOptions {
    TestbedOptions {
        postgres: PostgresOptions { durable: true, ..PostgresOptions::default() },
        ..TestbedOptions::default()
    }
}

#[tokio::main]
async fn serve() -> Result<ExitCode> {
    let level =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "testbed=info".into());
    let timer = tracing_subscriber::fmt::time::uptime();
    tracing_subscriber::fmt()
        .with_env_filter(level)
        .with_ansi(false)
        .with_target(false)
        .with_timer(timer)
        .init();
    run::sweep()?;
    let lock = File::create(run::root().join("up.lock"))?;
    if lock.try_lock().is_err() {
        bail!("another `testbed serve` runs or starts");
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let testbed = tokio::select! {
        started = Box::pin(Testbed::start(lasting())) => started?,
        _ = terminate.recv() => return Ok(ExitCode::FAILURE),
        _ = interrupt.recv() => return Ok(ExitCode::FAILURE),
    };
    testbed.endpoints()?.record()?;
    tracing::info!("The test bed is up");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(testbed);
    std::fs::remove_file(Endpoints::file())?;
    Ok(ExitCode::SUCCESS)
}

fn status() -> ExitCode {
    let Some(endpoints) = Endpoints::running() else {
        println!("no test bed runs");
        return ExitCode::FAILURE;
    };
    println!("Kafka       {} (for pods {})", endpoints.kafka, endpoints.kafka_for_pods);
    println!("PostgreSQL  {} (for pods {})", endpoints.database_url, endpoints.database_url_for_pods);
    println!("Kubernetes  export KUBECONFIG={}", endpoints.kubeconfig.display());
    if let Ok(kubernetes) = cache::part("kubernetes") {
        println!("kubectl     {}", kubernetes.join("kubectl").display());
    }
    ExitCode::SUCCESS
}

fn down() -> Result<ExitCode> {
    if let Some(endpoints) = Endpoints::running() {
        let process =
            Pid::from_raw(endpoints.process.cast_signed()).context("the record names no process")?;
        kill_process(process, Signal::TERM)?;
        await_end(process)?;
        println!("the test bed is down");
    } else {
        println!("no test bed runs");
    }
    run::sweep()?;
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn image() -> Result<ExitCode> {
    println!("{}", Image::build().await?.archive().display());
    Ok(ExitCode::SUCCESS)
}

#[tokio::main]
async fn load(archive: &Path) -> Result<ExitCode> {
    let endpoints = Endpoints::running().context("no test bed runs: start one with `testbed up`")?;
    Cluster::running(&endpoints).load_image(archive).await?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for a process that is not our child.
fn await_end(process: Pid) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while test_kill_process(process).is_ok() {
        if Instant::now() > deadline {
            bail!("process {process:?} does not end; look at {}", run::root().join("up.log").display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
