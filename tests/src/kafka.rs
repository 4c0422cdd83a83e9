//! Apache Kafka in KRaft mode: one or several brokers on this machine.

mod admin;
mod properties;

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::FutureProducer;
use rustix::process::Signal;

use crate::process::{self, Process, tied};
use crate::run::Run;
use crate::{cache, wait};
use properties::{Broker, Ports};

/// What a test wants of its Kafka.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// How many brokers (each also a controller); internal topics have as many replicas, up to three.
    pub brokers: u16,
    /// Further or overriding lines of `server.properties`, for every broker.
    pub properties: Vec<(String, String)>,
    /// An address of this machine on which pods reach the brokers too, see [`crate::Node::host_address`].
    pub pod_address: Option<Ipv4Addr>,
    /// Heap of each broker, in megabytes.
    pub heap_megabytes: u32,
    /// Listeners beside the plain ones.
    pub listeners: Vec<Listener>,
    /// Users and their passwords, for the mechanisms SCRAM-SHA-256 and SCRAM-SHA-512.
    pub scram_users: Vec<(String, String)>,
}

/// A listener beside the plain ones.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name in capitals, such as `SECURE`.
    pub name: String,
    /// `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub protocol: String,
    /// The host name or address of this machine that it listens on and that clients are told.
    pub host: String,
    /// Its own properties, without the prefix `listener.name.<name>.`.
    pub properties: Vec<(String, String)>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            brokers: 1,
            properties: Vec::new(),
            pod_address: None,
            heap_megabytes: 512,
            listeners: Vec::new(),
            scram_users: Vec::new(),
        }
    }
}

/// Running brokers. Dropping kills them and removes their data.
#[derive(Debug)]
pub struct Kafka {
    options: KafkaOptions,
    brokers: Vec<Broker>,
    processes: Vec<Option<Process>>,
    run: Run,
}

/// How long a broker may take to answer: about 3 s on an idle machine, much more beside a compiler.
const START: Duration = Duration::from_secs(90);

/// Sixteen bytes in base 64, as Kafka wants it; no two of our clusters ever meet.
const CLUSTER_ID: &str = "dGVzdGJlZHRlc3RiZWQxMg";

impl Kafka {
    /// Starts the brokers and waits until each answers.
    ///
    /// # Errors
    /// When a broker does not start; the error holds the end of its log.
    pub async fn start(options: KafkaOptions) -> Result<Self> {
        ensure!(options.brokers > 0, "a Kafka without brokers cannot be started");
        let began = Instant::now();
        let run = Run::new("kafka")?;
        let brokers = (1..=options.brokers)
            .map(|id| {
                let ports = Ports::reserve(options.listeners.len())?;
                Ok(Broker { id, ports, folder: run.path().join(format!("broker-{id}")) })
            })
            .collect::<Result<Vec<_>>>()?;
        let processes = brokers.iter().map(|_| None).collect();
        let mut kafka = Self { options, brokers, processes, run };
        kafka.format().await?;
        kafka.launch()?;
        kafka.ready().await?;
        tracing::info!("Kafka answers after {:.1} s", began.elapsed().as_secs_f32());
        Ok(kafka)
    }

