//! For how long events wait when partitions change hands: a consumer joins, stops, is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, PgConnection};
use testbed::{Consumer, ConsumerOptions};
use tokio::time::sleep;

use crate::arguments::Arguments;
use crate::bed::{self, Bed, TIMED};
use crate::goals::Goal;
use crate::load::{self, Filling};

/// Events per second: enough that one is sent within milliseconds of everything that happens.
const RATE: f64 = 1_000.0;
/// Load before the first change, between two, and after the last: longer than Kafka needs to miss a dead member.
const PAUSE: Duration = Duration::from_secs(15);
/// The load goes on for so long; everything happens within.
const DURATION: Duration = Duration::from_secs(90);
/// Owners of partitions must be as expected within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What was measured.
pub(crate) struct Handover {
    /// For how long an event waited at most when a consumer joined, stopped, and was killed, in seconds.
    waits: [f64; 3],
}

impl Handover {
    /// The waits as a sentence.
    pub(crate) fn text(&self) -> String {
        let [joined, stopped, killed] = self.waits;
        format!(
            "hand-over at {RATE} events/s, longest that any event waited for its commit: a second consumer joins {joined:.2} s, \
             one is stopped (SIGTERM) {stopped:.2} s, one is killed (SIGKILL) {killed:.2} s"
        )
    }

    /// Whether that is short enough.
    pub(crate) fn goals(&self) -> Vec<Goal> {
        let [_, stopped, killed] = self.waits;
        vec![
            Goal::at_most("s that events wait when a consumer is stopped", 1.0, stopped),
            Goal::at_most("s that events wait when a consumer is killed", 10.0, killed),
        ]
    }
}

/// Changes the group under a steady load, and asks PostgreSQL when each event's row was committed.
pub(crate) async fn measure(bed: &mut Bed, arguments: &Arguments) -> Result<Handover> {
    let topic = "handover";
    bed.kafka.create_topic(topic, arguments.partitions).await?;
    let database = bed.database().await?;
    let options = ConsumerOptions::new(&bed.kafka, topic, &database.url);
    let mut session = bed::connect(&database.url).await?;
    let mut first = Consumer::start("first", &options)?;
    first.ready().await?;
    owners(&mut session, &["first"]).await?;

    let filling = Filling::of_good_events(topic, arguments.partitions);
    let config = bed.kafka.client_config();
    let load = tokio::task::spawn_blocking(move || load::steady(config, &filling, RATE, DURATION));

    sleep(PAUSE).await;
    let mut changes = vec![Utc::now().timestamp_micros()];
    let mut second = Consumer::start("second", &options)?;
    owners(&mut session, &["first", "second"]).await?;
    sleep(PAUSE).await;
    changes.push(Utc::now().timestamp_micros());
    first.signal(Signal::TERM);
    owners(&mut session, &["second"]).await?;
    let mut third = Consumer::start("third", &options)?;
    owners(&mut session, &["second", "third"]).await?;
    sleep(PAUSE).await;
    changes.push(Utc::now().timestamp_micros());
    second.kill();
    let filled = load.await??;
    bed::stored(&database, filled.counts.distinct, PATIENCE).await.with_context(|| third.log())?;
    third.ready().await?;

    let mut waits = [0.0; 3];
    for (wait, from) in waits.iter_mut().zip(changes) {
        *wait = longest(&mut session, from).await?;
    }
    drop((first, second, third, session));
    bed.drop(database).await?;
    Ok(Handover { waits })
}

/// Waits until exactly these consumers own partitions.
async fn owners(session: &mut PgConnection, expected: &[&str]) -> Result<()> {
    let mut found: Vec<String> = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while found != expected {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "partitions belong to {found:?}, not to {expected:?}"
        );
        sleep(Duration::from_millis(20)).await;
        found = sqlx::query_scalar("SELECT DISTINCT owner FROM pipeline_offsets ORDER BY owner")
            .fetch_all(&mut *session)
            .await?;
    }
    Ok(())
}

/// The longest wait of an event that was sent shortly before `from` (microseconds since 1970) or in the pause after it.
async fn longest(session: &mut PgConnection, from: i64) -> Result<f64> {
    let (before, after) = (1_000_000, i64::try_from(PAUSE.as_micros())?);
    let seconds: Option<f64> = sqlx::query_scalar(AssertSqlSafe(format!(
        "{TIMED} SELECT (max(committed - sent) / 1000000)::float8 FROM timed WHERE sent BETWEEN $1 AND $2",
    )))
    .bind(from - before)
    .bind(from + after)
    .fetch_one(session)
    .await?;
    seconds.context("no event was sent during a hand-over")
}
