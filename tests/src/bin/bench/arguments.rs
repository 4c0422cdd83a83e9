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
    /// One more comparison: the consumer with these settings, `KEY=VALUE` separated by spaces; may be given several times.
    /// It takes turns with the consumer's defaults, as often as there are rounds.
    #[arg(long, value_parser = settings)]
    pub(crate) with: Vec<Settings>,
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

/// Settings of the consumer for one comparison.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) text: String,
    pub(crate) pairs: Vec<(String, String)>,
}

fn settings(text: &str) -> Result<Settings, String> {
    let pair = |word: &str| {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is not KEY=VALUE"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let pairs = text.split_whitespace().map(pair).collect::<Result<Vec<_>, String>>()?;
    if pairs.is_empty() {
        return Err("name at least one setting, as KEY=VALUE".to_owned());
    }
    Ok(Settings { text: text.to_owned(), pairs })
}

impl Arguments {
    /// Whether a part is wanted.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}
