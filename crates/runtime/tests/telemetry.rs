//! Telemetry as a whole process shows it. Environment, panic hook and subscriber belong to a process, so each case runs
//! in a child: this same test executable, told to run only [`child`].

#![allow(clippy::unwrap_used)] // in a test, a failed unwrap is a failed test

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use analytics_runtime::telemetry::{self, LogFormat, LogOptions};
use serde_json::Value;

const ROLE: &str = "TELEMETRY_TEST_CHILD";

/// What the child does; nothing when the test runner calls it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(format) = std::env::var(ROLE) else { return };
    let log = LogOptions { level: "info".to_owned(), format: format.parse::<LogFormat>().unwrap() };
    let guard = telemetry::init("analytics-consumer", "1.2.3", &log).unwrap();
    tracing::debug!("too quiet");
    tracing::info!(partition = 7, "Hello");
    tracing::info_span!("store batch").in_scope(|| tracing::info!("Inside"));
    std::thread::spawn(|| panic!("the disk is made of cheese")).join().unwrap_err();
    guard.shutdown();
}

fn run(format: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env(ROLE, format);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OTEL_")) {
        command.env_remove(name);
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn json_logs_are_one_object_per_line_on_standard_error_panics_included() {
    let output = run("json", &[]);
    let lines: Vec<Value> = errors(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |text: &str| {
        lines.iter().find(|line| line["message"].as_str().is_some_and(|said| said.contains(text)))
    };
    assert_eq!(find("Hello").unwrap()["partition"], 7);
    assert_eq!(find("Hello").unwrap()["level"], "INFO");
    let panic = find("the disk is made of cheese").unwrap();
    assert_eq!(panic["level"], "ERROR");
    assert!(panic["location"].as_str().unwrap().contains("telemetry.rs"), "{panic}");
    assert!(find("too quiet").is_none());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("Hello"), "logs belong on standard error");
}

#[test]
fn text_logs_carry_no_colour_codes() {
    let text = errors(&run("text", &[]));
    assert!(text.contains("Hello partition=7"), "{text}");
    assert!(text.contains("the disk is made of cheese"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

/// Runs the child against a listener that takes what it is sent and never answers; returns what it was sent.
fn sent_to_collector(variables: &[(&str, &str)]) -> Vec<u8> {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let mut variables = variables.to_vec();
    variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint));
    run("text", &variables);
    // The child is gone: whatever it sent waits in the listener's queue.
    collector.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    while let Ok((mut connection, _)) = collector.accept() {
        connection.set_nonblocking(false).unwrap();
        // A reset at its end is as good as an end.
        let _ = connection.read_to_end(&mut bytes);
    }
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    has(bytes, text.as_bytes())
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn spans_go_to_the_endpoint_and_a_collector_that_hangs_does_not_hold_up_the_exit() {
    for protocol in ["grpc", "http/protobuf"] {
        let began = Instant::now();
        let bytes = sent_to_collector(&[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
        assert!(contains(&bytes, "store batch"), "{protocol}: {} bytes", bytes.len());
        assert!(contains(&bytes, "analytics-consumer") && contains(&bytes, "1.2.3"), "{protocol}");
        // The path is compressed in gRPC's HTTP/2.
        assert_eq!(contains(&bytes, "POST /v1/traces"), protocol != "grpc", "{protocol}");
        assert!(began.elapsed() < Duration::from_secs(15), "{protocol}: {:?}", began.elapsed());
    }
}

#[test]
fn what_is_sent_is_compressed_and_carries_headers_if_that_is_asked_for() {
    for protocol in ["grpc", "http/protobuf"] {
        let bytes = sent_to_collector(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop%20main"),
        ]);
        assert!(has(&bytes, &[0x1f, 0x8b, 8]), "{protocol}: no gzip in {} bytes", bytes.len());
        assert!(!contains(&bytes, "store batch"), "{protocol}");
        // Headers are compressed in gRPC's HTTP/2.
        assert_eq!(contains(&bytes, "x-tenant: shop main"), protocol != "grpc", "{protocol}");
        assert_eq!(contains(&bytes, "content-encoding: gzip"), protocol != "grpc", "{protocol}");
    }
}

/// What the exporter says while it starts comes before there is a subscriber, and was lost.
#[test]
fn what_is_ignored_is_logged() {
    let output = run(
        "text",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "30000"),
        ],
    );
    let log = errors(&output);
    // The SDK's own words.
    assert!(log.contains("OTEL_TRACES_SAMPLER_ARG environment variable is missing"), "{log}");
    assert!(log.contains("has no effect here variable=\"OTEL_BSP_EXPORT_TIMEOUT\""), "{log}");
}

#[test]
fn a_disabled_sdk_and_a_sampler_that_says_no_send_nothing() {
    for variable in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_SAMPLER", "always_off")] {
        assert!(!contains(&sent_to_collector(&[variable]), "store batch"), "{variable:?}");
    }
}
