//! From the producer's call to the committed row, at a steady rate.

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, PgConnection};
use testbed::{Consumer, ConsumerOptions};

use crate::arguments::Arguments;
use crate::bed::{self, Bed, TIMED};
use crate::disk::{Disk, Flushes};
use crate::load::{self, Filling};
use crate::reader::Reader;
use crate::table::grouped;
use crate::usage;

/// The first seconds open connections and find the group, and Kafka's virtual machine compiles its way for small requests,
/// during which a reader that does nothing else waits as long; they are not what a steady state is.
const WARM_UP: Duration = Duration::from_secs(20);
const PERCENTILES: [f64; 3] = [0.5, 0.99, 0.999];

/// What was measured.
pub(crate) struct Latency {
    /// The 99th percentile, in milliseconds.
    pub(crate) p99: f64,
    /// All of it, as a sentence.
    pub(crate) text: String,
}

/// Sends steadily and asks PostgreSQL when each event's row was committed.
pub(crate) async fn measure(bed: &mut Bed, arguments: &Arguments, topic: &str) -> Result<Latency> {
    bed.kafka.create_topic(topic, arguments.partitions).await?;
    let database = bed.database().await?;
    let options = ConsumerOptions::new(&bed.kafka, topic, &database.url);
    bed.settle().await?;
    let mut consumer = Consumer::start("bench", &options)?;
    consumer.ready().await?;
    let filling = Filling::of_good_events(topic, arguments.partitions);
    let mut session = bed::connect(&database.url).await?;
    let flushed = flushes(&mut session).await?;
    let before = usage::of_process(consumer.id())?;
    let reader = Reader::start(bed.kafka.client_config(), topic, arguments.partitions)?;
    let disk = Disk::start()?;
    let config = bed.kafka.client_config();
    let duration = WARM_UP + Duration::from_secs(arguments.latency_seconds);
    let rate = arguments.latency_rate as f64;
    let filled =
        tokio::task::spawn_blocking(move || load::steady(config, &filling, rate, duration)).await??;
    bed::stored(&database, filled.counts.distinct, Duration::from_secs(30))
        .await
        .with_context(|| consumer.log())?;
    let after = usage::of_process(consumer.id())?;
    let Flushes { p50: flush, p99: long_flush, most: longest_flush } = disk.end()?;
    let [p50, p99, p999] = reader.end(PERCENTILES, WARM_UP)?;
    drop(consumer);
    let mut latency = report(&mut session, rate, flushed).await?;
    let busy = (after.0 - before.0) / duration.as_secs_f64() * 100.0;
    drop(session);
    bed.drop(database).await?;
    latency.text += &format!(
        "; the consumer used {busy:.1} % of a core, peak {} MiB\nof this, produce to a reader that does nothing else, in \
         the same seconds: p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms\nthe disk alone, a page of \
         8 KiB: p50 {flush:.2} ms, p99 {long_flush:.2} ms, most {longest_flush:.1} ms",
        after.1 >> 20
    );
    Ok(latency)
}

async fn report(session: &mut PgConnection, rate: f64, before: (i64, f64)) -> Result<Latency> {
    type Row = (Vec<f64>, f64, i64, i64);
    let (percentiles, most, events, commits): Row = sqlx::query_as(AssertSqlSafe(format!(
        "{TIMED} SELECT percentile_cont($2) WITHIN GROUP (ORDER BY (committed - sent)::float8 / 1000), \
           (max(committed - sent) / 1000)::float8, count(*), count(DISTINCT committed) \
         FROM timed WHERE sent >= (SELECT min(sent) FROM timed) + $1",
    )))
    .bind(i64::try_from(WARM_UP.as_micros())?)
    .bind(PERCENTILES)
    .fetch_one(&mut *session)
    .await?;
    let after = flushes(session).await?;
    let flush = (after.1 - before.1) / ((after.0 - before.0).max(1) as f64);
    let text = format!(
        "latency at {rate} events/s, produce to commit, over {} events in {} transactions: p50 {:.2} ms, p99 {:.2} ms, \
         p99.9 {:.2} ms, most {most:.1} ms (PostgreSQL takes the commit's time before it flushes its log, which took \
         {flush:.2} ms more on average)",
        grouped(events.unsigned_abs()),
        grouped(commits.unsigned_abs()),
        percentiles[0],
        percentiles[1],
        percentiles[2],
    );
    Ok(Latency { p99: percentiles[1], text })
}

/// How often PostgreSQL has flushed its log so far, and the milliseconds that took.
async fn flushes(session: &mut PgConnection) -> Result<(i64, f64)> {
    Ok(sqlx::query_as("SELECT wal_sync, wal_sync_time FROM pg_stat_wal").fetch_one(session).await?)
}
