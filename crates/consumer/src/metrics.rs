//! Every number that the consumer exports, with bounded labels.

mod labels;
mod zeros;

use prometheus::{
    Counter, CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec,
    Opts, Registry,
};

use analytics_runtime::catalogue::{Catalogue, Family, shared_families};

use crate::batch::Batch;
use crate::dead_letter::DeadLetter;
use crate::sink::classify::fault_label;
use labels::letter_type_label;
pub use labels::{Labels, event_type_label};

/// Seconds, from one to ten thousand milliseconds.
const LATENCY_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Events of a batch.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0];

/// The consumer's metrics.
pub struct Metrics {
    topic: String,
    /// Records dealt with, by type and service.
    pub processed: IntCounterVec,
    /// Rows that are new in the table.
    pub stored: IntCounterVec,
    errors: IntCounterVec,
    /// Seconds from reading a record to its commit.
    pub processing: Histogram,
    /// Seconds from the record's timestamp to its commit.
    pub end_to_end: Histogram,
    lag: IntGaugeVec,
    next_offset: IntGaugeVec,
    waiting: IntGaugeVec,
    /// Seconds in which the engine was at work.
    pub busy: Counter,
    /// Seconds in which the engine waited, by for whom.
    pub waited: CounterVec,
    /// Events that were in the table before, or twice in a batch.
    pub duplicates: IntCounter,
    dead_letters: IntCounterVec,
    /// Events of a transaction.
    pub batch_events: Histogram,
    /// Seconds of a transaction.
    pub transactions: HistogramVec,
    /// Batches given up because the partition had a new owner.
    pub fenced: IntCounter,
    rebalances: IntCounterVec,
    offset_gaps: IntCounterVec,
    offsets_lost: IntCounter,
    passed_over: IntCounter,
    skipped: IntCounterVec,
    database_errors: IntCounterVec,
    /// Without labels; vectors, because they are absent while nobody may read them.
    connections: IntGaugeVec,
    connections_limit: IntGaugeVec,
    assigned: IntGaugeVec,
}

