//! Spans of a batch, after OpenTelemetry's conventions for messaging and databases.
//!
//! One trace for each batch: a batch has many causes, so the contexts that producers left in record headers
//! (`traceparent`, W3C Trace Context) are links of its span and not parents. Nothing here runs, not even a look at a
//! header, unless traces are exported and the batch's span is sampled.

use std::collections::HashSet;

use analytics_runtime::telemetry;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry::{Context, global};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::batch::{Batch, Row};
use crate::sink::WriteError;
use crate::sink::offsets::Owner;

/// Most links of one span: enough to find the way, and far below what collectors refuse.
const MOST_LINKS: usize = 32;

/// The span of a batch, from taking it to its commit.
pub(crate) fn batch_span(batch: &Batch, owner: &Owner) -> Span {
    if !telemetry::exports_traces() {
        return Span::none();
    }
    let span = tracing::info_span!(
        "batch",
        otel.name = format!("process {}", owner.topic),
        otel.kind = "consumer",
        trace_id = field::Empty,
        messaging.system = "kafka",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = &*owner.topic,
        messaging.consumer.group.name = &*owner.group_id,
        messaging.client.id = &*owner.instance,
        messaging.batch.message_count = records(batch),
        messaging.destination.partition.id = field::Empty,
        messaging.kafka.offset = field::Empty,
    );
    if let [only] = batch.progress() {
        span.record("messaging.destination.partition.id", only.partition.to_string());
        span.record("messaging.kafka.offset", only.from);
    }
    let own = span.context().span().span_context().clone();
    if own.is_valid() {
        // Log lines show the fields of their spans, so that a line leads to its trace.
        span.record("trace_id", own.trace_id().to_string());
    }
    if own.is_sampled() {
        for context in links(batch.rows().iter().map(|row| Headers { batch, row })) {
            span.add_link(context);
        }
    }
    span
}

fn records(batch: &Batch) -> i64 {
    batch.progress().iter().map(|progress| progress.records).sum::<u64>().cast_signed()
}

/// The span of one attempt at a batch's transaction.
pub(crate) fn transaction_span(batch: &Batch) -> Span {
    if !telemetry::exports_traces() {
        return Span::none();
    }
    tracing::info_span!(
        "transaction",
        otel.kind = "client",
        otel.status_code = field::Empty,
        db.system.name = "postgresql",
        db.operation.batch.size = batch.rows().len(),
        outcome = field::Empty,
        error.type = field::Empty,
    )
}

/// Notes how the transaction went, with the SQLSTATE of a failure.
pub(crate) fn end_transaction<T>(span: &Span, result: &Result<T, WriteError>) {
    match result {
        Ok(_) => {
            span.record("outcome", "committed");
        }
        Err(WriteError::Fenced(_)) => {
            span.record("outcome", "fenced");
        }
        Err(WriteError::Undelivered(_)) => {
            span.record("outcome", "failed");
            span.record("otel.status_code", "ERROR");
            span.record("error.type", "dead_letter_topic");
        }
        Err(WriteError::Database(error)) => {
            let sqlstate = error.as_database_error().and_then(|error| error.code());
            span.record("outcome", "failed");
            span.record("otel.status_code", "ERROR");
            span.record("error.type", sqlstate.as_deref().unwrap_or("connection"));
        }
    }
}

/// The headers of a row's record.
struct Headers<'a> {
    batch: &'a Batch,
    row: &'a Row,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.batch.header(self.row, key)?).ok()
    }

    // The propagator asks for the keys that it knows; it never lists them.
    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The different sampled contexts among the headers, in their order, at most [`MOST_LINKS`].
fn links<'a>(mut headers: impl Iterator<Item = Headers<'a>>) -> Vec<SpanContext> {
    global::get_text_map_propagator(|propagator| {
        let (mut seen, mut links) = (HashSet::new(), Vec::new());
        for header in headers.by_ref() {
            // An empty parent: the context of this thread is no producer's.
            let found = propagator.extract_with_context(&Context::new(), &header);
            let context = found.span().span_context().clone();
            if context.is_sampled() && seen.insert((context.trace_id(), context.span_id())) {
                links.push(context);
            }
            if links.len() == MOST_LINKS {
                break;
            }
        }
        links
    })
}
