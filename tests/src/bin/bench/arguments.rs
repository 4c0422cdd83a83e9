//! What to measure.

use clap::{Parser, ValueEnum};

/// Measures the consumer against the floor (psql's \copy) and against peers, on a real Kafka and a durable PostgreSQL.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench", version)]
pub(crate) struct Arguments {
    /// Records of each throughput run.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) events: u64,
    /// How often the floor, the consumer, and the consumer without rollups take turns; their medians count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) rounds: u8,
    /// Partitions of the topic.
    #[arg(long, default_value_t = 8)]
    pub(crate) partitions: i32,
    /// Partitions of the run with many partitions, and of the backlog.
    #[arg(long, default_value_t = 64)]
    pub(crate) many_partitions: i32,
    /// One more run: so many records wait in the topic with many partitions.
    #[arg(long)]
    pub(crate) backlog: Option<u64>,
    /// How long to send at a steady rate for the latency.
    #[arg(long, default_value_t = 60)]
    pub(crate) latency_seconds: u64,
    /// That rate, in events per second.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) latency_rate: u64,
    /// Rows that are in the table before a run, beside an empty one; several with commas.
    #[arg(long, value_delimiter = ',', default_value = "10000000")]
    pub(crate) growth_rows: Vec<u64>,
    /// Only these parts, with commas (the run with deduplication and the floor are always there).
    #[arg(long, value_delimiter = ',', value_enum)]
    pub(crate) only: Vec<Part>,
    /// How late events arrive at most, in seconds, beside those that were sent at the same time.
    #[arg(long, default_value_t = 2)]
    pub(crate) lateness: u64,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Without deduplication, with duplicates, with bad records.
    Variants,
    /// Many partitions.
    Partitions,
    /// The Go consumers.
    Peers,
    /// Produce to committed row at a steady rate.
    Latency,
    /// The same again, after all other parts.
    LatencyAfter,
    /// A consumer joins, stops, is killed, under a steady load.
    Handover,
    /// With many rows in the table already.
    Growth,
}

impl Arguments {
    /// Whether a part is wanted.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
