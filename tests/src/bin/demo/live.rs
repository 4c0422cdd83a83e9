//! Sends the events and watches them arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use kube::runtime::watcher;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testbed::generator::produce::{Target, produce};
use testbed::generator::{Counts, Generator, Options};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::install::{NAMESPACE, Pipeline, TOPIC};
use crate::kafka::Observer;
use crate::place::Place;
use crate::report::{Outcome, Scale, grouped};
use crate::screen::Screen;

/// How often the live line changes.
const TICK: Duration = Duration::from_secs(1);
/// Without any progress for so long, the demo gives up.
const STALLED: Duration = Duration::from_secs(90);

/// After this the demo does not wait for consumers to go any longer.
const SETTLED: Duration = Duration::from_secs(120);

/// What to send.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) options: Options,
    pub(crate) events: u64,
    pub(crate) rate: f64,
}

/// What is there at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Snapshot {
    produced: u64,
    lag: Option<i64>,
    desired: i32,
    ready: i32,
    rows: i64,
    dead_letters: i64,
}

/// Produces everything and returns once it is stored.
pub(crate) async fn run(
    screen: &mut Screen,
    place: &Place,
    pipeline: &Pipeline,
    load: Load,
) -> Result<Outcome> {
    let began = Instant::now();
    let scales = Scales::watch(place, pipeline, began).await?;
    let eyes = Eyes {
        deployments: scales.deployments.clone(),
        name: scales.name.clone(),
        observer: Observer::new(&place.kafka, &pipeline.group, TOPIC, load.options.partitions)?,
        pool: PgPoolOptions::new().max_connections(1).connect_lazy(&place.database_url)?,
        produced: Arc::default(),
    };
    let production = start_producing(place, load, Arc::clone(&eyes.produced))?;
    let mut watch = Watch { began, looked: began, seen: Snapshot::default(), progress: began, peak: 0.0 };
    drain(screen, &eyes, &production, &mut watch).await?;
    let produced = production.await??;
    let seconds = began.elapsed().as_secs_f64();
    screen
        .finish(&format!("  ✓ {} events produced and stored  {seconds:.1} s", grouped(produced.produced())));
    settle(screen, &eyes, pipeline.min_replicas).await;
    let last = eyes.look().await;
    Ok(Outcome {
        produced,
        rows: last.rows,
        distinct_keys: distinct_keys(&eyes.pool).await?,
        dead_letters: last.dead_letters,
        lag: last.lag,
        seconds,
        peak: watch.peak,
        scales: scales.stop(),
    })
}

/// Watches until everything is produced and nothing of it waits.
async fn drain(
    screen: &mut Screen,
    eyes: &Eyes,
    production: &JoinHandle<Result<Counts>>,
    watch: &mut Watch,
) -> Result<()> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Asked before the look: a lag of nought counts only if nothing was sent after it.
        let all_sent = production.is_finished();
        let line = watch.advance(eyes.look().await)?;
        screen.live(&line);
        if all_sent && watch.seen.lag == Some(0) {
            return Ok(());
        }
    }
}

/// Watches the consumers go. How soon they do is a setting of the sample and no part of the proof, so there is no error.
async fn settle(screen: &mut Screen, eyes: &Eyes, least: i32) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        let now = eyes.look().await;
        let seconds = began.elapsed().as_secs();
        if now.desired <= least {
            screen.finish(&format!("  ✓ Nothing left to do: consumers back to {least}  {seconds} s"));
            return;
        }
        if began.elapsed() > SETTLED {
            screen.finish(&format!(
                "  … still {} consumers after {seconds} s; the operator keeps them",
                now.desired
            ));
            return;
        }
        screen.live(&format!("  {seconds:>4} s  nothing waits; replicas {}/{}", now.ready, now.desired));
    }
}

fn start_producing(
    place: &Place,
    load: Load,
    produced: Arc<AtomicU64>,
) -> Result<JoinHandle<Result<Counts>>> {
    let target = Target {
        brokers: place.kafka.clone(),
        topic: TOPIC.to_owned(),
        events: load.events,
        rate: Some(load.rate),
        dated_from: None,
        properties: Vec::new(),
    };
    let progress = move |counts: &Counts| produced.store(counts.produced(), Ordering::Relaxed);
    let generator = Generator::new(load.options)?;
    Ok(tokio::spawn(produce(generator, target, CancellationToken::new(), progress)))
}

