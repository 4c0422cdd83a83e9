//! Many pipelines, one controller: what it costs to look after them while nothing happens.
//!
//! `PIPELINES=1000` is the promise of the design; fewer by default, so that it takes a minute. Each has a topic of twelve
//! partitions to look at, and all read the same one, each by a group of its own.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use testbed::port::Port;
use testbed::process::{Process, tied};
use testbed::{Testbed, TestbedOptions, controller_binary, http, wait};

const NAMESPACE: &str = "many";
const SETTLED: Duration = Duration::from_secs(300);
/// How long nothing happens while the controller is watched.
const QUIET: Duration = Duration::from_secs(30);
/// Figures alone are written every ten seconds at most; after this long without a write none is due.
const STILL: Duration = Duration::from_secs(15);
/// Partitions that each pipeline looks at.
const PARTITIONS: i32 = 12;
/// What the design promises for 1,000 pipelines: resident bytes, share of a core, writes, seconds until each is decided on.
const MEMORY: u64 = 64 << 20;
const SHARE: f64 = 0.05;
const WRITES: f64 = 0.0;
const ROUND: f64 = 10.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_pipeline_costs_next_to_nothing() -> Result<()> {
    let count: usize = std::env::var("PIPELINES").map_or(Ok(150), |text| text.parse())?;
    let bed = Testbed::start(TestbedOptions::default()).await?;
    let client = bed.cluster.client().await?;
    let crd = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/analyticspipelines.yaml");
    bed.cluster.kubectl(&["apply", "--server-side", "-f", crd]).await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    bed.kafka.create_topic("events", PARTITIONS).await?;
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "db"}, "stringData": {"url": bed.postgres.url()}
    }))?;
    Api::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &secret).await?;
    let port = Port::reserve()?;
    let folder = tempfile::tempdir()?;
    let mut controller = start(&bed, port.number(), &folder.path().join("controller.log"))?;
    create(&client, &bed.kafka.bootstrap(), count).await?;
    let watched = async {
        settled(&client, count).await?;
        quiet(port.number()).await?;
        eprintln!("nothing is written any more");
        Ok::<_, anyhow::Error>(())
    };
    let outcome = watched.await;
    controller.check()?;
    outcome?;

    let before = Cost::of(&controller, port.number()).await?;
    tokio::time::sleep(QUIET).await;
    let after = Cost::of(&controller, port.number()).await?;

    let share = (after.processor_seconds - before.processor_seconds) / QUIET.as_secs_f64();
    let (rounds, longest) = rounds(port.number(), count).await?;
    let (memory, writes) = (after.memory as f64, after.writes - before.writes);
    eprintln!(
        "{count} idle pipelines of {PARTITIONS} partitions, for {} s: {} threads, {:.0} reconciles/s",
        QUIET.as_secs(),
        after.threads,
        (after.reconciles - before.reconciles) / QUIET.as_secs_f64(),
    );
    let mib = f64::from(1 << 20);
    tell("memory", memory / mib, MEMORY as f64 / mib, "MiB");
    tell("processor", share * 100.0, SHARE * 100.0, "% of a core");
    tell("writes", writes, WRITES, "to the API server");
    tell("decision round", longest, ROUND, &format!("s at most between two of {rounds} decisions"));
    ensure!(after.reconciles > before.reconciles, "it looks at the lag all the time");
    ensure!(writes == WRITES, "nothing changed, and something was written");
    ensure!(after.memory <= MEMORY, "{} bytes are resident", after.memory);
    ensure!(longest <= ROUND, "a pipeline was left alone for {longest} s");
    ensure!(after.threads < 64, "{} threads: a client for each group?", after.threads);
    Ok(())
}

fn tell(what: &str, measured: f64, goal: f64, unit: &str) {
    let verdict = if measured <= goal { "met   " } else { "MISSED" };
    eprintln!("  {verdict} {what}: {measured:.1} {unit} (goal: {goal:.0})");
}

