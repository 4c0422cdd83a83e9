//! `analytics-consumer dead-letters`: look at the records that could not be stored, and send them again.
//!
//! Replaying means producing the record, as it was, to its topic (or to another one). From there it takes the way of
//! every record: if its fault is mended (a new version of the consumer, a wider column) it is stored, once; if not, it
//! is a dead letter again. A letter that was replayed is marked, so that a second run does not send it twice.

mod filter;
mod id;
mod render;
mod replay;
mod store;
mod table;
mod topic;

pub use filter::Filter;
pub use id::LetterId;

use std::io::Write;

use clap::{Args, Subcommand, ValueEnum};

use crate::settings::Settings;
use store::Store;

/// What to do with dead letters.
#[derive(Subcommand)]
pub enum Command {
    /// List dead letters, oldest first.
    List {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// How to print them.
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Count dead letters by reason.
    Count {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
    },
    /// Show one dead letter whole: reason, origin, headers, key and value.
    Show {
        /// Its id, from `list`.
        id: LetterId,
    },
    /// Produce dead letters to Kafka again.
    Replay {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// How.
        #[command(flatten)]
        options: ReplayOptions,
    },
}

/// How dead letters are listed.
#[derive(Clone, Copy, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// One JSON object a line.
    Json,
}

/// How dead letters are replayed.
#[derive(Args)]
pub struct ReplayOptions {
    /// Say what would be sent and send nothing.
    #[arg(long)]
    dry_run: bool,
    /// Topic to send to; unset means the topic that each record came from.
    #[arg(long)]
    to_topic: Option<String>,
    /// Send those too that were replayed before.
    #[arg(long)]
    again: bool,
}

/// The command failed.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// PostgreSQL.
    #[error("PostgreSQL: {}", crate::sink::classify::describe(.0))]
    Database(#[from] sqlx::Error),
    /// Kafka.
    #[error(
        "Kafka: {0}; records before this one were sent and are marked, run the same command again to go on"
    )]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// There is no such letter.
    #[error("there is no dead letter with the id {0} in {1}")]
    Unknown(LetterId, String),
    /// The topic of the dead letters is not there.
    #[error("the dead-letter topic `{0}` does not exist; create it or correct DEAD_LETTER_TOPIC")]
    NoTopic(String),
    /// The topic of the dead letters could not be read to its end.
    #[error("Kafka gave no more of the dead-letter topic `{0}` within {1} s; run the same command again")]
    Silent(String, u64),
    /// Standard output was closed.
    #[error("failed to write: {0}")]
    Output(#[from] std::io::Error),
}

/// Runs the command; results go to `output`, progress to standard error.
///
/// # Errors
/// What went wrong, with what was done before it.
pub async fn run(
    command: &Command,
    settings: &Settings,
    output: &mut impl Write,
) -> Result<(), LettersError> {
    let mut store = Store::open(settings).await?;
    match command {
        Command::List { filter, output: format } => {
            let mut shown = 0;
            let mut after = None;
            if matches!(format, Output::Table) {
                writeln!(output, "{}", render::heading())?;
            }
            loop {
                let page = store.page(filter, true, after, filter.limit().saturating_sub(shown)).await?;
                let Some(last) = page.last() else { return Ok(()) };
                (after, shown) = (Some(last.id), shown + page.len() as i64);
                for letter in &page {
                    let line = match format {
                        Output::Table => render::line(letter),
                        Output::Json => render::json(letter).to_string(),
                    };
                    writeln!(output, "{line}")?;
                }
            }
        }
        Command::Count { filter } => {
            let counts = store.count(filter).await?;
            let mut ordered: Vec<_> = counts.iter().collect();
            ordered.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
            for (reason, (count, replayed)) in ordered {
                writeln!(output, "{count:>10}  {reason} ({replayed} of them replayed)")?;
            }
            let total: i64 = counts.values().map(|(count, _)| count).sum();
            writeln!(output, "{total:>10}  in all")?;
            Ok(())
        }
        Command::Show { id } => {
            let letter = store.one(*id).await?;
            let letter = letter.ok_or_else(|| LettersError::Unknown(*id, store.place().to_owned()))?;
            write!(output, "{}", render::whole(&letter))?;
            Ok(())
        }
        Command::Replay { filter, options } => {
            replay::run(&mut store, filter, options, settings, output).await
        }
    }
}
