//! The controller's binary.

use std::io::Write;
use std::process::ExitCode;

use analytics_controller::args::{Cli, Command};
use analytics_runtime::telemetry::{self, LogOptions, TelemetryError};
use clap::Parser;

// One worker does all but what blocks: each further one would wake the others for every pipeline, and keep memory of its own.
#[tokio::main(worker_threads = 1)]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Crd) => print_crd(),
        Some(Command::MetricsReference) => print_metrics(),
        // On the worker, which need not be woken then by this thread.
        None => tokio::spawn(serve(cli)).await.unwrap_or_else(|error| Err(error.into())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A log line would be lost when it is logging that failed.
            let _ = writeln!(std::io::stderr(), "analytics-controller: {}", chain(error.as_ref()));
            // A malformed setting, as of a malformed argument.
            if error.is::<TelemetryError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn print_crd() -> Result<(), Failure> {
    let yaml = analytics_controller::crd_yaml()?;
    std::io::stdout().write_all(yaml.as_bytes())?;
    Ok(())
}

fn print_metrics() -> Result<(), Failure> {
    let table = analytics_controller::metrics_reference()?;
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(())
}

async fn serve(cli: Cli) -> Result<(), Failure> {
    analytics_runtime::tls::install_crypto_provider();
    let log = LogOptions { level: cli.settings.log_level.clone(), format: cli.settings.log_format };
    let telemetry = telemetry::init("analytics-controller", env!("CARGO_PKG_VERSION"), &log)?;
    let outcome = analytics_controller::run(cli.settings).await;
    telemetry.shutdown();
    Ok(outcome?)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
