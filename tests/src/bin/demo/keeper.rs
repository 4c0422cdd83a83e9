//! The servers outlive the demo's terminal: a process in the background holds them, and a file says which.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use testbed::together::Endpoints;
use testbed::{Image, PostgresOptions, Testbed, TestbedOptions, process, run, wait};
use tokio::signal::unix::{SignalKind, signal};

/// How long the servers may take to start, the image build included.
const START: Duration = Duration::from_secs(240);
/// How long they may take to stop before they are killed.
const STOP: Duration = Duration::from_secs(60);

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    /// The process that holds the servers.
    process: u32,
    /// How to reach them, once they answer.
    endpoints: Option<Endpoints>,
}

/// The process that holds the demo's servers, if there is one.
pub(crate) fn find() -> Option<u32> {
    let process = read().ok()?.process;
    // The number may have gone to another process since: only ours is called so.
    let command = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    command.split(|byte| *byte == 0).any(|word| word == b"hold").then_some(process)
}

/// Starts the servers in the background, in place of those of an earlier run, and waits until they answer.
///
/// A fresh start takes seconds and leaves nothing of the earlier run that could blur the numbers of this one.
pub(crate) async fn start() -> Result<Endpoints> {
    stop().await?;
    fs::create_dir_all(run::root())?;
    let mut child = spawn()?;
    wait::until("the servers are up", START, || {
        let ended = child.try_wait();
        async {
            if let Some(status) = ended? {
                return Ok(Some(Err(status)));
            }
            Ok(read()?.endpoints.map(Ok))
        }
    })
    .await?
    .or_else(|status| bail!("the servers could not be started ({status}):\n{}", process::tail(&log())))
}

/// Ends the servers, if they run, and waits until they are gone.
pub(crate) async fn stop() -> Result<()> {
    let Some(process) = find() else { return Ok(()) };
    send(process, Signal::TERM);
    let gone = wait::until_true("the demo's servers are gone", STOP, || async { Ok(find().is_none()) });
    if gone.await.is_err() {
        // The servers are tied to their keeper: they end with it.
        send(process, Signal::KILL);
        wait::until_true("the demo's servers are gone", STOP, || async { Ok(find().is_none()) }).await?;
    }
    let _ = fs::remove_file(file());
    Ok(())
}

/// Holds the servers until SIGTERM or SIGINT.
pub(crate) async fn hold() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut state = State { process: std::process::id(), endpoints: None };
    write(&state)?;
    let started = tokio::select! {
        started = Box::pin(start_servers()) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    state.endpoints = Some(started.endpoints()?);
    write(&state)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(started);
    Ok(())
}

async fn start_servers() -> Result<Testbed> {
    // As a production server would: the demo's rates are those of commits that wait for the disk.
    let postgres = PostgresOptions { durable: true, ..PostgresOptions::default() };
    let options = TestbedOptions { postgres, ..TestbedOptions::default() };
    let (testbed, image) = tokio::try_join!(Testbed::start(options), Image::build())?;
    testbed.cluster.load_image(image.archive()).await?;
    Ok(testbed)
}

fn spawn() -> Result<Child> {
    let log = File::create(log())?;
    // A session of its own: closing the terminal must not take the servers along.
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe()?).arg("hold");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().context("failed to start the process that holds the servers")
}

fn send(process: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(process.cast_signed()) {
        // An error says that it has ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

fn file() -> PathBuf {
    run::root().join("demo.json")
}

/// What the process that holds the servers says.
pub(crate) fn log() -> PathBuf {
    run::root().join("demo.log")
}

fn read() -> Result<State> {
    Ok(serde_json::from_str(&fs::read_to_string(file())?)?)
}

fn write(state: &State) -> Result<()> {
    let partial = file().with_extension("partial");
    fs::write(&partial, serde_json::to_string_pretty(state)?)?;
    fs::rename(partial, file()).context("failed to record the demo's servers")
}
