//! Traces over OTLP, by gRPC or HTTP, configured by the environment variables of the OpenTelemetry specification
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue, global};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{BoxedLayer, TelemetryError};

/// How long the last spans may take to reach the collector; well inside every grace period.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Reads one environment variable; a parameter, because tests must not change the environment of a process with
/// many threads.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The tracer provider, or `None` when no endpoint is configured or tracing is switched off.
pub(super) fn provider(
    service_name: &'static str,
    version: &'static str,
    lookup: Lookup<'_>,
) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if !is_wanted(lookup) {
        return Ok(None);
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter(transport(lookup)?, lookup)?)
        .with_resource(resource(service_name, version))
        .build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    global::set_tracer_provider(provider.clone());
    Ok(Some(provider))
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

fn is_wanted(lookup: Lookup<'_>) -> bool {
    let is =
        |name: &str, value: &str| lookup(name).is_some_and(|text| text.trim().eq_ignore_ascii_case(value));
    let has_endpoint = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
        .iter()
        .any(|name| lookup(name).is_some_and(|text| !text.trim().is_empty()));
    has_endpoint && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Grpc,
    Http,
}

fn transport(lookup: Lookup<'_>) -> Result<Transport, TelemetryError> {
    let protocol = first_set(lookup, ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]);
    match protocol.as_deref() {
        None | Some("grpc") => Ok(Transport::Grpc),
        Some("http/protobuf") => Ok(Transport::Http),
        Some(other) => Err(TelemetryError::Protocol(other.to_owned())),
    }
}

fn exporter(transport: Transport, lookup: Lookup<'_>) -> Result<SpanExporter, TelemetryError> {
    let exporter = match transport {
        Transport::Grpc => {
            let builder = SpanExporter::builder().with_tonic();
            if uses_tls(lookup) {
                // The exporter's own default trusts no authority at all.
                builder.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build()?
            } else {
                builder.build()?
            }
        }
        Transport::Http => {
            let client = http_client(uses_tls(lookup), timeout(lookup))?;
            SpanExporter::builder()
                .with_http()
                .with_protocol(Protocol::HttpBinary)
                .with_http_client(client)
                .build()?
        }
    };
    Ok(exporter)
}

/// The client waits by blocking: spans are sent from a thread that belongs to no Tokio runtime.
fn http_client(tls: bool, timeout: Duration) -> Result<reqwest::blocking::Client, TelemetryError> {
    // It has a runtime of its own, which must not be made within another.
    let made = std::thread::spawn(move || {
        let builder = reqwest::blocking::Client::builder().timeout(timeout);
        if tls { builder.build() } else { builder.tls_certs_only([]).build() }
    });
    match made.join() {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(TelemetryError::HttpClient(format!("{error:?}"))),
        Err(_) => Err(TelemetryError::HttpClient("it panicked".to_owned())),
    }
}

/// The system's authorities are looked up only where they are needed: an image may have none.
fn uses_tls(lookup: Lookup<'_>) -> bool {
    first_set(lookup, ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"])
        .is_some_and(|endpoint| endpoint.to_ascii_lowercase().starts_with("https:"))
}

// In milliseconds; the default is the specification's.
fn timeout(lookup: Lookup<'_>) -> Duration {
    let set = first_set(lookup, ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]);
    Duration::from_millis(set.and_then(|text| text.parse().ok()).unwrap_or(10_000))
}

// The variable for traces wins over the one for all signals, and an empty one counts as unset (OpenTelemetry
// specification, "Configuration").
fn first_set(lookup: Lookup<'_>, names: [&str; 2]) -> Option<String> {
    names
        .iter()
        .find_map(|name| lookup(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
}

fn resource(service_name: &'static str, version: &'static str) -> Resource {
    let detected = Resource::builder().build();
    // The SDK fills in `unknown_service:…` when neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES has a name.
    let named = detected
        .get(&Key::from_static_str("service.name"))
        .is_some_and(|name| !name.as_str().starts_with("unknown_service"));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", version));
    if named { builder.build() } else { builder.with_service_name(service_name).build() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn traces_are_wanted_only_with_an_endpoint_and_nothing_against_it() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        let cases: [(&'static [(&str, &str)], bool); 7] = [
            (&[], false),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false),
            (&[("OTEL_TRACES_SAMPLER", "always_on")], false),
            (&[ENDPOINT], true),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4317")], true),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")], false),
            (&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], false),
        ];
        for (pairs, wanted) in cases {
            assert_eq!(is_wanted(&environment(pairs)), wanted, "{pairs:?}");
        }
    }

    #[test]
    fn without_an_endpoint_there_is_no_provider() {
        assert!(provider("svc", "1", &environment(&[])).unwrap().is_none());
    }

    #[test]
    fn the_protocol_is_the_one_for_traces_then_the_one_for_all_then_grpc() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
        let cases: [(&'static [(&str, &str)], Transport); 6] = [
            (&[], Transport::Grpc),
            (&[(ALL, "")], Transport::Grpc),
            (&[(ALL, "grpc")], Transport::Grpc),
            (&[(ALL, "http/protobuf")], Transport::Http),
            (&[(ALL, "http/protobuf"), (TRACES, "grpc")], Transport::Grpc),
            (&[(ALL, "grpc"), (TRACES, "http/protobuf")], Transport::Http),
        ];
        for (pairs, expected) in cases {
            assert_eq!(transport(&environment(pairs)).unwrap(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn authorities_are_looked_up_for_https_only() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let cases: [(&'static [(&str, &str)], bool); 4] = [
            (&[(ALL, "http://collector:4318")], false),
            (&[(ALL, "HTTPS://collector:4318")], true),
            (&[(ALL, "https://collector:4318"), (TRACES, "http://collector:4318/v1/traces")], false),
            (&[(ALL, "http://collector:4318"), (TRACES, "https://collector/v1/traces")], true),
        ];
        for (pairs, expected) in cases {
            assert_eq!(uses_tls(&environment(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_request_may_take_ten_seconds_or_what_is_set() {
        let set = environment(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "2500")]);
        assert_eq!(timeout(&set), Duration::from_millis(2_500));
        assert_eq!(timeout(&environment(&[])), Duration::from_secs(10));
    }

    #[test]
    fn a_protocol_that_is_not_built_in_is_refused() {
        let pairs = environment(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]);
        let error = transport(&pairs).unwrap_err().to_string();
        assert!(error.contains("`http/json`") && error.contains("`http/protobuf`"), "{error}");
    }

    #[test]
    fn the_resource_carries_name_and_version() {
        let resource = resource("analytics-consumer", "1.2.3");
        let value =
            |key: &'static str| resource.get(&Key::from_static_str(key)).map(|value| value.to_string());
        assert_eq!(value("service.name").as_deref(), Some("analytics-consumer"));
        assert_eq!(value("service.version").as_deref(), Some("1.2.3"));
    }
}
