//! What the README says, done to the letter.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use sqlx::PgPool;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Generator, Options};
use testbed::place::LATER;
use testbed::{cache, process, wait};
use tokio_util::sync::CancellationToken;

use crate::world::Place;

const README: &str = include_str!("../../../README.md");

/// The section about the resource: its description with other addresses, then its commands one after the other, then rows.
pub(crate) async fn a_stranger_gets_rows(place: &Place<'_>) -> Result<()> {
    let bed = &place.world.bed;
    bed.kafka.create_topic("user-events", 8).await?;
    let (_, section) = README.split_once("## The resource").context("no such section")?;
    let (_, block) = section.split_once("```yaml\n").context("no description")?;
    let (description, rest) = block.split_once("```\n").context("the description has no end")?;
    let brokers = bed.kafka.bootstrap_for_pods().context("no address for pods")?;
    let mut description = description.to_owned();
    for (written, own) in [
        ("kafka:9092", brokers.as_str()),
        ("postgres://analytics:secret@postgres:5432/analytics", &place.url_for_pods()?),
    ] {
        ensure!(description.contains(written), "the README lacks {written}");
        description = description.replace(written, own);
    }
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("pipeline.yaml"), description)?;
    let (section, _) = rest.split_once("\n## ").context("the section has no end")?;
    let commands: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("    kubectl ")).collect();
    ensure!(commands.len() >= 5, "hardly any commands: {commands:?}");
    let kubectl = cache::part("kubernetes")?.join("kubectl");
    for words in commands {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{} {words}", kubectl.display()));
        command.current_dir(folder.path()).env("KUBECONFIG", bed.cluster.kubeconfig());
        process::output(command).await?;
    }
    rows(place).await
}

async fn rows(place: &Place<'_>) -> Result<()> {
    let target = Target {
        brokers: place.world.bed.kafka.bootstrap(),
        topic: "user-events".to_owned(),
        events: 500,
        rate: None,
        dated_from: Some(Utc::now()),
        properties: Vec::new(),
    };
    let generator = Generator::new(Options { seed: 1, ..Options::default() })?;
    let counts = produce(generator, target, CancellationToken::new(), |_| {}).await?;
    let database: &PgPool = &place.database;
    wait::until_true("each event is a row", LATER, || async {
        let found: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(database).await?;
        ensure!(found == i64::try_from(counts.distinct)?, "{found} rows of {}", counts.distinct);
        Ok(true)
    })
    .await
}
