//! Traces over OTLP, by gRPC or HTTP, configured by the environment variables of the OpenTelemetry specification.

use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{
    Compression, ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::environment::{self, Export, Lookup, Transport};
use super::sampler::Chosen;
use super::trust::Trust;
use super::{BoxedLayer, TelemetryError, resource};

/// How long the last spans may take to reach the collector; well inside every grace period.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What exports traces.
#[derive(Debug)]
pub(super) struct Traces {
    pub(super) provider: SdkTracerProvider,
    /// Whether a span without a parent is kept for the sake of its links.
    pub(super) goes_by_links: bool,
}

/// Starts the export of traces, or nothing when no endpoint is configured or tracing is switched off.
pub(super) fn start(
    service_name: &'static str,
    version: &'static str,
    lookup: Lookup<'_>,
) -> Result<Option<Traces>, TelemetryError> {
    if !environment::is_wanted(lookup)? {
        return Ok(None);
    }
    let sampler = Chosen::read(lookup)?;
    let reads_trace_context = environment::reads_trace_context(lookup)?;
    let goes_by_links = sampler.goes_by_links && reads_trace_context;
    environment::warn_of_the_ignored(lookup);
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_resource(resource::read(service_name, version, lookup)?)
        .with_batch_exporter(exporter(Export::read(lookup)?, lookup)?)
        .build();
    if reads_trace_context {
        global::set_text_map_propagator(TraceContextPropagator::new());
    }
    global::set_tracer_provider(provider.clone());
    Ok(Some(Traces { provider, goes_by_links }))
}

/// The layer that turns spans into traces. It has a filter of its own: a quiet log must not switch traces off, the
/// spans of the exporter's own connection must not be exported in turn, and those of libraries say nothing that ours
/// do not.
pub(super) fn layer(provider: &SdkTracerProvider, service_name: &'static str) -> BoxedLayer {
    let libraries = [
        "h2",
        "hyper",
        "hyper_util",
        "kube",
        "reqwest",
        "rustls",
        "tonic",
        "tower",
        "opentelemetry",
        "opentelemetry_sdk",
        "opentelemetry_otlp",
    ];
    let filter = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(libraries.map(|target| (target, LevelFilter::OFF)));
    tracing_opentelemetry::layer().with_tracer(provider.tracer(service_name)).with_filter(filter).boxed()
}

/// Flushes and ends the exporter.
pub(super) fn shutdown(provider: &SdkTracerProvider) {
    let end = || provider.shutdown_with_timeout(SHUTDOWN);
    // The exporter needs the runtime's threads while this one waits; a runtime of one thread has none to spare.
    let ended = match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(end),
        _ => end(),
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "The last traces may not have reached the collector");
    }
}

fn exporter(export: Export, lookup: Lookup<'_>) -> Result<SpanExporter, TelemetryError> {
    let trust = if export.tls { Some(Trust::read(lookup)?) } else { None };
    let exporter = match export.transport {
        Transport::Grpc => grpc(export, trust.as_ref()),
        Transport::Http => http(export, http_client(trust, export.timeout)?),
    };
    Ok(exporter?)
}

fn grpc(export: Export, trust: Option<&Trust>) -> Result<SpanExporter, ExporterBuildError> {
    let mut builder = SpanExporter::builder().with_tonic().with_timeout(export.timeout);
    if let Some(trust) = trust {
        builder = builder.with_tls_config(trust.for_grpc());
    }
    if export.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build()
}

fn http(export: Export, client: reqwest::blocking::Client) -> Result<SpanExporter, ExporterBuildError> {
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(export.timeout)
        .with_http_client(client);
    if export.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build()
}

/// The client waits by blocking: spans are sent from a thread that belongs to no Tokio runtime.
fn http_client(trust: Option<Trust>, timeout: Duration) -> Result<reqwest::blocking::Client, TelemetryError> {
    // It has a runtime of its own, which must not be made within another.
    let made = std::thread::spawn(move || {
        let builder = reqwest::blocking::Client::builder().timeout(timeout);
        match trust {
            Some(trust) => trust.for_http(builder)?.build(),
            None => builder.tls_certs_only([]).build(),
        }
    });
    match made.join() {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(TelemetryError::HttpClient(format!("{error:?}"))),
        Err(_) => Err(TelemetryError::HttpClient("it panicked".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::environment::tests::environment;
    use super::*;

    #[test]
    fn without_an_endpoint_there_is_no_provider() {
        assert!(start("svc", "1", &environment(&[])).unwrap().is_none());
    }
}
