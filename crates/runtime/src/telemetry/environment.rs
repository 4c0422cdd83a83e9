//! The `OTEL_*` variables of the OpenTelemetry specification, read and checked
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).
//!
//! The SDK ignores what it does not understand, and a misspelt sampler then keeps every trace. Here it is an error.

use std::time::Duration;

use super::TelemetryError;

/// Reads one environment variable; a parameter, because tests must not change the environment of a process with
/// many threads.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variable for traces, which wins, and the one for all signals.
type Names = [&'static str; 2];

pub(super) const ENDPOINT: Names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOL: Names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const COMPRESSION: Names = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const HEADERS: Names = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const INSECURE: Names = ["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"];
const TIMEOUT: Names = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const EXPORTER: Names = ["OTEL_TRACES_EXPORTER"; 2];
const DISABLED: Names = ["OTEL_SDK_DISABLED"; 2];
const PROPAGATORS: &str = "OTEL_PROPAGATORS";

/// Whole numbers that the SDK reads, and the least that makes sense.
const NUMBERS: [(&str, u32); 8] = [
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1),
    ("OTEL_BSP_MAX_QUEUE_SIZE", 1),
    ("OTEL_BSP_SCHEDULE_DELAY", 0),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", 1),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", 1),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", 0),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", 0),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", 0),
];

/// What the specification has and the SDK does not read.
const WITHOUT_EFFECT: [&str; 7] = [
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_CONFIG_FILE",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
];

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Grpc,
    Http,
}

/// How to export spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) transport: Transport,
    pub(super) gzip: bool,
    pub(super) tls: bool,
    /// How long one request may take.
    pub(super) timeout: Duration,
}

impl Export {
    /// What the variables say.
    pub(super) fn read(lookup: Lookup<'_>) -> Result<Self, TelemetryError> {
        let transport = transport(lookup)?;
        check_headers(lookup)?;
        check_numbers(lookup)?;
        let milliseconds = first_set(lookup, TIMEOUT).and_then(|(_, text)| text.parse().ok());
        Ok(Self {
            transport,
            gzip: choice(lookup, COMPRESSION, &["none", "gzip"])? == "gzip",
            tls: uses_tls(transport, lookup)?,
            // The default is the specification's.
            timeout: Duration::from_millis(milliseconds.unwrap_or(10_000)),
        })
    }
}

/// Whether traces are wanted: there is an endpoint, and nothing against it.
pub(super) fn is_wanted(lookup: Lookup<'_>) -> Result<bool, TelemetryError> {
    if first_set(lookup, ENDPOINT).is_none() {
        return Ok(false);
    }
    let disabled = choice(lookup, DISABLED, &["false", "true"])? == "true";
    Ok(!disabled && choice(lookup, EXPORTER, &["otlp", "none"])? == "otlp")
}

/// Whether the `traceparent` of records is looked at. Baggage is accepted, because it is in the default of the
/// specification: a batch has no parent whose baggage it could take over.
pub(super) fn reads_trace_context(lookup: Lookup<'_>) -> Result<bool, TelemetryError> {
    let Some((name, list)) = first_set(lookup, [PROPAGATORS; 2]) else { return Ok(true) };
    let words: Vec<_> = list.split(',').map(|word| word.trim().to_ascii_lowercase()).collect();
    let is_known = |word: &String| ["tracecontext", "baggage"].contains(&word.as_str());
    match words.as_slice() {
        [none] if none == "none" => Ok(false),
        words if words.iter().all(is_known) => Ok(words.iter().any(|word| word == "tracecontext")),
        _ => Err(refuse(name, &list, "`tracecontext`, `baggage`, both with a comma between them, or `none`")),
    }
}

/// Tells of variables that are set for nothing.
pub(super) fn warn_of_the_ignored(lookup: Lookup<'_>) {
    for variable in WITHOUT_EFFECT.into_iter().filter(|name| first_set(lookup, [name; 2]).is_some()) {
        tracing::warn!(variable, "A variable of OpenTelemetry has no effect here");
    }
}

/// One of the allowed values, in whatever case it is written; the first of them when nothing is set.
fn choice(
    lookup: Lookup<'_>,
    names: Names,
    allowed: &[&'static str],
) -> Result<&'static str, TelemetryError> {
    let Some((name, text)) = first_set(lookup, names) else {
        return Ok(allowed.first().copied().unwrap_or_default());
    };
    let found = allowed.iter().find(|value| value.eq_ignore_ascii_case(&text));
    found.copied().ok_or_else(|| refuse(name, &text, &alternatives(allowed)))
}

