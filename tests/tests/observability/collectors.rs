//! Collectors that are particular about whom they let in, and collectors that do not answer.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use testbed::collector::Guard;
use testbed::{Authority, Collector};
use tokio::net::TcpListener;

use crate::support::Bed;
use crate::traces::{send, traced, until_span};

/// Every variable at once that says who sends, how, and to whom: over both protocols.
#[tokio::test]
async fn a_collector_with_a_private_authority_knows_its_clients() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (ours, theirs) = (Authority::new("collectors")?, Authority::new("consumers")?);
    let (certificate, key) = ours.server(&["127.0.0.1"])?.write(folder.path(), "server")?;
    let (client_certificate, client_key) = theirs.client("analytics")?.write(folder.path(), "client")?;
    let (authority, clients) = (folder.path().join("ours.crt"), folder.path().join("theirs.crt"));
    std::fs::write(&authority, ours.certificate())?;
    std::fs::write(&clients, theirs.certificate())?;
    let guard =
        Guard { certificate: (&certificate, &key), clients: &clients, header: ("x-tenant", "shop, main") };
    let collector = Collector::start_guarded(guard).await?;
    let endpoints = [("grpc", collector.grpc_endpoint()), ("http/protobuf", collector.http_endpoint())];
    let path = |path: &std::path::Path| path.display().to_string();
    for (protocol, endpoint) in endpoints {
        let topic = protocol.replace('/', "-");
        let settings = [
            traced(&endpoint).as_slice(),
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol.to_owned()),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", path(&authority)),
                ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", path(&client_certificate)),
                ("OTEL_EXPORTER_OTLP_CLIENT_KEY", path(&client_key)),
                ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop%2C%20main".to_owned()),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip".to_owned()),
                ("OTEL_SERVICE_NAME", "tills".to_owned()),
                ("OTEL_RESOURCE_ATTRIBUTES", "service.name=not-this,service.version=7,team=a%2Cb".to_owned()),
            ],
        ]
        .concat();
        let bed = Bed::start_with(&topic, 1, 0, &settings).await?;
        send(&bed, 1, None).await?;
        bed.until_stored(1).await?;
        let name = format!("process {topic}");
        let batch = until_span(&collector, &name, |span| span.text("name") == name)
            .await
            .with_context(|| bed.consumer.log())?;
        assert_eq!(batch.service, "tills");
        for (key, value) in [("service.version", "7"), ("team", "a,b"), ("telemetry.sdk.language", "rust")] {
            assert_eq!(batch.resource_attribute(key).as_deref(), Some(value), "{}", batch.resource);
        }
    }
    Ok(())
}

/// As for any other setting: one line that says what can be written instead, and no process that does something else.
#[test]
fn a_misspelt_variable_ends_the_start() -> Result<()> {
    let settings = [
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
    ];
    let table = [
        ("OTEL_TRACES_SAMPLER", "parentbased_traceid_ratio", "`parentbased_traceidratio`"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "write `none` or `gzip`"),
        ("OTEL_PROPAGATORS", "b3", "`tracecontext`"),
    ];
    for (name, value, allowed) in table {
        let mut command = Command::new(testbed::consumer_binary()?);
        let output = command.env_clear().envs(settings).env(name, value).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(&format!("{name} is `{value}`")) && errors.contains(allowed), "{errors}");
        assert_eq!(errors.trim().lines().count(), 1, "{errors}");
    }
    Ok(())
}

/// The most memory that spans nobody takes may cost: what waits is bounded by OTEL_BSP_MAX_QUEUE_SIZE (2,048 spans).
const MARGIN_BYTES: u64 = 16 << 20;
/// How long a stop may take; the last spans have five seconds of it.
const STOP: Duration = Duration::from_secs(20);

/// Stores a load, stops cleanly, and returns how much memory the consumer had at most.
async fn peak_under_load(topic: &str, endpoint: Option<&str>) -> Result<u64> {
    // Small batches make many spans: some thousands, each with a transaction.
    let mut settings = vec![("BATCH_MAX_EVENTS", "10".to_owned())];
    settings.extend(endpoint.iter().flat_map(|endpoint| traced(endpoint)));
    let mut bed = Bed::start_with(topic, 2, 20_000, &settings).await?;
    let (status, reason) = bed.consumer.get("/readyz").await?;
    ensure!(status == 200, "{topic}: /readyz says {status} {reason}");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&bed.pool).await?;
    ensure!(rows == i64::try_from(bed.counts.distinct)?, "{topic}: {rows} rows of {:?}", bed.counts);
    let (_, peak) = bed.consumer.memory()?;
    let began = Instant::now();
    bed.consumer.signal(Signal::TERM);
    let ended = bed.consumer.ended(STOP).await?;
    println!("{topic}: at most {} KiB, stopped in {:?}", peak / 1024, began.elapsed());
    ensure!(ended.success(), "{topic}: {ended}: {}", bed.consumer.log());
    Ok(peak)
}

/// A collector that is away, or takes everything and never answers, costs its spans and nothing else.
#[tokio::test]
async fn a_collector_that_does_not_answer_costs_nothing_but_its_spans() -> Result<()> {
    let deaf = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", deaf.local_addr()?);
    // Connections are kept open, and nothing is read or answered.
    let keeper = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = deaf.accept().await {
            connections.push(connection);
        }
    });
    let without = peak_under_load("untraced", None).await?;
    for (topic, endpoint) in [("deaf", endpoint.as_str()), ("away", "http://127.0.0.1:1")] {
        let peak = peak_under_load(topic, Some(endpoint)).await?;
        ensure!(peak <= without + MARGIN_BYTES, "{topic}: {peak} bytes, {without} without traces");
    }
    keeper.abort();
    Ok(())
}
