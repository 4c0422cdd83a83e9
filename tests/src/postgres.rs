//! PostgreSQL with a database of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool};

use crate::port::Port;
use crate::process::{self, Process};
use crate::run::Run;
use crate::wait;

/// Name of the superuser, of its password and of the first database.
pub const NAME: &str = "analytics";

/// What a test wants of its PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Whether commits wait for the disk. Without, data survives `kill -9` of the server but not of the machine.
    pub durable: bool,
    /// Further or overriding lines of `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// An address of this machine on which pods reach the server too, see [`crate::Node::host_address`].
    pub pod_address: Option<Ipv4Addr>,
}

/// A running server. Dropping kills it and removes its data.
#[derive(Debug)]
pub struct Postgres {
    port: Port,
    pod_address: Option<Ipv4Addr>,
    programs: PathBuf,
    process: Option<Process>,
    run: Run,
}

const START: Duration = Duration::from_secs(60);

impl Postgres {
    /// Initialises and starts a server and waits until it answers.
    ///
    /// # Errors
    /// When it does not start; the error holds the end of its log.
    pub async fn start(options: PostgresOptions) -> Result<Self> {
        let began = Instant::now();
        let run = Run::new("postgres")?;
        let programs = find_programs(Path::new("/usr/lib/postgresql"))?;
        let pod_address = options.pod_address;
        let mut server = Self { port: Port::reserve()?, pod_address, programs, process: None, run };
        server.initialise().await?;
        std::fs::write(server.data().join("postgresql.auto.conf"), server.settings(&options))?;
        server.restart().await?;
        server.create_database(NAME).await?;
        tracing::info!("PostgreSQL answers after {:.1} s", began.elapsed().as_secs_f32());
        Ok(server)
    }

    /// The address of the first database for programs on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// The address of another database for programs on this machine.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        address(Ipv4Addr::LOCALHOST, self.port.number(), database)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The address of the first database by way of another port of this machine, such as that of a [`crate::Proxy`].
    #[must_use]
    pub fn url_by_way_of(&self, port: u16) -> String {
        address(Ipv4Addr::LOCALHOST, port, NAME)
    }

    /// The address of the first database for pods, if [`PostgresOptions::pod_address`] was given.
    #[must_use]
    pub fn url_for_pods(&self) -> Option<String> {
        Some(address(self.pod_address?, self.port.number(), NAME))
    }

    /// Connections to the first database.
    ///
    /// # Errors
    /// When the server is down.
    pub async fn pool(&self) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(5));
        let pool = pool.connect(&self.url()).await;
        pool.with_context(|| format!("failed to connect to {}", self.url()))
    }

    /// Creates another, empty database, such as one per test, and returns its address for programs on this machine.
    ///
    /// # Errors
    /// When it exists.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        let url = self.url_of("postgres");
        let mut connection = url.parse::<PgConnectOptions>()?.connect().await?;
        let quoted = name.replace('"', "\"\"");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\""))).execute(&mut connection).await?;
        connection.close().await?;
        Ok(self.url_of(name))
    }

    /// Stops the server, cutting open connections (PostgreSQL's fast shutdown).
    ///
    /// # Errors
    /// When its state cannot be read.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::INT, Duration::from_secs(20)).await?;
        }
        Ok(())
    }

    /// Ends the server and every session at once, as a crash would (PostgreSQL's immediate shutdown).
    ///
    /// # Errors
    /// When its state cannot be read.
    pub async fn kill(&mut self) -> Result<()> {
        // SIGKILL would leave session processes that keep the next start waiting: those end by this signal only.
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::QUIT, Duration::from_secs(5)).await?;
        }
        Ok(())
    }

    /// Starts the server, if it does not run, on the same data and port, and waits until it answers.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_none() {
            let mut command = as_server_user(&self.programs.join("postgres"), &["--pdeathsig", "QUIT"]);
            command.arg("-D").arg(self.data());
            self.process = Some(Process::start("PostgreSQL", command, &self.run.path().join("log"))?);
        }
        let options: PgConnectOptions = self.url_of("postgres").parse()?;
        let process = &mut self.process;
        wait::until("PostgreSQL answers", START, || {
            let died = process.as_mut().and_then(|process| process.check().err());
            let options = options.clone();
            async move {
                match died {
                    Some(error) => Ok(Some(Err(error))),
                    None => Ok(Some(Ok(options.connect().await?.close().await?))),
                }
            }
        })
        .await?
    }

    fn data(&self) -> PathBuf {
        self.run.path().join("data")
    }

    async fn initialise(&self) -> Result<()> {
        let password = self.run.path().join("password");
        std::fs::write(&password, NAME)?;
        if is_root() {
            let mut make = Command::new("install");
            make.args(["-d", "-o", USER, "-m", "700"]).arg(self.data());
            process::output(make).await?;
        }
        let mut initdb = as_server_user(&self.programs.join("initdb"), &[]);
        initdb.args(["--no-sync", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]);
        initdb.arg("--username").arg(NAME).arg("--pwfile").arg(&password).arg("-D").arg(self.data());
        process::output(initdb).await.map(drop)
    }

    fn settings(&self, options: &PostgresOptions) -> String {
        let mut addresses = Ipv4Addr::LOCALHOST.to_string();
        if let Some(address) = options.pod_address {
            addresses = format!("{addresses},{address}");
            // Beside pg_hba.conf's own lines, which know only loopback.
            let rules = self.data().join("pg_hba.conf");
            if let Ok(text) = std::fs::read_to_string(&rules) {
                let _ = std::fs::write(&rules, format!("{text}host all all 198.18.0.0/15 scram-sha-256\n"));
            }
        }
        let mut lines = vec![
            ("port", self.port.number().to_string()),
            ("listen_addresses", addresses),
            ("unix_socket_directories", String::new()),
            ("max_connections", "200".to_owned()),
            ("shared_buffers", "256MB".to_owned()),
            ("max_wal_size", "4GB".to_owned()),
            ("log_lock_waits", "on".to_owned()),
        ];
        if !options.durable {
            // Not synchronous_commit: a crash of the server would then lose commits that a client has seen.
            lines.extend(["fsync", "full_page_writes"].map(|name| (name, "off".to_owned())));
        }
        lines.retain(|(key, _)| !options.settings.iter().any(|(other, _)| other == key));
        lines.extend(options.settings.iter().map(|(key, value)| (key.as_str(), value.clone())));
        lines.iter().map(|(key, value)| format!("{key} = '{}'\n", value.replace('\'', "''"))).collect()
    }
}

/// The user whom Debian's packages create; the server refuses to run as root.
const USER: &str = "postgres";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn as_server_user(program: &Path, options: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid", USER, "--regid", USER, "--init-groups"]);
    }
    // The folder of whoever runs the tests may be closed to the server's user.
    command.args(options).arg("--").arg(program).stdin(Stdio::null()).current_dir("/");
    command
}

fn address(host: Ipv4Addr, port: u16, database: &str) -> String {
    format!("postgres://{NAME}:{NAME}@{host}:{port}/{database}")
}

/// The programs of the newest version that Debian has installed, which are in no PATH.
fn find_programs(versions: &Path) -> Result<PathBuf> {
    let entries =
        std::fs::read_dir(versions).context("PostgreSQL is missing: run tests/setup/setup.sh debian")?;
    let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let found = entries.flatten().map(|entry| entry.path()).filter(|path| path.join("bin/initdb").is_file());
    let newest =
        found.max_by_key(version).context("PostgreSQL has no initdb: run tests/setup/setup.sh debian")?;
    Ok(newest.join("bin"))
}