impl Metrics {
    /// Makes and registers the metrics.
    ///
    /// # Errors
    /// A name is registered already.
    pub fn new(registry: &Registry, topic: &str) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            topic: topic.to_owned(),
            processed: counters(
                "events_processed_total",
                "Records read and dealt with (stored, duplicate or dead letter), by event type and service; unknown types and services past a cap are `other`",
                &["event_type", "service"],
            )?,
            stored: counters(
                "events_stored_total",
                "Rows added to the events table, by event type",
                &["event_type"],
            )?,
            errors: counters(
                "processing_errors_total",
                "Records that could not be stored, by event type (`unknown` where it cannot be read) and reason; each is a dead letter",
                &["event_type", "reason"],
            )?,
            processing: histogram(
                "event_processing_duration_seconds",
                "Seconds from reading the first record of a batch to the commit, observed for each record of the batch",
                LATENCY_BUCKETS,
            )?,
            end_to_end: histogram(
                "end_to_end_seconds",
                "Seconds from a record's timestamp, by the producer's or broker's clock, to the commit of its row",
                LATENCY_BUCKETS,
            )?,
            lag: IntGaugeVec::new(
                Opts::new(
                    "kafka_consumer_lag",
                    "Offsets between the end of the partition and what is stored",
                ),
                &["topic", "partition"],
            )?,
            next_offset: IntGaugeVec::new(
                Opts::new(
                    "kafka_consumer_next_offset",
                    "Offset of the next record to store; what does not move while there is lag is stalled",
                ),
                &["topic", "partition"],
            )?,
            waiting: IntGaugeVec::new(
                Opts::new(
                    "partition_waiting",
                    "1 while the partition waits for a person, because its stored or committed offset is outside of the log",
                ),
                &["topic", "partition"],
            )?,
            busy: Counter::new(
                "consumer_busy_seconds_total",
                "Seconds in which the engine was at work and not merely waiting for records; its rate is the busy ratio, 0 to 1",
            )?,
            waited: CounterVec::new(
                Opts::new(
                    "consumer_waiting_seconds_total",
                    "Seconds in which the reading thread waited: for records of Kafka, or for the database to take a batch",
                ),
                &["for"],
            )?,
            duplicates: IntCounter::new(
                "events_duplicate_total",
                "Events not stored because an equal one is in the table",
            )?,
            dead_letters: counters(
                "dead_letters_total",
                "Records written to the dead letters, by reason",
                &["reason"],
            )?,
            batch_events: histogram("batch_events", "Records of one transaction", BATCH_BUCKETS)?,
            transactions: HistogramVec::new(
                HistogramOpts::new(
                    "transaction_seconds",
                    "Seconds of one transaction, from BEGIN to the commit's confirmation, by outcome",
                )
                .buckets(LATENCY_BUCKETS.to_vec()),
                &["outcome"],
            )?,
            fenced: IntCounter::new(
                "batches_fenced_total",
                "Batches not written because another consumer had moved the partition's offset",
            )?,
            rebalances: counters(
                "rebalances_total",
                "Changes of this consumer's assignment, by kind",
                &["kind"],
            )?,
            offset_gaps: counters(
                "offset_gaps_total",
                "Stored or committed offsets found outside of the log, by what was done",
                &["action"],
            )?,
            offsets_lost: IntCounter::new(
                "offsets_lost_total",
                "Offsets never read because retention had removed them, or because KAFKA_ON_OFFSET_GAP=latest went on behind them",
            )?,
            passed_over: IntCounter::new(
                "offsets_passed_over_total",
                "Offsets without a record to read: control records and aborted records of transactions, gaps that compaction left",
            )?,
            skipped: counters(
                "records_skipped_total",
                "Records neither stored nor kept as dead letters, by the reason for which a setting says so",
                &["reason"],
            )?,
            database_errors: counters(
                "database_errors_total",
                "Failed attempts to connect, to prepare the schema, to take a partition over or to write a batch, by fault: transient, resources (disk, memory or connections of the server) or configuration",
                &["fault"],
            )?,
            connections: IntGaugeVec::new(
                Opts::new(
                    "database_connections",
                    "Client connections that the PostgreSQL server has now, of everybody; absent where that cannot be read",
                ),
                &[],
            )?,
            connections_limit: IntGaugeVec::new(
                Opts::new(
                    "database_connections_limit",
                    "Client connections that the PostgreSQL server allows: max_connections without the reserved ones",
                ),
                &[],
            )?,
            assigned: IntGaugeVec::new(
                Opts::new("partitions_assigned", "Partitions that this consumer reads"),
                &["topic"],
            )?,
        };
        metrics.add_to(&mut Catalogue::new(registry))?;
        metrics.begin_at_zero();
        Ok(metrics)
    }

    fn add_to(&self, catalogue: &mut Catalogue<'_>) -> Result<(), prometheus::Error> {
        catalogue.add(&self.processed)?;
        catalogue.add(&self.stored)?;
        catalogue.add(&self.errors)?;
        catalogue.add(&self.processing)?;
        catalogue.add(&self.end_to_end)?;
        catalogue.add(&self.lag)?;
        catalogue.add(&self.next_offset)?;
        catalogue.add(&self.waiting)?;
        catalogue.add(&self.busy)?;
        catalogue.add(&self.waited)?;
        catalogue.add(&self.duplicates)?;
        catalogue.add(&self.dead_letters)?;
        catalogue.add(&self.batch_events)?;
        catalogue.add(&self.transactions)?;
        catalogue.add(&self.fenced)?;
        catalogue.add(&self.rebalances)?;
        catalogue.add(&self.offset_gaps)?;
        catalogue.add(&self.offsets_lost)?;
        catalogue.add(&self.passed_over)?;
        catalogue.add(&self.skipped)?;
        catalogue.add(&self.database_errors)?;
        catalogue.add(&self.connections)?;
        catalogue.add(&self.connections_limit)?;
        catalogue.add(&self.assigned)
    }

    /// Every metric that the binary exports, for the reference documentation.
    ///
    /// # Errors
    /// A name is there twice.
    pub fn families() -> Result<Vec<Family>, prometheus::Error> {
        let (unused, registry) = (Registry::new(), Registry::new());
        let mut catalogue = Catalogue::new(&registry);
        Self::new(&unused, "")?.add_to(&mut catalogue)?;
        Ok([catalogue.into_families(), shared_families()].concat())
    }

    /// Where the partition stands: the next offset to store, and how many there are after it.
    pub fn position(&self, partition: i32, next_offset: i64, lag: i64) {
        let partition = partition.to_string();
        let labels = [self.topic.as_str(), &partition];
        self.lag.with_label_values(&labels).set(lag);
        self.next_offset.with_label_values(&labels).set(next_offset);
    }

    /// The partition is not read here any more: its series go with it.
    pub fn forget_position(&self, partition: i32) {
        let partition = partition.to_string();
        for gauge in [&self.lag, &self.next_offset] {
            // There is none when no statistics came in between.
            let _ = gauge.remove_label_values(&[self.topic.as_str(), &partition]);
        }
    }

    /// The partition waits for a person, or does so no longer.
    pub fn waiting(&self, partition: i32, waits: bool) {
        let partition = partition.to_string();
        let labels = [self.topic.as_str(), &partition];
        if waits {
            self.waiting.with_label_values(&labels).set(1);
        } else {
            // There is none when it never waited.
            let _ = self.waiting.remove_label_values(&labels);
        }
    }

    /// The assignment changed.
    pub fn rebalanced(&self, kind: &str, assigned: usize) {
        self.rebalances.with_label_values(&[kind]).inc();
        self.assigned.with_label_values(&[self.topic.as_str()]).set(assigned as i64);
    }

    /// An offset was outside of the log, and `lost` offsets are passed over for it.
    pub fn offset_gap(&self, action: &str, lost: u64) {
        self.offset_gaps.with_label_values(&[action]).inc();
        self.offsets_lost.inc_by(lost);
    }

    /// A batch is committed: what its partitions moved over without a row, a duplicate or a dead letter.
    pub fn progressed(&self, batch: &Batch) {
        let moved: i64 = batch.progress().iter().map(|progress| progress.to - progress.from).sum();
        let records: u64 = batch.progress().iter().map(|progress| progress.records).sum();
        self.passed_over.inc_by(moved.unsigned_abs().saturating_sub(records));
        // Each record is a row, a duplicate, a dead letter, or a tombstone that is to be skipped.
        let kept = batch.rows().len() + batch.duplicates().count() + batch.dead_letters().len();
        self.skipped.with_label_values(&[SKIPPED]).inc_by(records.saturating_sub(kept as u64));
    }

    /// A record became a dead letter.
    pub fn dead_letter(&self, letter: &DeadLetter) {
        let reason = letter.reason.as_str();
        self.dead_letters.with_label_values(&[reason]).inc();
        self.errors.with_label_values(&[letter_type_label(letter), reason]).inc();
    }

    /// PostgreSQL did not do what it was asked to.
    pub fn database_failed(&self, error: &sqlx::Error) {
        self.database_errors.with_label_values(&[fault_label(error)]).inc();
    }

    /// A table of the database has another shape than the consumer needs.
    pub fn schema_differs(&self) {
        self.database_errors.with_label_values(&["configuration"]).inc();
    }

    /// Client connections of the server, and how many it allows; `None` when that cannot be read.
    pub fn server_connections(&self, seen: Option<(i64, i64)>) {
        let Some((now, limit)) = seen else {
            self.connections.reset();
            return self.connections_limit.reset();
        };
        self.connections.with_label_values::<&str>(&[]).set(now);
        self.connections_limit.with_label_values::<&str>(&[]).set(limit);
    }
}

#[cfg(test)]
impl Metrics {
    pub(crate) fn offset_gaps(&self, action: &str) -> u64 {
        self.offset_gaps.with_label_values(&[action]).get()
    }

    pub(crate) fn database_failures(&self, fault: &str) -> u64 {
        self.database_errors.with_label_values(&[fault]).get()
    }
}

/// Why a record is skipped: there is one reason.
const SKIPPED: &str = "tombstone";

fn counters(name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))
}
