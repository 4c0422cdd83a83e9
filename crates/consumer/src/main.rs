//! The consumer's entry point: arguments, settings, exit codes.

use std::process::ExitCode;
use std::sync::Arc;

use analytics_consumer::metrics::Metrics;
use analytics_consumer::settings::{self, Settings};
use analytics_consumer::sink::Database;
use analytics_consumer::sink::rollups::Range;
use analytics_consumer::status::Status;
use analytics_consumer::{engine, letters};
use analytics_runtime::health::Health;
use analytics_runtime::telemetry::{LogOptions, TelemetryError};
use analytics_runtime::{build_info, catalogue, server, shutdown, telemetry, tls};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

/// What `/health` calls this service; older deployments look for this name.
const SERVICE: &str = "analytics-service";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Moves JSON events from a Kafka topic into PostgreSQL, each exactly once.
#[derive(Parser)]
#[command(name = "analytics-consumer", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Read, store, serve metrics and health until told to stop (the default).
    Run,
    /// Bring the database schema up to date and exit.
    Migrate,
    /// Count the rows of a range of hours anew into the rollups, while consumers run: for rows that were stored before
    /// there were rollups, or changed by hand. It needs the settings of the pipeline whose table it is.
    RebuildRollups {
        /// From the hour of this moment on, such as 2024-11-09T10:00:00Z.
        #[arg(long)]
        from: chrono::DateTime<chrono::Utc>,
        /// Up to this moment; an hour that has begun counts whole.
        #[arg(long)]
        to: chrono::DateTime<chrono::Utc>,
    },
    /// Look at the records that could not be stored, and send them again. It needs the settings of the pipeline.
    #[command(subcommand)]
    DeadLetters(letters::Command),
    /// Print the settings as a Markdown table.
    SettingsReference,
    /// Print the metrics as a Markdown table.
    MetricsReference,
}

/// A malformed setting or argument.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let matches = Arguments::command().after_help(settings::help_text()).get_matches();
    let command = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments.command.unwrap_or(Command::Run),
        Err(error) => error.exit(),
    };
    if matches!(command, Command::SettingsReference) {
        return print(&settings::markdown());
    }
    if matches!(command, Command::MetricsReference) {
        return match Metrics::families() {
            Ok(families) => print(&catalogue::markdown(families)),
            Err(error) => fail(&error, 1),
        };
    }
    let settings = match Settings::from_environment() {
        Ok(settings) => settings,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let result = runtime.block_on(async {
        tls::install_crypto_provider();
        match command {
            Command::Migrate => migrate(&settings).await,
            Command::RebuildRollups { from, to } => rebuild(&settings, Range { from, to }).await,
            Command::DeadLetters(command) => dead_letters(&settings, &command).await,
            _ => run(&settings).await,
        }
    });
    // Blocking questions to an unreachable server must not hold up the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<TelemetryError>() => fail(error.as_ref(), EXIT_USAGE),
        Err(error) => fail(error.as_ref(), 1),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn migrate(settings: &Settings) -> Result<(), Failure> {
    let log = LogOptions { level: settings.log_level.clone(), format: settings.log_format };
    let telemetry = telemetry::init(SERVICE, VERSION, &log)?;
    let database = Database::new(&settings.database, &settings.instance)?;
    let result = engine::migrate(settings, &database).await;
    if result.is_ok() {
        tracing::info!(database = database.place(), table = %settings.database.table, "The schema is up to date");
    }
    telemetry.shutdown();
    Ok(result?)
}

async fn dead_letters(settings: &Settings, command: &letters::Command) -> Result<(), Failure> {
    let log = LogOptions { level: settings.log_level.clone(), format: settings.log_format };
    let telemetry = telemetry::init(SERVICE, VERSION, &log)?;
    let result = letters::run(command, settings, &mut std::io::stdout().lock()).await;
    telemetry.shutdown();
    match result {
        // Whoever reads the list has seen enough.
        Err(letters::LettersError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

async fn rebuild(settings: &Settings, range: Range) -> Result<(), Failure> {
    let log = LogOptions { level: settings.log_level.clone(), format: settings.log_format };
    let telemetry = telemetry::init(SERVICE, VERSION, &log)?;
    let database = Database::new(&settings.database, &settings.instance)?;
    let result = engine::rebuild_rollups(settings, &database, range).await;
    if let Ok((hours, events)) = result {
        tracing::info!(table = %settings.database.table, hours, events, "The rollups are what the table says");
    }
    telemetry.shutdown();
    Ok(result.map(drop)?)
}

async fn run(settings: &Settings) -> Result<(), Failure> {
    let log = LogOptions { level: settings.log_level.clone(), format: settings.log_format };
    let telemetry = telemetry::init(SERVICE, VERSION, &log)?;
    let stop = shutdown::on_termination_signal()?;
    let registry = prometheus::Registry::new();
    build_info(&registry, "analytics-consumer", VERSION);
    let metrics = Arc::new(Metrics::new(&registry, &settings.kafka.topic)?);
    let health = Health::new(SERVICE);
    let listener = server::bind(settings.metrics_port).await?;
    tracing::info!(
        version = VERSION,
        address = %listener.local_addr()?,
        brokers = settings.kafka.brokers,
        topic = settings.kafka.topic,
        group = settings.kafka.group_id,
        table = %settings.database.table,
        "Starting; records are read committed"
    );
    // The server outlives the engine, so that the last moments can be observed too.
    let serving = CancellationToken::new();
    let server = tokio::spawn(server::serve(listener, registry, health.clone(), serving.clone()));
    let result = engine::run(settings, metrics, Arc::new(Status::new(health)), stop).await;
    serving.cancel();
    if let Ok(Err(error)) = server.await {
        tracing::warn!(%error, "The metrics server ended early");
    }
    tracing::info!("Stopped");
    telemetry.shutdown();
    Ok(result?)
}

/// One line on standard error: what is wrong and what to do.
#[allow(clippy::print_stderr)] // there is no log yet when a setting is wrong
fn fail(error: &(impl std::fmt::Display + ?Sized), code: u8) -> ExitCode {
    eprintln!("analytics-consumer: {error}");
    ExitCode::from(code)
}

#[allow(clippy::print_stdout)] // the reference is the command's output
fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}