    /// The bootstrap servers for programs on this machine.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        join(self.brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.ports.host.number())))
    }

    /// The bootstrap servers for pods, if [`KafkaOptions::pod_address`] was given.
    #[must_use]
    pub fn bootstrap_for_pods(&self) -> Option<String> {
        let address = self.options.pod_address?;
        Some(join(self.brokers.iter().map(|broker| format!("{address}:{}", broker.ports.pods.number()))))
    }

    /// The bootstrap servers of one of [`KafkaOptions::listeners`].
    #[must_use]
    pub fn bootstrap_of(&self, listener: &str) -> Option<String> {
        let (index, found) =
            self.options.listeners.iter().enumerate().find(|(_, candidate)| candidate.name == listener)?;
        let port = |broker: &Broker| broker.ports.listeners[index].number();
        Some(join(self.brokers.iter().map(|broker| format!("{}:{}", found.host, port(broker)))))
    }

    /// Settings for an rdkafka client on this machine.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        // Brokers go up and down in tests: the default of up to 10 s between attempts would be mostly waiting.
        config.set("reconnect.backoff.max.ms", "500");
        config
    }

    /// An idempotent producer.
    ///
    /// # Errors
    /// When librdkafka refuses its settings.
    pub fn producer(&self) -> Result<FutureProducer> {
        let mut config = self.client_config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        config.create().context("failed to create a producer")
    }

    /// Gives a user of [`KafkaOptions::scram_users`] another password for SCRAM-SHA-512; connections that are open stay open.
    ///
    /// # Errors
    /// When Kafka's own tool fails; the error holds what it printed.
    pub async fn change_password(&self, user: &str, password: &str) -> Result<()> {
        let mut tool = java(64)?;
        tool.args(["kafka.admin.ConfigCommand", "--bootstrap-server"]).arg(self.bootstrap());
        tool.args(["--alter", "--entity-type", "users", "--entity-name", user, "--add-config"]);
        tool.arg(format!("SCRAM-SHA-512=[password={password}]"));
        process::output(tool).await.map(drop)
    }

    /// Stops every broker in good order (SIGTERM).
    ///
    /// # Errors
    /// When a broker's state cannot be read.
    pub async fn stop(&mut self) -> Result<()> {
        for index in 0..self.processes.len() {
            self.stop_broker(index).await?;
        }
        Ok(())
    }

    /// Stops one broker in good order.
    ///
    /// # Errors
    /// When its state cannot be read.
    pub async fn stop_broker(&mut self, index: usize) -> Result<()> {
        if let Some(mut process) = self.processes[index].take() {
            process.stop(Signal::TERM, Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// Kills every broker (SIGKILL).
    pub fn kill(&mut self) {
        self.processes.iter_mut().for_each(|process| drop(process.take()));
    }

    /// Kills one broker (SIGKILL).
    pub fn kill_broker(&mut self, index: usize) {
        drop(self.processes[index].take());
    }

    /// How many brokers there are, running or not.
    #[must_use]
    pub fn broker_count(&self) -> usize {
        self.brokers.len()
    }

    /// Sends a signal to one broker, such as SIGSTOP: to everybody else it is cut off then, and does not know it.
    pub fn signal_broker(&self, index: usize, signal: Signal) {
        if let Some(process) = &self.processes[index] {
            process.signal(signal);
        }
    }

    /// Starts what is not running, on the same data and ports, and waits until every broker answers.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.launch()?;
        self.ready().await
    }

    /// Runs Kafka's own `StorageTool`, which writes the cluster id that a broker insists on.
    async fn format(&self) -> Result<()> {
        let format = self.brokers.iter().map(|broker| async {
            std::fs::create_dir_all(&broker.folder)?;
            let text = properties::render(broker, &self.brokers, &self.options);
            std::fs::write(broker.properties_file(), text)?;
            let mut tool = java(64)?;
            tool.arg("kafka.tools.StorageTool").args(["format", "--cluster-id", CLUSTER_ID, "--config"]);
            tool.arg(broker.properties_file());
            for (user, password) in &self.options.scram_users {
                for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                    tool.arg("--add-scram").arg(format!("{mechanism}=[name={user},password={password}]"));
                }
            }
            process::output(tool).await.map(drop)
        });
        futures::future::try_join_all(format).await.map(drop)
    }

    fn launch(&mut self) -> Result<()> {
        for (broker, slot) in self.brokers.iter().zip(&mut self.processes) {
            if slot.is_none() {
                let mut command = java(self.options.heap_megabytes)?;
                command.arg("kafka.Kafka").arg(broker.properties_file());
                let name = format!("Kafka broker {}", broker.id);
                *slot = Some(Process::start(
                    &name,
                    command,
                    &self.run.path().join(format!("{}.log", broker.id)),
                )?);
            }
        }
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let expected = self.brokers.len();
        let admin = self.admin()?;
        let processes = &mut self.processes;
        wait::until("Kafka answers", START, || {
            let died = processes.iter_mut().flatten().find_map(|process| process.check().err());
            let admin = admin.clone();
            async move {
                match died {
                    Some(error) => Ok(Some(Err(error))),
                    None => Ok((admin.broker_count().await? == expected).then_some(Ok(()))),
                }
            }
        })
        .await?
    }
}

fn join(addresses: impl Iterator<Item = String>) -> String {
    addresses.collect::<Vec<_>>().join(",")
}

fn java(heap_megabytes: u32) -> Result<Command> {
    let mut command = tied("KILL", "java");
    command.arg(format!("-Xmx{heap_megabytes}m"));
    // Quick to start, few threads: the broker shares two cores with everything else.
    command.args(["-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.showDateTime=true"]);
    // The archive is good for exactly this class path; where it does not fit or is missing, Java goes without.
    command.args(["-XX:SharedArchiveFile=classes.jsa", "-cp", "libs/*"]).current_dir(cache::part("kafka")?);
    Ok(command)
}
