//! The consumer and its peers emptying a topic, each into a fresh database.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use testbed::{Consumer, ConsumerOptions};
use tokio::time::sleep;

use crate::bed::{self, Bed, Database};
use crate::load::Filled;
use crate::peer::Peer;
use crate::table::Figures;
use crate::usage;

/// How often to look whether a run is over: what is measured is taken from the commits, not from these looks.
const LOOK: Duration = Duration::from_millis(50);
/// A run that commits nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// Lets the consumer, with its defaults and these `settings`, empty a topic.
pub(crate) async fn consumer(
    bed: &Bed,
    database: &Database,
    name: &str,
    filled: &Filled,
    settings: &[(&str, &str)],
) -> Result<Figures> {
    let mut session = bed::connect(&database.url).await?;
    let before = rows_before(&mut session).await;
    let options = ConsumerOptions::new(&bed.kafka, &filled.topic, &database.url)
        .with("KAFKA_GROUP_ID", format!("{}-{}", filled.topic, database.name));
    let options = settings.iter().fold(options, |options, (key, value)| options.with(key, value));
    bed.settle().await?;
    let started = Started::now(&mut session).await?;
    let mut consumer = Consumer::start("bench", &options)?;
    await_offsets(&mut session, &mut consumer, filled.counts.produced()).await?;
    let used = usage::of_process(consumer.id())?;
    let machine = usage::of_machine()? - started.machine;
    drop(consumer);

    let counts = &filled.counts;
    let wrong = bed::check(
        &mut session,
        &[
            (&format!("SELECT count(*) FROM events WHERE id > {before}"), counts.distinct),
            ("SELECT count(*) FROM dead_letters", counts.malformed_total()),
        ],
    )
    .await?;
    let mut figures = started.figures(&mut session, before, counts.produced()).await?;
    (figures.cpu_seconds, figures.peak_bytes) = (Some(used.0), Some(used.1));
    Ok(Figures { name: name.to_owned(), machine_seconds: machine, wrong, ..figures })
}

/// Lets the Go consumer empty a topic of good and different events.
pub(crate) async fn peer(
    bed: &Bed,
    database: &Database,
    name: &str,
    filled: &Filled,
    unique: bool,
) -> Result<Figures> {
    let records = filled.counts.produced();
    ensure!(
        records == filled.counts.distinct,
        "peers can neither count duplicates nor pass over bad records"
    );
    let mut session = bed::connect(&database.url).await?;
    if !unique {
        sqlx::query("ALTER TABLE events DROP COLUMN event_key").execute(&mut session).await?;
    }
    bed.settle().await?;
    let started = Started::now(&mut session).await?;
    let mut peer = Peer::start(bed, database, filled, unique)?;
    while !peer.is_done()? {
        ensure!(started.clock.elapsed() < Duration::from_secs(600), "the Go consumer does not finish");
        sleep(LOOK).await;
    }
    let used = usage::of_process(peer.id())?;
    let machine = usage::of_machine()? - started.machine;
    drop(peer);
    let wrong = bed::check(&mut session, &[("SELECT count(*) FROM events", records)]).await?;
    let mut figures = started.figures(&mut session, 0, records).await?;
    (figures.cpu_seconds, figures.peak_bytes) = (Some(used.0), Some(used.1));
    Ok(Figures { name: name.to_owned(), machine_seconds: machine, wrong, ..figures })
}

/// The moment before a process is started.
struct Started {
    at: DateTime<Utc>,
    clock: Instant,
    machine: f64,
    log_end: u64,
}

impl Started {
    async fn now(session: &mut PgConnection) -> Result<Self> {
        let log_end = bed::log_end(session).await?;
        Ok(Self { at: Utc::now(), clock: Instant::now(), machine: usage::of_machine()?, log_end })
    }

    /// What the commits say about the run.
    async fn figures(&self, session: &mut PgConnection, after: i64, records: u64) -> Result<Figures> {
        let commits = bed::commits(session, after).await?;
        let (first, last) = commits.first.zip(commits.last).context("nothing was committed")?;
        let seconds = |from: DateTime<Utc>| (last - from).as_seconds_f64();
        let wal_bytes = bed::log_end(session).await? - self.log_end;
        let flowing = records.saturating_sub(commits.rows_of_first) as f64 / seconds(first);
        let seconds = seconds(self.at);
        Ok(Figures { records, seconds, flowing: Some(flowing), wal_bytes, ..Figures::default() })
    }
}

/// The highest id that is in the table before a run.
async fn rows_before(session: &mut PgConnection) -> i64 {
    // A database that is still empty has no table.
    bed::number(session, "SELECT coalesce(max(id), 0) FROM events").await.unwrap_or_default()
}

async fn await_offsets(session: &mut PgConnection, consumer: &mut Consumer, records: u64) -> Result<()> {
    let (mut done, mut progress) = (0, Instant::now());
    while done < records {
        sleep(LOOK).await;
        // The table comes with the consumer's first start.
        let sum = "SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets";
        let now = bed::number(session, sum).await.unwrap_or_default().unsigned_abs();
        if now > done {
            (done, progress) = (now, Instant::now());
        }
        if progress.elapsed() > STUCK || consumer.ended(Duration::ZERO).await.is_ok() {
            bail!(
                "the consumer has stopped at {done} of {records} records; its log says:\n{}",
                consumer.log()
            );
        }
    }
    ensure!(done == records, "the consumer has dealt with {done} records of {records}");
    Ok(())
}
