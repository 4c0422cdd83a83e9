//! The command line.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use analytics_runtime::telemetry::LogFormat;
use clap::{Args, Parser, Subcommand};

/// Runs AnalyticsPipelines on Kubernetes: makes their consumers, keeps them as described and scales them by lag.
#[derive(Debug, Parser)]
#[command(name = "analytics-controller", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do; without a command the controller runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of the controller.
    #[command(flatten)]
    pub settings: Settings,
}

/// Commands beside running the controller.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the CustomResourceDefinition as YAML and exit.
    Crd,
    /// Print the metrics as a Markdown table and exit.
    MetricsReference,
}

/// Settings of the controller, each as a flag or a variable of the environment.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Image of consumers and migrations whose pipeline names none; normally the image of the controller itself.
    #[arg(long, env = "CONSUMER_IMAGE")]
    pub consumer_image: Option<String>,
    /// Namespaces whose pipelines are looked after, separated by commas; empty for all namespaces.
    #[arg(long, env = "WATCH_NAMESPACE", default_value = "")]
    pub watch_namespace: String,
    /// Port of /health, /livez, /readyz and /metrics.
    #[arg(long, env = "METRICS_PORT", default_value_t = 9090)]
    pub metrics_port: u16,
    /// Seconds from one look at the lag of a pipeline to the next; one with nothing to do rests up to twice as long (8.5 seconds
    /// at most, if this is less), and is woken by what arrives.
    #[arg(long, env = "POLL_INTERVAL_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub poll_interval_seconds: u64,
    /// Seconds after which an unanswered request to Kafka counts as failed.
    #[arg(long, env = "KAFKA_TIMEOUT_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub kafka_timeout_seconds: u64,
    /// Most pipelines that are worked on at the same time.
    #[arg(long, env = "CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Namespace of the Lease by which one controller leads; unset: the pod's own namespace, or no election outside a cluster.
    #[arg(long, env = "POD_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease by which one controller leads.
    #[arg(long, env = "LEASE_NAME", default_value = "analytics-controller")]
    pub lease_name: String,
    /// Name of this controller in the Lease and in Events; unset: the host name, which in a pod is the pod's name.
    #[arg(long, env = "POD_NAME")]
    pub identity: Option<String>,
    /// Labels of each pipeline's PodMonitor and PrometheusRule, by which a Prometheus chooses what it reads, as `key=value`
    /// separated by commas; a pipeline's own labels win.
    #[arg(long, env = "MONITOR_LABELS", default_value = "")]
    pub monitor_labels: MonitorLabels,
    /// Address below which docs/runbooks of this repository is published; each alert of a pipeline links to its runbook there. Empty:
    /// the links are paths in the repository.
    #[arg(long, env = "RUNBOOK_BASE_URL", default_value = "")]
    pub runbook_base_url: String,
    /// Log level or filter, for example `info` or `info,analytics_controller=debug`.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log format: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Labels as one setting writes them: `key=value`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorLabels(pub BTreeMap<String, String>);

impl FromStr for MonitorLabels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let label = |pair: &str| match pair.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(format!("`{pair}` is not a label: write key=value")),
        };
        pairs.map(label).collect::<Result<_, _>>().map(Self)
    }
}

impl Settings {
    /// The namespaces to watch; one empty name stands for all of them.
    #[must_use]
    pub fn watch_namespaces(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .watch_namespace
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        if names.is_empty() { vec![String::new()] } else { names }
    }

    /// Time from one look at the lag of a pipeline to the next.
    #[must_use]
    pub fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_interval_seconds)
    }

    /// Time after which an unanswered request to Kafka counts as failed.
    #[must_use]
    pub fn kafka_timeout(&self) -> Duration {
        Duration::from_secs(self.kafka_timeout_seconds)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn namespaces_are_a_list_and_none_means_all() {
        for (text, expected) in [("", &[""][..]), (" , ", &[""]), ("a", &["a"]), ("b, a,b", &["a", "b"])] {
            let cli = Cli::try_parse_from(["analytics-controller", "--watch-namespace", text]).unwrap();
            assert_eq!(cli.settings.watch_namespaces(), expected, "{text:?}");
        }
    }

    #[test]
    fn labels_are_pairs_and_none_is_fine() {
        let parse = |text: &str| text.parse::<MonitorLabels>().map(|labels| labels.0);
        assert_eq!(parse(""), Ok(BTreeMap::new()));
        let two = [("release", "prometheus"), ("team", "")];
        let two = two.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(parse("release=prometheus, team="), Ok(BTreeMap::from(two)));
        for wrong in ["release", "=x"] {
            assert!(parse(wrong).unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn nothing_has_to_be_set() {
        let cli = Cli::try_parse_from(["analytics-controller"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.settings.poll_interval(), Duration::from_secs(5));
        assert_eq!(cli.settings.metrics_port, 9090);
    }
}
