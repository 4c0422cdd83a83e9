//! Traces: a real consumer exports to a real OpenTelemetry Collector.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use rustix::process::Signal;
use testbed::collector::Span;
use testbed::{Collector, wait};

use crate::support::Bed;

const SOON: Duration = Duration::from_secs(60);

fn event(number: u32) -> String {
    format!(
        r#"{{"event_type":"user_login","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"auth","timestamp":"2024-11-09T10:30:00Z","data":{{"n":{number}}}}}"#
    )
}

/// Sends one event, as a producer would that is traced.
pub(crate) async fn send(bed: &Bed, number: u32, traceparent: Option<&str>) -> Result<()> {
    let producer = bed.kafka.producer()?;
    let payload = event(number);
    let mut record = FutureRecord::to(&bed.topic).partition(0).key("k").payload(&payload);
    if let Some(traceparent) = traceparent {
        let headers = OwnedHeaders::new().insert(Header { key: "traceparent", value: Some(traceparent) });
        record = record.headers(headers);
    }
    producer.send(record, SOON).await.map_err(|(error, _)| error)?;
    Ok(())
}

pub(crate) fn traced(endpoint: &str) -> [(&'static str, String); 3] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
    ]
}

pub(crate) async fn until_span(
    collector: &Collector,
    what: &str,
    wanted: impl Fn(&Span) -> bool,
) -> Result<Span> {
    wait::until(what, SOON, || async { Ok(collector.spans()?.into_iter().find(&wanted)) }).await
}

#[tokio::test]
async fn a_batch_is_a_span_that_leads_to_its_producers_and_holds_its_transaction() -> Result<()> {
    let collector = Collector::start().await?;
    let bed = Bed::start_with("traced", 1, 0, &traced(&collector.grpc_endpoint())).await?;
    let (sampled, unsampled) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c");
    send(&bed, 1, Some(&format!("00-{sampled}-00f067aa0ba902b7-01"))).await?;
    send(&bed, 2, Some(&format!("00-{unsampled}-b7ad6b7169203331-00"))).await?;
    send(&bed, 3, Some("nonsense")).await?;
    send(&bed, 4, None).await?;
    bed.until_stored(4).await?;

    let links = |span: &Span| span.json["links"].as_array().cloned().unwrap_or_default();
    let batch = until_span(&collector, "a batch with a link", |span| !links(span).is_empty()).await?;
    assert_eq!((batch.text("name"), batch.service.as_str()), ("process traced", "analytics-service"));
    assert_eq!(batch.json["kind"], 5, "CONSUMER in OTLP");
    assert_eq!(batch.text("parentSpanId"), "");
    assert_eq!(links(&batch).len(), 1);
    assert_eq!(links(&batch)[0]["traceId"], sampled);
    for (key, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "traced"),
        ("messaging.consumer.group.name", "traced-group"),
        ("messaging.destination.partition.id", "0"),
    ] {
        assert_eq!(batch.attribute(key).as_deref(), Some(value), "{}", batch.json);
    }
    let of_batch = |span: &Span| span.text("parentSpanId") == batch.text("spanId");
    let transaction = until_span(&collector, "its transaction", of_batch).await?;
    assert_eq!(
        (transaction.text("name"), transaction.text("traceId")),
        ("transaction", batch.text("traceId"))
    );
    assert_eq!(transaction.attribute("outcome").as_deref(), Some("committed"));
    assert_eq!(transaction.attribute("db.system.name").as_deref(), Some("postgresql"));
    let all = collector.spans()?;
    assert!(
        !all.iter().flat_map(links).any(|link| link["traceId"] == unsampled),
        "a context that was not sampled"
    );
    Ok(())
}

/// The variables of the specification choose the transport; what arrives is the same.
#[tokio::test]
async fn spans_travel_over_http_as_well() -> Result<()> {
    let collector = Collector::start().await?;
    let mut settings = traced(&collector.http_endpoint()).to_vec();
    settings.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()));
    let bed = Bed::start_with("webbed", 1, 0, &settings).await?;
    let sampled = "4bf92f3577b34da6a3ce929d0e0e4736";
    send(&bed, 1, Some(&format!("00-{sampled}-00f067aa0ba902b7-01"))).await?;
    bed.until_stored(1).await?;
    let batch = until_span(&collector, "a batch", |span| span.text("name") == "process webbed").await?;
    assert_eq!(batch.json["links"][0]["traceId"], sampled);
    let of_batch = |span: &Span| span.text("parentSpanId") == batch.text("spanId");
    until_span(&collector, "its transaction", of_batch).await.map(drop)
}

