//! Logs on standard error, and traces over OTLP when an endpoint is configured.
//!
//! Without an endpoint there is no OpenTelemetry layer at all: a span then costs what a disabled log line costs.

mod environment;
mod otlp;
mod resource;
mod sampler;
mod trust;

use std::fmt;
use std::io;
use std::panic::PanicHookInfo;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use otlp::Traces;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format(other.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What to log, and how.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A level (`info`) or a list of them per module (`info,librdkafka=debug`), as `tracing_subscriber::EnvFilter`
    /// reads it.
    pub level: String,
    /// Text or JSON.
    pub format: LogFormat,
}

/// Why telemetry could not start. Each is a setting to mend.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log format is unknown.
    #[error("`{0}` is not a log format: write `text` or `json`")]
    Format(String),
    /// The log level is not understood.
    #[error(
        "`{level}` is not a log level: {problem}; write off, error, warn, info, debug or trace, or a list like `info,librdkafka=debug`"
    )]
    Level {
        /// What was configured.
        level: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A variable of OpenTelemetry has a value that is not understood.
    #[error("{name} is `{value}`: write {allowed}")]
    Value {
        /// The variable.
        name: String,
        /// What it is.
        value: String,
        /// What it can be.
        allowed: String,
    },
    /// A variable of OpenTelemetry is understood, and cannot be used.
    #[error("{name} cannot be used: {problem}")]
    Unusable {
        /// The variable.
        name: String,
        /// What is wrong with it, without what may be secret.
        problem: String,
    },
    /// The endpoint or another OTLP setting is not usable.
    #[error("traces cannot be exported over OTLP: {0}; check the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// There is no way to speak HTTP.
    #[error(
        "the HTTP client for traces cannot be made: {0}; an https endpoint needs the certificates of authorities in the image (ca-certificates)"
    )]
    HttpClient(String),
    /// There is a global subscriber already.
    #[error("telemetry is already running in this process")]
    AlreadyRunning,
}

static EXPORTS_TRACES: AtomicBool = AtomicBool::new(false);
static GOES_BY_LINKS: AtomicBool = AtomicBool::new(false);

/// Whether spans of this process go anywhere. What is only worth doing for traces asks this first.
#[must_use]
pub fn exports_traces() -> bool {
    EXPORTS_TRACES.load(Ordering::Relaxed)
}

/// Whether a span without a parent is kept if one of its links is to a trace that is kept. Then the links have to be there
/// before the span's context is asked for.
#[must_use]
pub fn goes_by_links() -> bool {
    GOES_BY_LINKS.load(Ordering::Relaxed)
}

/// Keeps telemetry running. Call [`TelemetryGuard::shutdown`] last, so that the last spans are sent.
#[derive(Debug)]
#[must_use = "the last spans are lost unless it is shut down"]
pub struct TelemetryGuard {
    traces: Option<Traces>,
}

impl TelemetryGuard {
    /// Sends what is still held, waiting at most five seconds for the collector.
    pub fn shutdown(self) {
        if let Some(traces) = self.traces {
            otlp::shutdown(&traces.provider);
        }
    }
}

/// Starts logs, and traces if `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set (unless
/// `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`). The sampler, the batch sizes, headers, certificates and
/// resource attributes come from the `OTEL_*` variables of the specification (`docs/how-to/tracing.md`). From here on a
/// panic is a log line. Call it once, inside a Tokio runtime that outlives it.
///
/// # Errors
/// [`TelemetryError`] names the setting that is wrong.
pub fn init(
    service_name: &'static str,
    version: &'static str,
    log: &LogOptions,
) -> Result<TelemetryGuard, TelemetryError> {
    let logs = log_layer(log)?;
    // What the exporter has to say while it starts would be lost: the log needs the layer of the traces to begin.
    let meanwhile = tracing_subscriber::registry().with(log_layer(log)?);
    let traces = tracing::subscriber::with_default(meanwhile, || {
        otlp::start(service_name, version, &|name| std::env::var(name).ok())
    })?;
    let layer = traces.as_ref().map(|traces| otlp::layer(&traces.provider, service_name));
    let layers: Vec<BoxedLayer> = std::iter::once(logs).chain(layer).collect();
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| TelemetryError::AlreadyRunning)?;
    EXPORTS_TRACES.store(traces.is_some(), Ordering::Relaxed);
    GOES_BY_LINKS.store(traces.as_ref().is_some_and(|traces| traces.goes_by_links), Ordering::Relaxed);
    std::panic::set_hook(Box::new(log_panic));
    Ok(TelemetryGuard { traces })
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn log_layer(log: &LogOptions) -> Result<BoxedLayer, TelemetryError> {
    let filter = log_filter(&log.level)?;
    // Colour codes are noise in a file and in `kubectl logs`, which is where these lines are read.
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    Ok(match log.format {
        LogFormat::Text => layer.with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    })
}

fn log_filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refuse = |problem: String| TelemetryError::Level { level: level.to_owned(), problem };
    if level.trim().is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    // EnvFilter takes a lone unknown word for the name of a module and logs nothing else: a typing error in the level
    // would silence the process.
    for word in level.split(',').map(str::trim).filter(|word| !word.contains(['=', ':', '['])) {
        word.parse::<LevelFilter>().map_err(|_| refuse(format!("`{word}` is unknown")))?;
    }
    EnvFilter::try_new(level).map_err(|error| refuse(error.to_string()))
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    // Captured only when RUST_BACKTRACE asks for it.
    let backtrace = std::backtrace::Backtrace::capture();
    tracing::error!(message = %panic_message(info), %location, %backtrace, "Panic");
}

fn panic_message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_read_and_written_alike() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert!("yaml".parse::<LogFormat>().unwrap_err().to_string().contains("`yaml`"));
    }

    #[test]
    fn levels_and_lists_of_them_are_understood() {
        for level in [
            "info",
            "off",
            "INFO",
            "warn,librdkafka=debug",
            "debug,hyper=off,analytics_consumer::engine=trace",
        ] {
            assert!(log_filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_typing_error_in_the_level_is_refused_and_named() {
        for level in ["", "verbose", "inof", "info,librdkafka=lots"] {
            let error = log_filter(level).unwrap_err().to_string();
            assert!(error.contains(&format!("`{level}`")), "{error}");
        }
    }
}
