//! The consumer as a process of this machine, without Kubernetes around it.

use std::collections::BTreeMap;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::process::{Process, tied};
use crate::run::Run;
use crate::{Kafka, cache, http, wait};

/// A running consumer. Killed when dropped.
#[derive(Debug)]
pub struct Consumer {
    process: Process,
    port: crate::port::Port,
    run: Run,
}

/// Settings of a consumer under test: those that every test needs, and a few of its own.
#[derive(Clone, Debug)]
pub struct ConsumerOptions(BTreeMap<String, String>);

impl ConsumerOptions {
    /// A consumer of `topic` that writes to the database at `url`.
    #[must_use]
    pub fn new(kafka: &Kafka, topic: &str, url: &str) -> Self {
        Self(BTreeMap::new())
            .with("KAFKA_BROKERS", kafka.bootstrap())
            .with("KAFKA_TOPIC", topic)
            .with("KAFKA_GROUP_ID", format!("{topic}-group"))
            .with("DATABASE_URL", url)
    }

    /// With one more setting, or another value of one.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // numbers and texts are written where they are used
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// A command that runs the consumer with these settings and `arguments`, and nothing else of this environment.
    ///
    /// # Errors
    /// When the consumer has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = tied("KILL", cache::consumer_binary()?);
        command.args(arguments).env_clear().envs(&self.0).env("RUST_BACKTRACE", "1");
        Ok(command)
    }
}

impl Consumer {
    /// Starts a consumer; it may not be ready yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, options: &ConsumerOptions) -> Result<Self> {
        let (port, run) = (crate::port::Port::reserve()?, Run::new("consumer")?);
        let options = options.clone().with("METRICS_PORT", port.number()).with("CONSUMER_INSTANCE", name);
        let process = Process::start(name, options.command(&[])?, &run.path().join("log"))?;
        Ok(Self { process, port, run })
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// When it does not within a minute, or the consumer has ended; the error holds the end of the log.
    pub async fn ready(&mut self) -> Result<()> {
        let port = self.port.number();
        let waited = wait::until_true("the consumer is ready", Duration::from_secs(60), || {
            let running = self.process.check();
            async move {
                running?;
                let (status, body) = http::get(port, "/readyz").await?;
                anyhow::ensure!(status == 200, "/readyz: {status} {body}");
                Ok(true)
            }
        });
        waited.await.with_context(|| format!("its log says:\n{}", self.process.tail()))
    }

    /// The port of its HTTP server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// A page of its HTTP server: status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(self.port.number(), path).await
    }

    /// The sum of all series of a metric whose text begins with `prefix` (name, or name and first labels).
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub async fn metric(&self, prefix: &str) -> Result<f64> {
        Ok(http::sum_of_series(&self.get("/metrics").await?.1, prefix))
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Resident memory in bytes: now, and at its highest.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kibibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default()
        };
        Ok((kibibytes("VmRSS:") * 1024, kibibytes("VmHWM:") * 1024))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until("the consumer ends", limit, || {
            let ended = self.process.ended();
            async { ended }
        })
        .await
        .with_context(|| format!("its log says:\n{}", self.log()))
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.run.path().join("log")).unwrap_or_default()
    }
}