/// The decision of the root holds for the whole trace: no transaction without its batch.
#[tokio::test]
async fn a_share_of_the_traces_is_kept_and_each_of_them_whole() -> Result<()> {
    let collector = Collector::start().await?;
    let mut settings = traced(&collector.grpc_endpoint()).to_vec();
    settings.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()));
    settings.push(("OTEL_TRACES_SAMPLER_ARG", "0.3".to_owned()));
    let mut bed = Bed::start_with("shared", 1, 0, &settings).await?;
    // One event after the other is stored, so each is a batch of its own.
    let batches = 60;
    for number in 1..=batches {
        send(&bed, number, None).await?;
        bed.until_stored(number.into()).await?;
    }
    // The end of the process sends what it still holds.
    bed.consumer.signal(Signal::TERM);
    bed.consumer.ended(SOON).await?;
    wait::until_true("each batch that was kept is there with its transaction", SOON, || async {
        let spans = collector.spans()?;
        let roots = spans.iter().filter(|span| span.text("name") == "process shared").count();
        // With a chance of 0.3 for each of sixty, none at all is as unlikely as one in a billion.
        ensure!(roots > 0 && roots < batches as usize, "{roots} of {batches}");
        let orphan = spans.iter().find(|span| {
            let parent = span.text("parentSpanId");
            !parent.is_empty() && !spans.iter().any(|other| other.text("spanId") == parent)
        });
        ensure!(orphan.is_none(), "{orphan:?}");
        Ok(spans.len() == 2 * roots)
    })
    .await
}

/// At a share of 0, what producers have kept is kept here as well, and nothing else.
#[tokio::test]
async fn a_batch_is_kept_if_one_of_its_producers_is() -> Result<()> {
    let collector = Collector::start().await?;
    let mut settings = traced(&collector.grpc_endpoint()).to_vec();
    settings.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()));
    settings.push(("OTEL_TRACES_SAMPLER_ARG", "0".to_owned()));
    let mut bed = Bed::start_with("caused", 1, 0, &settings).await?;
    let (sampled, unsampled) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c");
    let contexts = [
        None,
        Some(format!("00-{unsampled}-b7ad6b7169203331-00")),
        Some(format!("00-{sampled}-00f067aa0ba902b7-01")),
    ];
    // One event after the other is stored, so each is a batch of its own.
    for (number, context) in (1..).zip(contexts) {
        send(&bed, number, context.as_deref()).await?;
        bed.until_stored(number.into()).await?;
    }
    // The end of the process sends what it still holds.
    bed.consumer.signal(Signal::TERM);
    bed.consumer.ended(SOON).await?;
    let batch = until_span(&collector, "the batch", |span| span.text("name") == "process caused").await?;
    assert_eq!(batch.json["links"][0]["traceId"], sampled);
    let spans = collector.spans()?;
    let names: Vec<_> = spans.iter().map(|span| span.text("name")).collect();
    assert_eq!(spans.len(), 2, "{names:?}");
    let transaction = spans.iter().find(|span| span.text("name") == "transaction").context("none")?;
    assert_eq!(transaction.text("parentSpanId"), batch.text("spanId"));
    Ok(())
}

/// Makes a consumer log that a transaction failed, and returns that line with the trace of the transaction, once the collector
/// has it.
async fn a_failure_is_logged(topic: &str, format: &str) -> Result<(String, String)> {
    let collector = Collector::start().await?;
    let mut settings = traced(&collector.grpc_endpoint());
    settings[2].1 = format.to_owned();
    let mut bed = Bed::start_with(topic, 1, 0, &settings).await?;
    // Stored means that the partition is being read: the next event is in a batch when the database is away.
    send(&bed, 1, None).await?;
    bed.until_stored(1).await?;
    bed.postgres.stop().await?;
    send(&bed, 2, None).await?;
    wait::until_true("the failure is logged", SOON, || async {
        Ok(bed.consumer.log().contains("did not take the batch"))
    })
    .await?;
    bed.postgres.restart().await?;
    bed.until_stored(2).await?;
    let log = bed.consumer.log();
    let line = log.lines().find(|line| line.contains("did not take the batch")).context("no line")?;
    // The only transaction that failed is that of the line: the others of its batch too are in its trace.
    let failed = until_span(&collector, "the failed transaction", |span| {
        span.attribute("outcome").as_deref() == Some("failed")
    })
    .await?;
    assert_eq!(failed.json["status"]["code"], 2, "ERROR in OTLP: {}", failed.json);
    Ok((line.to_owned(), failed.text("traceId").to_owned()))
}

#[tokio::test]
async fn a_log_line_leads_to_its_trace() -> Result<()> {
    let (line, trace) = a_failure_is_logged("logged", "json").await?;
    let line: serde_json::Value = serde_json::from_str(&line)?;
    let found = line["span"]["trace_id"].as_str().or_else(|| line["spans"][0]["trace_id"].as_str());
    assert_eq!(found, Some(trace.as_str()), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_log_line_for_people_leads_to_its_trace_as_well() -> Result<()> {
    let (line, trace) = a_failure_is_logged("told", "text").await?;
    assert_eq!(line.matches(&format!("trace_id=\"{trace}\"")).count(), 1, "{line}");
    Ok(())
}

#[tokio::test]
async fn a_sampler_that_says_no_is_obeyed() -> Result<()> {
    let collector = Collector::start().await?;
    let mut never = traced(&collector.grpc_endpoint()).to_vec();
    never.push(("OTEL_TRACES_SAMPLER", "always_off".to_owned()));
    let bed = Bed::start_with("silent", 1, 500, &never).await?;
    assert_eq!(collector.spans()?.len(), 0);
    drop(bed);
    Ok(())
}