/// A variable whose value is none that is allowed.
pub(super) fn refuse(name: &str, value: &str, allowed: &str) -> TelemetryError {
    TelemetryError::Value { name: name.to_owned(), value: value.to_owned(), allowed: allowed.to_owned() }
}

/// Name and value of the first variable that is set. An empty one counts as unset, as the specification says.
pub(super) fn first_set<'a>(lookup: Lookup<'_>, names: [&'a str; 2]) -> Option<(&'a str, String)> {
    names.into_iter().find_map(|name| {
        let text = lookup(name)?.trim().to_owned();
        (!text.is_empty()).then_some((name, text))
    })
}

fn transport(lookup: Lookup<'_>) -> Result<Transport, TelemetryError> {
    let Some((name, text)) = first_set(lookup, PROTOCOL) else { return Ok(Transport::Grpc) };
    match text.to_ascii_lowercase().as_str() {
        "grpc" => Ok(Transport::Grpc),
        "http/protobuf" => Ok(Transport::Http),
        _ => {
            Err(refuse(name, &text, "`grpc` (the collector's port 4317) or `http/protobuf` (its port 4318)"))
        }
    }
}

/// The system's authorities are looked up only where they are needed: an image may have none.
fn uses_tls(transport: Transport, lookup: Lookup<'_>) -> Result<bool, TelemetryError> {
    let insecure = choice(lookup, INSECURE, &["false", "true"])? == "true";
    let Some((name, endpoint)) = first_set(lookup, ENDPOINT) else { return Ok(false) };
    match (endpoint.to_ascii_lowercase().split_once("://"), transport) {
        (Some((scheme, _)), _) if ["http", "https"].contains(&scheme) => Ok(scheme == "https"),
        // `collector:4317`, as the specification allows it for gRPC.
        (None, Transport::Grpc) => Ok(!insecure),
        _ => Err(refuse(name, &endpoint, "an address that begins with `http://` or `https://`")),
    }
}

// The value of a header may be a password, so it is not shown.
fn check_headers(lookup: Lookup<'_>) -> Result<(), TelemetryError> {
    let Some((name, text)) = first_set(lookup, HEADERS) else { return Ok(()) };
    let mut entries = text.split_terminator(',').map(str::trim).zip(1..);
    if let Some((_, number)) = entries.find(|(entry, _)| !is_pair(entry)) {
        return Err(TelemetryError::Unusable {
            name: name.to_owned(),
            problem: format!("entry {number} is not like `name=value`"),
        });
    }
    Ok(())
}

fn is_pair(entry: &str) -> bool {
    entry.split_once('=').is_some_and(|(name, value)| !name.trim().is_empty() && !value.trim().is_empty())
}

fn check_numbers(lookup: Lookup<'_>) -> Result<(), TelemetryError> {
    for (name, least) in NUMBERS {
        // As it is written: the SDK takes no blanks off.
        let Some(text) = lookup(name).filter(|text| !text.is_empty()) else { continue };
        if !text.parse::<u32>().is_ok_and(|number| number >= least) {
            return Err(refuse(name, &text, &format!("a whole number, {least} or more")));
        }
    }
    Ok(())
}