/// What looks at the outside.
struct Eyes {
    deployments: Api<Deployment>,
    name: String,
    observer: Observer,
    pool: PgPool,
    produced: Arc<AtomicU64>,
}

impl Eyes {
    async fn look(&self) -> Snapshot {
        let produced = self.produced.load(Ordering::Relaxed);
        let (lag, deployment, rows, dead_letters) = tokio::join!(
            self.observer.lag(),
            self.deployments.get_opt(&self.name),
            count(&self.pool, "SELECT count(*) FROM events"),
            count(&self.pool, "SELECT count(*) FROM dead_letters"),
        );
        let deployment = deployment.ok().flatten();
        let desired = deployment.as_ref().and_then(|found| found.spec.as_ref()?.replicas);
        let ready = deployment.as_ref().and_then(|found| found.status.as_ref()?.ready_replicas);
        Snapshot {
            produced,
            lag: lag.ok(),
            desired: desired.unwrap_or(0),
            ready: ready.unwrap_or(0),
            rows,
            dead_letters,
        }
    }
}

/// A count, or nought while the table is not there yet.
async fn count(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap_or(0)
}

async fn distinct_keys(pool: &PgPool) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(DISTINCT event_key) FROM events").fetch_one(pool).await?)
}

/// What changed from look to look.
struct Watch {
    began: Instant,
    looked: Instant,
    seen: Snapshot,
    progress: Instant,
    peak: f64,
}

impl Watch {
    fn advance(&mut self, now: Snapshot) -> Result<String> {
        let moved =
            |snapshot: &Snapshot| snapshot.produced.cast_signed() + snapshot.rows + snapshot.dead_letters;
        if moved(&now) != moved(&self.seen) || now.lag != self.seen.lag {
            self.progress = Instant::now();
        } else if self.progress.elapsed() > STALLED {
            bail!(
                "nothing has moved for {} s: {}",
                STALLED.as_secs(),
                describe(&now, 0.0, self.began.elapsed())
            );
        }
        let stored = (now.rows + now.dead_letters) - (self.seen.rows + self.seen.dead_letters);
        let rate = stored as f64 / self.looked.elapsed().as_secs_f64().max(f64::EPSILON);
        self.looked = Instant::now();
        self.peak = self.peak.max(rate);
        self.seen = now;
        Ok(describe(&self.seen, rate, self.began.elapsed()))
    }
}

fn describe(now: &Snapshot, rate: f64, elapsed: Duration) -> String {
    format!(
        "  {:>4} s  produced {:>7}  lag {:>7}  replicas {}/{}  {:>7} events/s  rows {:>7}  dead letters {:>5}",
        elapsed.as_secs(),
        grouped(now.produced),
        now.lag.map_or("?".to_owned(), |lag| grouped(lag.unsigned_abs())),
        now.ready,
        now.desired,
        grouped(rate.max(0.0) as u64),
        grouped(now.rows.unsigned_abs()),
        grouped(now.dead_letters.unsigned_abs()),
    )
}

/// Every change of the number of consumers, by a watch: polling could miss one.
struct Scales {
    deployments: Api<Deployment>,
    name: String,
    task: JoinHandle<()>,
    seen: Arc<std::sync::Mutex<Vec<Scale>>>,
}

impl Scales {
    async fn watch(place: &Place, pipeline: &Pipeline, began: Instant) -> Result<Self> {
        let deployments: Api<Deployment> = Api::namespaced(place.cluster.client().await?, NAMESPACE);
        let name = analytics_api::labels::consumer_name(&pipeline.name);
        let seen = Arc::new(std::sync::Mutex::new(Vec::<Scale>::new()));
        let (api, wanted, record) = (deployments.clone(), name.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut objects = std::pin::pin!(watcher::watch_object(api, &wanted));
            loop {
                // The stream heals itself: an error only means that it starts again.
                let Ok(next) = objects.try_next().await else { continue };
                let Some(found) = next else { break };
                let replicas = found.and_then(|found| found.spec?.replicas).unwrap_or(0);
                let mut record = record.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if record.last().is_none_or(|last| last.replicas != replicas) {
                    record.push(Scale { seconds: began.elapsed().as_secs(), replicas });
                }
            }
        });
        Ok(Self { deployments, name, task, seen })
    }

    fn stop(self) -> Vec<Scale> {
        self.task.abort();
        std::mem::take(&mut self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
