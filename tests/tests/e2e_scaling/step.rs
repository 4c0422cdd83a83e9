//! A load of one size, then of another, then none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use autoscaler::Replayed;
use serde_json::json;
use testbed::place::LATER;
use testbed::wait;

use crate::commands;
use crate::load::{CAPACITY, Load, PARTITIONS, changes, decisions, replicas, slow_down, spec, status};
use crate::world::Place;

/// Of three consumers one would have six of sixteen partitions, and 112 events per second where it can do 100; of four each has four
/// and 75. So four are right, also for a controller that is mistaken by a fifth about what a consumer can do. Five would be no better
/// (one has four partitions all the same).
pub(crate) const STEP: f64 = 3.0 * CAPACITY;
/// So many are enough for what arrives …
pub(crate) const RIGHT: usize = 4;
/// … and no more than so many for what has gathered besides, on a machine that starts pods in time, the first one and these, and on
/// which it was seen what a consumer can do.
const MOST: u32 = 8;
/// In time is within so many seconds.
const IN_TIME_SECONDS: f64 = 15.0;
/// What a consumer can do was seen if the controller is mistaken by no more than this share.
const SEEN_SHARE: f64 = 0.2;
/// An event that has waited for longer than this shows that a backlog has begun.
const WAITS_SECONDS: f64 = 2.0;
/// A dump is told from a step by the second reading, and a third one may be awaited; the first may have come a moment too soon.
const READINGS: usize = 4;

/// From what little arrives, capacity becomes known; then far more arrives, and one jump leads to what is needed. When the
/// load ends, consumers go quietly, and explain themselves.
pub(crate) async fn a_step_of_load_is_met_with_one_jump_and_its_end_quietly(place: &Place<'_>) -> Result<()> {
    let calm = begin(place, 0.5 * CAPACITY).await?;
    ensure!(replicas(place, "clicks").await? == 1, "half of what one consumer can do needs no second one");

    let load = Load::start(place, 2, STEP - 0.5 * CAPACITY)?;
    place.consumers("as many as are needed", |count| count >= RIGHT).await?;
    let reaction = wait::until("the consumers that were asked for are ready", LATER, || async {
        Reaction::of(&decisions(place, "clicks").await?).map(Some)
    })
    .await?;
    reaction.judge()?;
    drained(place).await?;
    let mut up = changes(place).await?;
    up.retain(|note| note.contains("Growing"));
    let first = up.first().context("a change of scale is told in an Event")?;
    ensure!(first.starts_with(&format!("Consumers 1 -> {}: ", reaction.wanted)), "told otherwise: {up:#?}");
    ensure!(up.len() <= 2, "one jump, and one more if this machine stumbled: {up:#?}");
    ensure!(first.contains("Before: ") && first.contains("After (expected): "), "{first}");

    let rows = load.end().await? + calm.end().await?;
    place.stored(rows).await?;
    place.consumers("one when the load is gone", |count| count == 1).await?;
    let all = changes(place).await?;
    let down: Vec<_> = all.iter().skip_while(|note| !note.contains("Shrinking")).collect();
    ensure!((1..=4).contains(&down.len()), "down in a few steps: {down:#?}");
    ensure!(down.iter().all(|note| note.contains("Shrinking")), "down, and never up again: {down:#?}");
    ensure!(place.rows().await? == rows, "nothing was lost and nothing stored twice");
    commands::explain_tells_the_decisions_and_replays_them(place, "clicks").await
}

/// How the first growth came about, by the controller's own recording.
struct Reaction {
    /// Consumers that were asked for.
    wanted: u32,
    /// Events per second that one was taken to handle then.
    capacity: f64,
    /// Seconds that the very first one took to be ready, which the controller has seen.
    first_start: f64,
    /// Readings in which events waited, up to the one that was answered.
    readings: usize,
    /// Seconds from the first of them to the answer …
    decided: f64,
    /// … and until as many consumers as were asked for were seen to be ready.
    ready: f64,
    /// What was read from the last calm reading to the one that was answered.
    course: Vec<String>,
}

impl Reaction {
    fn of(decisions: &[Replayed]) -> Result<Self> {
        let running = |one: &Replayed| one.observation.replicas.spec > 0;
        let grows = |one: &Replayed| running(one) && one.decision.desired > one.observation.replicas.spec;
        let answer = decisions.iter().position(grows).context("no growth is recorded")?;
        let calm = |one: &Replayed| {
            one.decision.estimates.lag_seconds.is_some_and(|seconds| seconds <= WAITS_SECONDS)
        };
        let before =
            decisions[..answer].iter().rposition(calm).context("lag was there from the beginning")?;
        let (appeared, answered) =
            (decisions[before + 1].observation.time, decisions[answer].observation.time);
        let wanted = decisions[answer].decision.desired;
        let ready = decisions[answer..].iter().find(|one| one.observation.replicas.ready >= wanted);
        let ready = ready.context("the consumers were never seen to be ready")?.observation.time;
        let told = |one: &Replayed| {
            let estimates = &one.decision.estimates;
            format!(
                "{:+.1} s: oldest event {:.1} s, {:.0}/s arrive, a consumer handles {:.0}/s: {}",
                one.observation.time - appeared,
                estimates.lag_seconds.unwrap_or(f64::NAN),
                estimates.arrival_rate.unwrap_or(f64::NAN),
                estimates.capacity_per_replica.unwrap_or(f64::NAN),
                one.decision.reason
            )
        };
        let course = decisions[before..=answer].iter().map(told).collect();
        let capacity = decisions[answer].decision.estimates.capacity_per_replica.unwrap_or(f64::NAN);
        let since =
            |is: fn(&Replayed) -> bool| decisions.iter().find(|one| is(one)).map(|one| one.observation.time);
        let first_start = since(|one| one.observation.replicas.ready > 0)
            .zip(since(|one| one.observation.replicas.spec > 0))
            .map_or(f64::NAN, |(ready, asked)| ready - asked);
        Ok(Self {
            course,
            wanted,
            capacity,
            first_start,
            readings: answer - before,
            decided: answered - appeared,
            ready: ready - appeared,
        })
    }

