//! A controller that is killed in the middle of its work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use serde_json::{Value, json};
use testbed::place::LATER;
use testbed::process::{Process, tied};
use testbed::{Image, controller_binary, wait};

use crate::world::OPERATOR;
use crate::world::Place;

const PIPELINE: &str = "clicks";
const ROUNDS: u32 = 10;
/// A reconcile that changes everything takes less than this on an idle machine.
const LATEST: Duration = Duration::from_millis(900);
/// Everything that a pipeline is made of.
const KINDS: &str =
    "deployments,jobs,services,configmaps,serviceaccounts,poddisruptionbudgets,networkpolicies";
/// What differs between two objects that are the same.
const INCIDENTAL: [&str; 11] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "status",
    "clusterIP",
    "clusterIPs",
    "deployment.kubernetes.io/revision",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
];

/// Round after round something of everything changes, and the controller dies by kill -9 at some moment of bringing it about.
/// One that is left alone then makes the same objects of it as one that never died, and no event is lost or stored twice.
pub(crate) async fn a_controller_killed_at_any_moment_converges(place: &Place<'_>) -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("disturbed: SEED={seed} kills at the same moments again");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for round in 1..=ROUNDS {
        change(place, round).await?;
        let mut controller = Controller::start(place)?;
        controller.leads().await.with_context(|| format!("round {round}"))?;
        tokio::time::sleep(LATEST.mul_f64(random.random())).await;
        controller.process.kill();
    }

    let mut controller = Controller::start(place)?;
    let rows = settled(place, 1).await.with_context(|| format!("SEED={seed}"))?;
    let disturbed = objects(place).await?;
    ensure!(disturbed.len() == 7, "one object of each kind: {:?}", disturbed.keys());

    place.pipelines().delete(PIPELINE, &DeleteParams::default()).await?;
    wait::until_true("everything is gone", LATER, || async { Ok(objects(place).await?.is_empty()) }).await?;
    change(place, ROUNDS).await?;
    let more = settled(place, 2).await?;
    let undisturbed = objects(place).await?;
    for (name, object) in &undisturbed {
        let found = disturbed.get(name);
        ensure!(found == Some(object), "SEED={seed}: {name} should be\n{object:#}\nand is\n{found:#?}");
    }
    place.stored(rows + more).await?;
    // In good order, so that the Lease is given back.
    ensure!(controller.process.stop(Signal::TERM, LATER).await?, "the controller did not end");
    Ok(())
}

/// Each round is another specification: settings, number, budget, network and, every other time, the way to the database, for
/// which tables are prepared anew. The last one has everything.
async fn change(place: &Place<'_>, round: u32) -> Result<()> {
    let parameters = format!("?application_name=round{}", round / 2);
    place.secret("analytics-db", json!({"url": place.url("", &parameters)?})).await?;
    let mode = if round.is_multiple_of(2) { "Enabled" } else { "Disabled" };
    let spec = json!({
        "delivery": {"batch": {"maxEvents": 1_000 + round}},
        "scaling": {"mode": "Fixed", "replicas": 1 + (round + 1) % 2},
        "networkPolicy": {"mode": mode},
    });
    place.apply(&place.pipeline(PIPELINE, spec)?).await
}

/// Waits until the pipeline is as it should be and stores events; gives back how many rows there shall be of them.
async fn settled(place: &Place<'_>, seed: u64) -> Result<i64> {
    place.condition(PIPELINE, "Reconciled", "True", "AsExpected").await?;
    place.condition(PIPELINE, "Migrated", "True", "MigrationSucceeded").await?;
    let rows = place.produce(seed, 1_000).await?;
    wait::until_true("the consumers are as described", LATER, || async {
        let deployment = place.deployment(PIPELINE).await?;
        let status = deployment.status.unwrap_or_default();
        let counts = [status.replicas, status.updated_replicas, status.ready_replicas];
        let current = status.observed_generation == deployment.metadata.generation;
        ensure!(current && counts == [Some(2); 3], "replicas, updated, ready: {counts:?}");
        // Jobs of rounds before are removed.
        Ok(objects(place).await?.len() == 7)
    })
    .await?;
    Ok(rows)
}

/// A controller beside the cluster, with an administrator's rights, for this namespace alone.
struct Controller {
    process: Process,
    log: PathBuf,
}

impl Controller {
    fn start(place: &Place<'_>) -> Result<Self> {
        let mut command = tied("KILL", controller_binary()?);
        command.env_clear().env("KUBECONFIG", place.world.cluster.kubeconfig());
        for (name, value) in [
            ("WATCH_NAMESPACE", place.namespace.as_str()),
            ("POD_NAMESPACE", OPERATOR),
            ("POD_NAME", "disturbed"),
            ("LEASE_NAME", "disturbed"),
            ("CONSUMER_IMAGE", Image::NAME),
            ("METRICS_PORT", "0"),
            ("POLL_INTERVAL_SECONDS", "1"),
        ] {
            command.env(name, value);
        }
        let node = place.world.cluster.node().context("the cluster is our own")?;
        let log = node.log(&format!("controller-{}", number()));
        Ok(Self { process: Process::start("controller", command, &log)?, log })
    }

    /// Waits until it has the Lease, after which it begins to work.
    async fn leads(&mut self) -> Result<()> {
        wait::until_true("the controller leads", LATER, || {
            let running = self.process.check();
            let log = &self.log;
            async move {
                running?;
                Ok(std::fs::read_to_string(log)?.contains("Leading"))
            }
        })
        .await
    }
}

/// A log of its own for each controller.
fn number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What the pipeline is made of, by kind and name, without what is incidental.
async fn objects(place: &Place<'_>) -> Result<BTreeMap<String, Value>> {
    let selector = format!("--selector=app.kubernetes.io/instance={PIPELINE}");
    let words = ["--namespace", &place.namespace, "get", KINDS, &selector, "--output=json"];
    let list: Value = serde_json::from_str(&place.world.cluster.kubectl(&words).await?)?;
    let items = list["items"].as_array().context("no list of objects")?.iter().cloned();
    Ok(items
        .map(|mut object| {
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            strip(&mut object);
            (name, object)
        })
        .collect())
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !INCIDENTAL.contains(&key.as_str()));
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
