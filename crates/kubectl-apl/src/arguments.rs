//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Look after AnalyticsPipelines: the frequent things, short.
#[derive(Debug, Parser)]
#[command(name = "kubectl-apl", bin_name = "kubectl apl", version, max_term_width = 110)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Which cluster and namespace.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Which cluster and namespace, in kubectl's own words.
#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Namespace of the pipeline; unset: the namespace of the context.
    #[arg(long, short, global = true)]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig; unset: the current one.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show conditions, consumers, lag by partition, the last decision and dead letters at a glance.
    Status {
        /// Name of the pipeline.
        name: String,
    },
    /// Say in words what the operator sees, what it decided about the number of consumers, and what limits it.
    #[command(
        after_help = "Examples:\n  kubectl apl explain user-events\n  kubectl apl explain user-events --record >decisions.jsonl\n  kubectl apl explain --replay decisions.jsonl"
    )]
    Explain {
        /// Name of the pipeline.
        #[arg(required_unless_present = "replay")]
        name: Option<String>,
        /// Print the latest decisions as the operator has recorded them, to be replayed anywhere.
        #[arg(long)]
        record: bool,
        /// Make every decision of such a recording again (`-` for standard input); fails unless each is the same, bit for bit. Needs no cluster.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "record"])]
        replay: Option<PathBuf>,
        /// Namespace of the operator, whose leader has the recorded decisions.
        #[arg(long, default_value = "analytics-system")]
        operator_namespace: String,
    },
    /// Stop all consumers; offsets and data stay.
    Pause {
        /// Name of the pipeline.
        name: String,
    },
    /// Let consumers go on where they stopped.
    Resume {
        /// Name of the pipeline.
        name: String,
    },
    /// Look at dead letters, or replay them, inside a running consumer.
    #[command(
        after_help = "Examples:\n  kubectl apl dead-letters user-events\n  kubectl apl dead-letters user-events count\n  kubectl apl dead-letters user-events replay --dry-run"
    )]
    DeadLetters {
        /// Name of the pipeline.
        name: String,
        /// What `analytics-consumer dead-letters` is told; unset: list.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Check files with the rules of the API server, without any cluster.
    Validate {
        /// YAML files; `-` for standard input. What is no AnalyticsPipeline in them is passed over.
        #[arg(long = "filename", short = 'f', required = true, num_args = 1..)]
        files: Vec<PathBuf>,
    },
    /// Print a completion script, for example: source <(kubectl apl completion bash)
    Completion {
        /// Which shell.
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_recording_is_replayed_without_a_pipeline_and_nothing_else_is() {
        let table = [
            (vec!["explain", "clicks"], true),
            (vec!["explain", "clicks", "--record"], true),
            (vec!["explain", "--replay", "f"], true),
            (vec!["explain"], false),
            (vec!["explain", "clicks", "--replay", "f"], false),
        ];
        for (words, good) in table {
            let parsed = Arguments::try_parse_from(std::iter::once("kubectl-apl").chain(words.clone()));
            assert_eq!(parsed.is_ok(), good, "{words:?}");
        }
    }

    #[test]
    fn words_behind_the_name_go_to_the_consumer_as_they_are() {
        let words = ["kubectl-apl", "-n", "shop", "dead-letters", "clicks", "replay", "--dry-run"];
        let arguments = Arguments::try_parse_from(words).unwrap();
        assert_eq!(arguments.connection.namespace.as_deref(), Some("shop"));
        let Command::DeadLetters { name, arguments } = arguments.command else { panic!("another command") };
        assert_eq!((name.as_str(), arguments), ("clicks", vec!["replay".to_owned(), "--dry-run".to_owned()]));
    }
}
