//! Spans of a batch, after OpenTelemetry's conventions for messaging and databases.
//!
//! One trace for each batch: a batch has many causes, so the contexts that producers left in record headers
//! (`traceparent`, W3C Trace Context) are links of its span and not parents. Nothing here runs, not even a look at a
//! header, unless traces are exported, and either the batch's span is sampled or the sampler goes by its links.

use std::collections::HashSet;

use analytics_runtime::telemetry;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry::{Context, global};
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::batch::{Batch, Row, iterate_headers};
use crate::dead_letter::DeadLetter;
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
        links.omitted = field::Empty,
    );
    if let [only] = batch.progress() {
        span.record("messaging.destination.partition.id", only.partition.to_string());
        span.record("messaging.kafka.offset", only.from);
    }
    let decides = telemetry::goes_by_links();
    if decides {
        // To ask for the context is to ask the sampler.
        link(&span, batch);
    }
    let own = span.context().span().span_context().clone();
    if own.is_valid() {
        // Log lines show the fields of their spans, so that a line leads to its trace.
        span.record("trace_id", own.trace_id().to_string());
    }
    if own.is_sampled() && !decides {
        link(&span, batch);
    }
    span
}

fn link(span: &Span, batch: &Batch) {
    let rows = batch.rows().iter().map(|row| Headers::Row(batch, row));
    let letters = batch.dead_letters().iter().map(Headers::Letter);
    let Links { contexts, omitted } = links(rows.chain(letters));
    for context in contexts {
        span.add_link(context);
    }
    if omitted > 0 {
        span.record("links.omitted", omitted);
    }
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

/// The headers of a record, whatever became of it.
enum Headers<'a> {
    Row(&'a Batch, &'a Row),
    Letter(&'a DeadLetter),
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = match self {
            Self::Row(batch, row) => batch.header(row, key),
            Self::Letter(letter) => {
                iterate_headers(&letter.headers).find(|(name, _)| *name == key.as_bytes())?.1
            }
        };
        std::str::from_utf8(value?).ok()
    }

    // The propagator asks for the keys that it knows; it never lists them.
    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

/// The contexts that a span is linked to.
struct Links {
    contexts: Vec<SpanContext>,
    /// How many more there are.
    omitted: i64,
}

/// The different sampled contexts among the headers, in their order.
fn links<'a>(mut headers: impl Iterator<Item = Headers<'a>>) -> Links {
    global::get_text_map_propagator(|propagator| {
        // An empty parent: the context of this thread is no producer's.
        let found =
            headers.by_ref().map(|headers| propagator.extract_with_context(&Context::new(), &headers));
        choose(found.map(|found| found.span().span_context().clone()))
    })
}

/// The different sampled ones of these, at most [`MOST_LINKS`].
fn choose(found: impl Iterator<Item = SpanContext>) -> Links {
    let (mut seen, mut links) = (HashSet::new(), Links { contexts: Vec::new(), omitted: 0 });
    for context in found.filter(SpanContext::is_sampled) {
        if !seen.insert((context.trace_id(), context.span_id())) {
            continue;
        }
        if links.contexts.len() < MOST_LINKS {
            links.contexts.push(context);
        } else {
            links.omitted += 1;
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::encode_headers;
    use crate::dead_letter::Reason;
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    fn context(span: u64, flags: TraceFlags) -> SpanContext {
        SpanContext::new(TraceId::from(7_u128), SpanId::from(span), flags, true, TraceState::default())
    }

    #[test]
    fn what_is_too_much_for_a_span_is_counted() {
        let many = (1..=MOST_LINKS as u64 + 3).map(|span| context(span, TraceFlags::SAMPLED));
        let twice = (1..3).map(|span| context(span, TraceFlags::SAMPLED));
        let Links { contexts, omitted } = choose(many.chain(twice));
        assert_eq!((contexts.len(), omitted), (MOST_LINKS, 3));
        assert_eq!(contexts[0].span_id(), SpanId::from(1_u64));
        let unsampled = choose([context(1, TraceFlags::default())].into_iter());
        assert_eq!((unsampled.contexts.len(), unsampled.omitted), (0, 0));
    }

    #[test]
    fn a_dead_letters_headers_are_read_like_any_others() {
        let mut headers = Vec::new();
        encode_headers([("a", None), ("traceparent", Some(&b"00-7-1-01"[..]))].into_iter(), &mut headers);
        let letter = DeadLetter {
            partition: 0,
            offset: 0,
            reason: Reason::InvalidJson,
            detail: String::new(),
            key: None,
            payload: None,
            headers,
            timestamp_millis: None,
            delivered: false,
        };
        assert_eq!(Headers::Letter(&letter).get("traceparent"), Some("00-7-1-01"));
        assert_eq!(Headers::Letter(&letter).get("tracestate"), None);
    }
}
