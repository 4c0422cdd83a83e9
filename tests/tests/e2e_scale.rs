//! Many pipelines, one controller: what it costs to look after them while nothing happens.
//!
//! `PIPELINES=1000` is the promise of the design; fewer by default. Each has a topic of twelve partitions to look at, a group of its
//! own, and a Secret, both of which it shares with some others. It is measured twice: when everything has just been brought about,
//! and minutes later, when the recordings of decisions have filled the room that they have (`RECORDED_SECONDS`).

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
/// How long nothing happens while the controller is watched for the first time, …
const QUIET: Duration = Duration::from_secs(30);
/// … and how long afterwards, unless something else is asked for.
const RECORDED_SECONDS: u64 = 360;
/// Figures alone are written every ten seconds at most; after this long without a write none is due.
const STILL: Duration = Duration::from_secs(15);
/// Partitions that each pipeline looks at.
const PARTITIONS: i32 = 12;
/// So many topics and Secrets do all pipelines have together.
const TOPICS: usize = 8;
const SECRETS: usize = 12;
/// Kinds of objects that nobody else writes here: the API server's own count of writes to them is the controller's.
const WRITTEN: [&str; 8] = [
    "analyticspipelines",
    "configmaps",
    "deployments",
    "jobs",
    "networkpolicies",
    "poddisruptionbudgets",
    "serviceaccounts",
    "services",
];
/// What the design promises for 1,000 pipelines: resident bytes, share of a core, writes, seconds until each is decided on.
const MEMORY: u64 = 64 << 20;
const SHARE: f64 = 0.05;
const WRITES: f64 = 0.0;
const ROUND: f64 = 10.0;
const MIB: f64 = (1 << 20) as f64;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_idle_pipeline_costs_next_to_nothing() -> Result<()> {
    let count: usize = std::env::var("PIPELINES").map_or(Ok(150), |text| text.parse())?;
    let bed = Testbed::start(TestbedOptions::default()).await?;
    let client = bed.cluster.client().await?;
    let crd = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/analyticspipelines.yaml");
    bed.cluster.kubectl(&["apply", "--server-side", "-f", crd]).await?;
    bed.cluster.create_namespace(NAMESPACE).await?;
    for number in 0..TOPICS {
        bed.kafka.create_topic(&format!("events{number}"), PARTITIONS).await?;
    }
    for number in 0..SECRETS {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": format!("db{number}")}, "stringData": {"url": bed.postgres.url()}
        }))?;
        Api::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &secret).await?;
    }
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

    let recorded = std::env::var("RECORDED_SECONDS").map_or(Ok(RECORDED_SECONDS), |text| text.parse())?;
    let costs = [("at first", QUIET), ("with full recordings", Duration::from_secs(recorded))];
    let mut missed = Vec::new();
    for (when, time) in costs {
        let before = Cost::of(&controller, port.number(), &client).await?;
        tokio::time::sleep(time).await;
        let after = Cost::of(&controller, port.number(), &client).await?;
        eprintln!("{count} idle pipelines of {PARTITIONS} partitions, {when}, for {} s:", time.as_secs());
        missed.extend(judge(&before, &after, time, port.number(), count).await?);
        controller.check()?;
    }
    ensure!(missed.is_empty(), "{missed:?}");
    Ok(())
}

// Which of the goals are missed.
async fn judge(
    before: &Cost,
    after: &Cost,
    time: Duration,
    port: u16,
    count: usize,
) -> Result<Vec<&'static str>> {
    let share = (after.processor_seconds - before.processor_seconds) / time.as_secs_f64();
    let rounds = rounds(port, count).await?;
    eprintln!(
        "  {} threads, {:.0} reconciles/s, {:.2} MiB of recordings",
        after.threads,
        (after.reconciles - before.reconciles) / time.as_secs_f64(),
        rounds.bytes as f64 / MIB,
    );
    ensure!(after.reconciles > before.reconciles, "it looks at the lag all the time");
    ensure!(after.threads < 64, "{} threads: a client for each group?", after.threads);
    let goals = [
        tell("memory", after.memory as f64 / MIB, MEMORY as f64 / MIB, "MiB"),
        tell("processor", share * 100.0, SHARE * 100.0, "% of a core"),
        tell("writes", after.writes - before.writes, WRITES, "to the API server, by its own count"),
        tell(
            "decision round",
            rounds.longest,
            ROUND,
            &format!("s at most between two of {} decisions", rounds.decisions),
        ),
    ];
    Ok(goals.into_iter().flatten().collect())
}

// Gives the name back if the goal is missed.
fn tell(what: &'static str, measured: f64, goal: f64, unit: &str) -> Option<&'static str> {
    let missed = (measured > goal).then_some(what);
    let verdict = if missed.is_some() { "MISSED" } else { "met   " };
    eprintln!("  {verdict} {what}: {measured:.1} {unit} (goal: {goal:.0})");
    missed
}

/// The latest decisions as the controller has recorded them.
#[derive(Default)]
struct Rounds {
    decisions: usize,
    /// The longest time between two on one pipeline.
    longest: f64,
    bytes: usize,
}

async fn rounds(port: u16, count: usize) -> Result<Rounds> {
    let mut rounds = Rounds::default();
    for number in 0..count {
        let (status, text) = http::get(port, &format!("/decisions/{NAMESPACE}/p{number}")).await?;
        ensure!(status == 200, "nothing is recorded of p{number}: {text}");
        let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
        let lines: Vec<_> = lines.collect::<Result<_, _>>()?;
        let times: Vec<f64> = lines.iter().filter_map(|line| line["seen"]["time"].as_f64()).collect();
        // Older ones were made while everything was still being set up.
        let latest = &times[times.len().saturating_sub(5)..];
        let longest = latest.windows(2).map(|pair| pair[1] - pair[0]).fold(rounds.longest, f64::max);
        rounds =
            Rounds { decisions: rounds.decisions + latest.len(), longest, bytes: rounds.bytes + text.len() };
    }
    Ok(rounds)
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
    let made =
        futures::stream::iter(0..count).map(|number| {
            let object = json!({
                "apiVersion": "analyticspipeline.dev/v1alpha1",
                "kind": "AnalyticsPipeline",
                "metadata": {"name": format!("p{number}")},
                "spec": {
                    "source": {
                        "bootstrapServers": brokers,
                        "topic": format!("events{}", number % TOPICS),
                        "groupId": format!("g{number}")
                    },
                    "sink": {"urlSecretRef": {"name": format!("db{}", number % SECRETS)}},
                    "suspend": true
                }
            });
            let api = api.clone();
            async move {
                api.patch(&format!("p{number}"), &PatchParams::apply("user"), &Patch::Apply(&object)).await
            }
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
    async fn of(controller: &Process, port: u16, client: &Client) -> Result<Self> {
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
            writes: writes(client).await?,
        })
    }
}

// As the API server counts them, so that none is left out that the controller does not count itself.
async fn writes(client: &Client) -> Result<f64> {
    let request = ::http::Request::get("/metrics").body(Vec::new())?;
    let metrics = client.request_text(request).await?;
    let of_ours = |line: &&str| {
        let verb = ["POST", "PUT", "PATCH", "APPLY", "DELETE"];
        line.starts_with("apiserver_request_total{")
            && verb.iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
            && WRITTEN.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
    };
    let lines = metrics.lines().filter(of_ours);
    let counts = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(counts.sum())
}

// Fields 14 and 15 of proc_pid_stat(5), in ticks of a hundredth of a second.
fn processor_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}
