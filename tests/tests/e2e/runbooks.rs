//! The runbooks, tried: each failure is caused, and the first three commands of its page, run as they stand there, must lead
//! to the cause. `make check-runbooks` runs this by hand; it takes minutes.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use futures::future::FutureExt;
use futures::stream::{self, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use testbed::dashboards::repository;
use testbed::place::{CONSUMERS, LATER};
use testbed::{cache, process, wait};
use tokio::sync::Mutex;

use crate::causes;
use crate::world::{Place, World};
use testbed::scenario::{Named, Scenario};

/// Namespace, and the failure that is caused there; a cause tries the runbooks it leads to.
const CAUSES: [Named<World>; 15] = [
    ("blocked", |place| causes::a_table_is_locked(place).boxed()),
    ("slow", |place| causes::consumers_are_too_slow(place).boxed()),
    ("hot", |place| causes::all_events_have_one_key(place).boxed()),
    ("letters", |place| causes::a_producer_sends_nonsense(place).boxed()),
    ("silent", |place| causes::nobody_sends_anything(place).boxed()),
    ("gap", |place| causes::retention_has_passed_the_offset(place).boxed()),
    ("lost", |place| causes::retention_has_taken_records(place).boxed()),
    ("blind", |place| causes::the_topic_is_missing(place).boxed()),
    ("migration", |place| causes::the_password_is_wrong(place).boxed()),
    ("missing", |place| causes::a_secret_is_missing(place).boxed()),
    ("refused", |place| causes::a_column_has_another_name(place).boxed()),
    ("crowded", |place| causes::there_are_no_connections_left(place).boxed()),
    ("crashing", |place| causes::a_setting_is_malformed(place).boxed()),
    ("frozen", |place| causes::a_process_hangs(place).boxed()),
    ("closed", |place| causes::the_database_is_closed(place).boxed()),
];

/// Clusters are small: so many failures at a time.
const AT_ONCE: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "by hand: make check-runbooks"]
async fn the_first_commands_of_each_runbook_lead_to_the_cause() -> Result<()> {
    let world = World::start().await?;
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    let is_wanted = |name: &str| wanted.split(',').any(|part| name.contains(part));
    let chosen = CAUSES.iter().filter(|(name, _)| is_wanted(name));
    let mut failed: Vec<String> = stream::iter(chosen)
        .map(|(name, cause)| play(&world, name, *cause))
        .buffer_unordered(AT_ONCE)
        .filter_map(|outcome| async { outcome.err().map(|error| format!("{error:#}")) })
        .collect()
        .await;
    // One after the other: each takes something away that all need, the controller or the connections of the database.
    let alone: [Named<World>; 4] = [
        ("greedy", |place| causes::another_program_takes_the_connections(place).boxed()),
        ("foreign", |place| causes::an_object_belongs_to_another(place).boxed()),
        ("leaderless", |place| causes::the_lease_is_forbidden(place).boxed()),
        ("absent", |place| causes::there_is_no_controller(place).boxed()),
    ];
    for (name, cause) in alone.into_iter().filter(|(name, _)| is_wanted(name)) {
        failed.extend(play(&world, name, cause).await.err().map(|error| format!("{error:#}")));
    }
    ensure!(failed.is_empty(), "{} failed:\n\n{}", failed.len(), failed.join("\n\n"));
    Ok(())
}

async fn play(world: &World, name: &str, cause: Scenario<World>) -> Result<()> {
    let place = Place::make(world, name).await?;
    let outcome = cause(&place).await;
    // Others need the machine.
    let _ = place.kubectl(&["delete", "apl", "--all", "--wait=false"]).await;
    outcome.with_context(|| format!("cause {name}"))
}

/// Runs the first three commands of an alert's runbook until what they print together holds all of `words`.
pub(crate) async fn tried(place: &Place<'_>, pipeline: &str, alert: &str, words: &[&str]) -> Result<()> {
    let commands = commands(alert)?;
    let (commands, last) = (&commands, &Mutex::new(String::new()));
    let found = wait::until_true(&format!("{alert}: {words:?}"), LATER, || async move {
        let (mut shown, mut silent) = (String::new(), Vec::new());
        for line in commands {
            let said = run(place, pipeline, line).await?;
            if said.trim().is_empty() {
                silent.push(line);
            }
            shown.push_str(&format!("$ {line}\n{said}\n"));
        }
        last.lock().await.clone_from(&shown);
        ensure!(silent.is_empty(), "{silent:?} print nothing");
        // A command may hold the word that its answer shall hold.
        let answers: String =
            shown.lines().filter(|line| !line.starts_with("$ ")).collect::<Vec<_>>().join("\n");
        let missing: Vec<_> = words.iter().filter(|word| !answers.contains(**word)).collect();
        ensure!(missing.is_empty(), "{missing:?} is not in what was printed");
        Ok(true)
    })
    .await;
    eprintln!("=== {alert} ({})\n{}", if found.is_ok() { "ok" } else { "FAILED" }, last.lock().await);
    found
}

/// The first three commands of a page, as they stand there.
fn commands(alert: &str) -> Result<Vec<String>> {
    let page = std::fs::read_to_string(repository().join(format!("docs/runbooks/{alert}.md")))?;
    let block = page.split("```").nth(1).context("a runbook has commands")?;
    Ok(block.lines().skip(1).filter(|line| !line.trim().is_empty()).take(3).map(str::to_owned).collect())
}

/// Runs one line in a shell with the variables of the page set, and returns all that it prints. A command that reports a
/// failure by its exit code has done its work.
async fn run(place: &Place<'_>, pipeline: &str, line: &str) -> Result<String> {
    let bed = &place.world.bed;
    let kubectl = cache::part("kubernetes")?;
    let path = format!("{}:{}", kubectl.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("timeout");
    command.args(["60", "bash", "-c", &format!("exec 2>&1; {line} || true")]);
    command.env("PATH", path).env("KUBECONFIG", bed.cluster.kubeconfig());
    command.env("NS", &place.namespace).env("APL", pipeline).env("TOPIC", &place.topic).env("PARTITION", "0");
    command.env("POD", pod(place).await?.unwrap_or_default()).env("KAFKA_BROKERS", bed.kafka.bootstrap());
    command.env("DATABASE_URL", bed.postgres.url_of(&format!("{}_data", place.namespace)));
    process::output(command).await
}

/// A consumer, the one that is not well if there is one.
async fn pod(place: &Place<'_>) -> Result<Option<String>> {
    let api = Api::<Pod>::namespaced(place.world.client.clone(), &place.namespace);
    let pods = api.list(&ListParams::default().labels(CONSUMERS)).await?.items;
    let ready = place.pod_names().await?;
    let unwell = pods.iter().map(ResourceExt::name_any).find(|name| !ready.contains(name));
    Ok(unwell.or_else(|| ready.first().cloned()))
}