    fn judge(&self) -> Result<()> {
        let Self { course, wanted, capacity, first_start, readings, decided, ready } = self;
        let busy = busy();
        eprintln!(
            "step to {STEP} events/s: answered with {wanted} consumers by reading {readings} that showed lag, {decided:.1} s after the first; all ready after {ready:.1} s; \
             the first one had taken {first_start:.1} s; for {:.0} % of the last minute something waited for a processor; {course:#?}",
            100.0 * busy
        );
        ensure!(*readings <= READINGS, "it took {readings} readings to answer the lag");
        ensure!(*wanted >= RIGHT as u32, "{wanted} cannot keep up with what arrives");
        // Pods that come late leave more to work off, and slow consumers call for more of them: then more are right, how many nobody
        // can say beforehand.
        let as_meant =
            (capacity / CAPACITY - 1.0).abs() <= SEEN_SHARE && first_start.max(*ready) <= IN_TIME_SECONDS;
        ensure!(*wanted <= MOST || !as_meant, "{wanted} are more than it takes");
        // How fast pods start is the machine's doing as well; whoever wants to hold it to something says so.
        let Ok(limit) = std::env::var("SCALING_READY_SECONDS") else { return Ok(()) };
        ensure!(*ready <= limit.parse()?, "ready {ready:.1} s after the lag, more than {limit} s");
        Ok(())
    }
}

/// For which share of the last minute something has waited for a processor; all of it where that is not told.
fn busy() -> f64 {
    let text = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let share = text
        .lines()
        .find_map(|line| line.strip_prefix("some ")?.split("avg60=").nth(1)?.split(' ').next()?.parse().ok());
    share.map_or(1.0, |percent: f64| percent / 100.0)
}

/// `SOAK_SECONDS` of a load that needs several consumers: at most two changes, the first included.
pub(crate) async fn a_constant_load_changes_nothing(place: &Place<'_>) -> Result<()> {
    let seconds: u64 = std::env::var("SOAK_SECONDS").map_or(Ok(1200), |text| text.parse())?;
    let load = begin(place, STEP).await?;
    let (started, mut seen, mut longest) = (Instant::now(), replicas(place, "clicks").await?, 0);
    let mut course = vec![format!("0 s: {seen}")];
    while started.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = replicas(place, "clicks").await?;
        let pipeline = place.pipelines().get("clicks").await?;
        let lag = pipeline.status.and_then(|status| status.lag?.seconds).unwrap_or_default();
        longest = longest.max(lag);
        if now != seen {
            course.push(format!("{} s: {now}", started.elapsed().as_secs()));
            seen = now;
        }
    }
    let reason = place.pipelines().get("clicks").await?.status.and_then(|status| status.scaling?.reason);
    let rows = load.end().await?;
    place.stored(rows).await?;
    let changes = changes(place).await?;
    eprintln!("{seconds} s of {STEP} events/s: {rows} rows; {}; oldest event {longest} s", course.join(", "));
    eprintln!("at the end: {}", reason.unwrap_or_default());
    ensure!(changes.len() <= 2, "a constant load is no reason for {} changes: {changes:#?}", changes.len());
    Ok(())
}

/// A pipeline under this load, once the capacity of its consumer is known.
pub(crate) async fn begin(place: &Place<'_>, rate: f64) -> Result<Load> {
    place.world.bed.kafka.add_partitions(&place.topic, PARTITIONS).await?;
    place.apply(&place.pipeline("clicks", spec())?).await?;
    place.ready("clicks").await?;
    slow_down(place).await?;
    let load = Load::start(place, 1, rate)?;
    status(place, "clicks", "load and capacity are known", |pipeline| {
        let rates = pipeline.status.as_ref().and_then(|status| status.rates.as_ref());
        let close = |arrivals: i64| (arrivals as f64 / rate - 1.0).abs() < 0.2;
        rates.is_some_and(|rates| rates.capacity_per_replica.is_some() && rates.arrivals.is_some_and(close))
    })
    .await?;
    Ok(load)
}

/// Waits until the backlog that the step has left is gone while the load goes on.
pub(crate) async fn drained(place: &Place<'_>) -> Result<()> {
    let objective = json!(20);
    ensure!(spec()["scaling"]["targetLagSeconds"] == objective, "the objective of the specification");
    status(place, "clicks", "the backlog of the step is gone", |pipeline| {
        let lag = pipeline.status.as_ref().and_then(|status| status.lag.as_ref());
        lag.is_some_and(|lag| lag.seconds.is_some_and(|seconds| seconds <= 3))
    })
    .await
    .map(drop)
}
