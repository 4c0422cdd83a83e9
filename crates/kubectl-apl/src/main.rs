//! `kubectl apl`: the frequent things about an AnalyticsPipeline, short.
//!
//! Everything here can be done with kubectl alone; this only gathers and words it. What decides (rendering, rules) is pure;
//! what talks to the cluster is in one file.

mod arguments;
mod cluster;
mod complete;
mod decisions;
mod explain;
mod metrics;
mod status;
mod table;
mod validate;

use std::io::Write as _;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::{CommandFactory, Parser};
use cluster::{Cluster, Failure};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    analytics_runtime::tls::install_crypto_provider();
    let mut words = std::env::args_os();
    if complete::is_wanted(words.next().as_deref()) {
        let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let _ = std::io::stdout().write_all(complete::answer(&words).await.as_bytes());
        return ExitCode::SUCCESS;
    }
    match run(Arguments::parse()).await {
        Ok((text, code)) => {
            // A closed pipe (`… | head`) is no failure.
            let _ = std::io::stdout().write_all(text.as_bytes());
            code
        }
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "kubectl apl: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(String, ExitCode), Failure> {
    let success = |text: String| Ok((text, ExitCode::SUCCESS));
    match arguments.command {
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "kubectl-apl", &mut text);
            success(String::from_utf8_lossy(&text).into_owned())
        }
        Command::Validate { files } => {
            let (text, good) = validate::files(&files)?;
            Ok((text, if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
        }
        Command::Status { name } => {
            let cluster = Cluster::connect(&arguments.connection).await?;
            let pipeline = cluster.pipeline(&name).await?;
            let consumers = cluster.consumers(&name).await?;
            success(status::render(&pipeline, &consumers))
        }
        Command::Explain { replay: Some(file), .. } => {
            let (text, same) = decisions::again(&file)?;
            Ok((text, if same { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
        }
        Command::Explain { name, record, operator_namespace, .. } => {
            // The command line is not accepted with neither a name nor a file.
            let name = name.unwrap_or_default();
            let cluster = Cluster::connect(&arguments.connection).await?;
            let pipeline = cluster.pipeline(&name).await?;
            let recording = cluster.recording(&operator_namespace, &name).await;
            if record {
                return success(recording?);
            }
            let status = explain::render(&pipeline);
            success(match recording {
                Ok(recording) => format!("{status}\n{}", decisions::latest(&recording)?),
                Err(failure) => format!("{status}\nThis is what the status says; {failure}.\n"),
            })
        }
        Command::Pause { name } => {
            success(Cluster::connect(&arguments.connection).await?.suspend(&name, true).await?)
        }
        Command::Resume { name } => {
            success(Cluster::connect(&arguments.connection).await?.suspend(&name, false).await?)
        }
        Command::DeadLetters { name, arguments: words } => {
            let cluster = Cluster::connect(&arguments.connection).await?;
            Ok((String::new(), cluster.dead_letters(&arguments.connection, &name, &words).await?))
        }
    }
}
