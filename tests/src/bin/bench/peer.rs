//! The Go consumer of tests/peers/go: built once into the cache, then run like the consumer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testbed::process::{self, Process, tied};
use testbed::{cache, run};

use crate::bed::{Bed, Database};
use crate::load::Filled;

/// What the program is made of; another source is another folder in the cache.
const SOURCES: [&str; 3] = [
    include_str!("../../../peers/go/go.mod"),
    include_str!("../../../peers/go/go.sum"),
    include_str!("../../../peers/go/main.go"),
];

/// A running peer. Killed when dropped.
pub(crate) struct Peer {
    process: Process,
    _run: run::Run,
}

impl Peer {
    pub(crate) fn start(bed: &Bed, database: &Database, filled: &Filled, unique: bool) -> Result<Self> {
        let run = run::Run::new("peer")?;
        let mut command = tied("KILL", program()?);
        command
            .env_clear()
            .env("KAFKA_BROKERS", bed.kafka.bootstrap())
            .env("KAFKA_TOPIC", &filled.topic)
            .env("KAFKA_GROUP_ID", format!("{}-{}", filled.topic, database.name))
            .env("DATABASE_URL", &database.url)
            .env("PEER_EVENTS", filled.counts.produced().to_string())
            .env("PEER_UNIQUE", unique.to_string());
        let process = Process::start("the Go consumer", command, &run.path().join("log"))?;
        Ok(Self { process, _run: run })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has stored everything; it then waits, so that its use of CPU and memory can be read.
    pub(crate) fn is_done(&mut self) -> Result<bool> {
        self.process.check()?;
        Ok(self.process.tail().lines().any(|line| line == "done"))
    }
}

fn folder() -> Result<PathBuf> {
    let hash = blake3::hash(SOURCES.concat().as_bytes()).to_hex();
    Ok(cache::folder()?.join(format!("peer-go-{}", &hash[..16])))
}

fn program() -> Result<PathBuf> {
    Ok(folder()?.join("peer"))
}

/// Builds the peer unless the cache has it.
pub(crate) async fn build() -> Result<()> {
    let folder = folder()?;
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().context("the cache has a folder")?;
    std::fs::create_dir_all(parent)?;
    let partial = tempfile::Builder::new().prefix("peer-go-").tempdir_in(parent)?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/go");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o"])
        .arg(partial.path().join("peer"))
        .arg(".");
    process::output({
        go.current_dir(source).env("CGO_ENABLED", "0");
        go
    })
    .await
    .context("failed to build the Go consumer; without it: --only variants,partitions,latency,growth")?;
    // The folder takes its name only when complete; whoever was quicker has made the same.
    let _ = std::fs::rename(partial.keep(), &folder);
    Ok(())
}