// As the controller has recorded them: how many there are of all pipelines, and the longest time between two of one.
async fn rounds(port: u16, count: usize) -> Result<(usize, f64)> {
    let (mut decisions, mut longest) = (0, 0.0_f64);
    for number in 0..count {
        let (status, text) = http::get(port, &format!("/decisions/{NAMESPACE}/p{number}")).await?;
        ensure!(status == 200, "nothing is recorded of p{number}: {text}");
        let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
        let lines: Vec<_> = lines.collect::<Result<_, _>>()?;
        let times: Vec<f64> = lines.iter().filter_map(|line| line["seen"]["time"].as_f64()).collect();
        // Older ones were made while everything was still being set up.
        let latest = &times[times.len().saturating_sub(5)..];
        longest = latest.windows(2).map(|pair| pair[1] - pair[0]).fold(longest, f64::max);
        decisions += latest.len();
    }
    Ok((decisions, longest))
}

fn start(bed: &Testbed, port: u16, log: &Path) -> Result<Process> {
    let mut command = tied("TERM", controller_binary()?);
    command
        .env("KUBECONFIG", bed.cluster.kubeconfig())
        .env("METRICS_PORT", port.to_string())
        .env("CONSUMER_IMAGE", "none")
        .env_remove("POD_NAMESPACE");
    Process::start("controller", command, log)
}

// Suspended pipelines have all their objects and their lag is read, and no pods crowd the one node.
async fn create(client: &Client, brokers: &str, count: usize) -> Result<()> {
    let resource = kube::api::ApiResource::erase::<analytics_api::AnalyticsPipeline>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &resource);
    let started = Instant::now();
    let made = futures::stream::iter(0..count).map(|number| {
        let object = json!({
            "apiVersion": "analyticspipeline.dev/v1alpha1",
            "kind": "AnalyticsPipeline",
            "metadata": {"name": format!("p{number}")},
            "spec": {
                "source": {"bootstrapServers": brokers, "topic": "events", "groupId": format!("g{number}")},
                "sink": {"urlSecretRef": {"name": "db"}},
                "suspend": true
            }
        });
        let api = api.clone();
        async move { api.patch(&format!("p{number}"), &PatchParams::apply("user"), &Patch::Apply(&object)).await }
    });
    let outcomes: Vec<_> = made.buffer_unordered(16).collect().await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    eprintln!("{count} pipelines applied in {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

async fn settled(client: &Client, count: usize) -> Result<()> {
    let api = Api::<analytics_api::AnalyticsPipeline>::namespaced(client.clone(), NAMESPACE);
    let started = Instant::now();
    wait::until_true("every pipeline has its lag in its status", SETTLED, || async {
        let pipelines = api.list(&ListParams::default()).await?;
        let told = |pipeline: &analytics_api::AnalyticsPipeline| {
            pipeline
                .status
                .as_ref()
                .is_some_and(|status| status.lag.is_some() && status.observed_generation.is_some())
        };
        let done = pipelines.items.iter().filter(|pipeline| told(pipeline)).count();
        ensure!(done == count, "{done} of {count}");
        // Anything but a tight loop: the list of a thousand is no small thing.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(true)
    })
    .await?;
    eprintln!("{count} pipelines settled in {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

// What was written last comes back by the watches once more, and rates take a while to become known.
async fn quiet(port: u16) -> Result<()> {
    let last = Mutex::new((f64::NAN, Instant::now()));
    wait::until_true("nothing is written any more", SETTLED, || async {
        let metrics = http::get(port, "/metrics").await?.1;
        let writes = http::sum_of_series(&metrics, "analytics_controller_writes_total");
        let mut last = last.lock().map_err(|_| anyhow!("poisoned"))?;
        if last.0 != writes {
            *last = (writes, Instant::now());
        }
        let still = last.1.elapsed();
        ensure!(still > STILL, "the last of {writes} writes was {still:?} ago");
        Ok(true)
    })
    .await
}

struct Cost {
    processor_seconds: f64,
    memory: u64,
    threads: u64,
    reconciles: f64,
    writes: f64,
}

impl Cost {
    async fn of(controller: &Process, port: u16) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", controller.id()))?;
        let number = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        let metrics = http::get(port, "/metrics").await?.1;
        Ok(Self {
            processor_seconds: processor_seconds(controller.id())?,
            memory: number("VmRSS:")? * 1024,
            threads: number("Threads:")?,
            reconciles: http::sum_of_series(&metrics, "analytics_controller_reconciles_total"),
            writes: http::sum_of_series(&metrics, "analytics_controller_writes_total"),
        })
    }
}

// Fields 14 and 15 of proc_pid_stat(5), in ticks of a hundredth of a second.
fn processor_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