/// The allowed values as a sentence has them.
pub(super) fn alternatives(allowed: &[&str]) -> String {
    let quoted: Vec<_> = allowed.iter().map(|value| format!("`{value}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    /// An environment with these variables only.
    pub(in crate::telemetry) fn environment(pairs: Pairs) -> impl Fn(&str) -> Option<String> {
        move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

    #[test]
    fn traces_are_wanted_only_with_an_endpoint_and_nothing_against_it() {
        let cases: [(Pairs, bool); 8] = [
            (&[], false),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], false),
            (&[("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_SDK_DISABLED", "nonsense")], false),
            (&[ALL], true),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4317")], true),
            (&[ALL, ("OTEL_SDK_DISABLED", "TRUE")], false),
            (&[ALL, ("OTEL_TRACES_EXPORTER", "none")], false),
            (&[ALL, ("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_SDK_DISABLED", "false")], true),
        ];
        for (pairs, wanted) in cases {
            assert_eq!(is_wanted(&environment(pairs)).unwrap(), wanted, "{pairs:?}");
        }
    }

    #[test]
    fn the_protocol_is_the_one_for_traces_then_the_one_for_all_then_grpc() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL";
        let cases: [(Pairs, Transport); 6] = [
            (&[], Transport::Grpc),
            (&[(ALL, "")], Transport::Grpc),
            (&[(ALL, "GRPC")], Transport::Grpc),
            (&[(ALL, "http/protobuf")], Transport::Http),
            (&[(ALL, "http/protobuf"), (TRACES, "grpc")], Transport::Grpc),
            (&[(ALL, "grpc"), (TRACES, "http/protobuf")], Transport::Http),
        ];
        for (pairs, expected) in cases {
            assert_eq!(transport(&environment(pairs)).unwrap(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn tls_is_used_for_https_and_by_grpc_without_a_scheme_unless_that_is_insecure() {
        const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const TRACES: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        const INSECURE: (&str, &str) = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        let cases: [(Pairs, bool); 7] = [
            (&[(ALL, "http://collector:4318")], false),
            (&[(ALL, "HTTPS://collector:4318")], true),
            (&[(ALL, "https://collector:4318"), INSECURE], true),
            (&[(ALL, "https://collector:4318"), (TRACES, "http://collector:4318/v1/traces")], false),
            (&[(ALL, "http://collector:4318"), (TRACES, "https://collector/v1/traces")], true),
            (&[(ALL, "collector:4317")], true),
            (&[(ALL, "collector:4317"), INSECURE], false),
        ];
        for (pairs, expected) in cases {
            assert_eq!(uses_tls(Transport::Grpc, &environment(pairs)).unwrap(), expected, "{pairs:?}");
        }
        assert!(uses_tls(Transport::Http, &environment(&[(ALL, "collector:4318")])).is_err());
    }

    #[test]
    fn what_is_exported_how() {
        let plain =
            Export { transport: Transport::Grpc, gzip: false, tls: false, timeout: Duration::from_secs(10) };
        let cases: [(Pairs, Export); 6] = [
            (&[ALL], plain),
            (&[ALL, ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")], Export { gzip: true, ..plain }),
            (&[ALL, ("OTEL_EXPORTER_OTLP_COMPRESSION", "none")], plain),
            (
                &[
                    ALL,
                    ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                    ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
                ],
                plain,
            ),
            (
                &[ALL, ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500")],
                Export { timeout: Duration::from_millis(2_500), ..plain },
            ),
            (&[ALL, ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20c2VjcmV0,x-tenant=shop,")], plain),
        ];
        for (pairs, expected) in cases {
            assert_eq!(Export::read(&environment(pairs)).unwrap(), expected, "{pairs:?}");
        }
    }

    /// Ignored, each of these would do something else than what was asked for, in silence.
    #[test]
    fn a_misspelt_value_is_refused_with_what_is_allowed() {
        let cases: [(Pairs, &str); 13] = [
            (&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")], "`http/protobuf`"),
            (&[("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd")], "write `none` or `gzip`"),
            (&[("OTEL_EXPORTER_OTLP_INSECURE", "yes")], "write `false` or `true`"),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector")], "`https://`"),
            (&[("OTEL_EXPORTER_OTLP_HEADERS", "a=1,secret-word")], "entry 2 is not like `name=value`"),
            (&[("OTEL_EXPORTER_OTLP_TIMEOUT", "10s")], "a whole number, 1 or more"),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "0")], "a whole number, 1 or more"),
            (&[("OTEL_BSP_SCHEDULE_DELAY", " 5")], "a whole number, 0 or more"),
            (&[("OTEL_SPAN_LINK_COUNT_LIMIT", "many")], "a whole number"),
            (&[ALL, ("OTEL_SDK_DISABLED", "1")], "write `false` or `true`"),
            (&[ALL, ("OTEL_TRACES_EXPORTER", "console")], "write `otlp` or `none`"),
            (&[("OTEL_PROPAGATORS", "tracecontext,b3")], "`tracecontext`, `baggage`"),
            (&[("OTEL_PROPAGATORS", "none,tracecontext")], "or `none`"),
        ];
        for (pairs, expected) in cases {
            let lookup = environment(pairs);
            let outcome = is_wanted(&lookup)
                .and_then(|_| reads_trace_context(&lookup))
                .and_then(|_| Export::read(&lookup));
            let error = outcome.unwrap_err().to_string();
            let (name, value) = pairs.last().unwrap();
            assert!(error.contains(name) && error.contains(expected), "{error}");
            assert!(error.contains(value) != error.contains("entry"), "{error}");
        }
    }

    #[test]
    fn the_trace_context_is_read_unless_it_is_left_out() {
        let cases = [("", true), ("tracecontext", true), ("TraceContext, baggage", true)];
        for (list, expected) in [cases.as_slice(), &[("baggage", false), ("none", false)]].concat() {
            let lookup = |name: &str| (name == PROPAGATORS).then(|| list.to_owned());
            assert_eq!(reads_trace_context(&lookup).unwrap(), expected, "{list}");
        }
    }
}
