//! Spans of a reconcile: what was looked at, what was decided and why, what was written.
//!
//! A reconcile is the root of its trace, so the sampler decides once for all of it. Nothing here runs unless traces are
//! exported; names and attributes follow OpenTelemetry's conventions for Kubernetes where they have one.

use std::future::Future;

use analytics_runtime::telemetry;
use autoscaler::Decision;
use opentelemetry::trace::TraceContextExt;
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::error::Error;
use crate::kafka::{LagError, Reading};

/// The span of one reconcile. Log lines within it carry its `trace_id`.
pub(crate) fn reconcile(namespace: &str, pipeline: &str, generation: Option<i64>) -> Span {
    if !telemetry::exports_traces() {
        return Span::none();
    }
    let span = tracing::info_span!(
        "reconcile",
        otel.status_code = field::Empty,
        trace_id = field::Empty,
        k8s.namespace.name = namespace,
        analytics.pipeline = pipeline,
        generation,
        error.type = field::Empty,
    );
    let own = span.context().span().span_context().clone();
    if own.is_valid() {
        span.record("trace_id", own.trace_id().to_string());
    }
    span
}

/// Notes how a reconcile ended.
pub(crate) fn reconciled(span: &Span, outcome: &Result<(), Error>) {
    if let Err(error) = outcome {
        failed(span, error.category());
    }
}

/// The span of reading lag from Kafka and metrics from consumers.
pub(crate) fn observation() -> Span {
    if !telemetry::exports_traces() {
        return Span::none();
    }
    tracing::info_span!(
        "observe",
        otel.status_code = field::Empty,
        partitions = field::Empty,
        consumers = field::Empty,
        error.type = field::Empty,
    )
}

/// Notes what was seen: partitions of the topic and consumers that answered.
pub(crate) fn observed(span: &Span, reading: &Result<Reading, LagError>, consumers: usize) {
    span.record("consumers", consumers);
    match reading {
        Ok(reading) => {
            span.record("partitions", reading.partition_count);
        }
        Err(error) => failed(span, error.reason()),
    }
}

/// Leaves a span for a scaling decision: the number of consumers before and after, and why.
pub(crate) fn decided(current: i32, desired: i32, decision: Option<&Decision>) {
    if !telemetry::exports_traces() {
        return;
    }
    let span = tracing::info_span!(
        "scale",
        replicas.current = current,
        replicas.desired = desired,
        replicas.needed = field::Empty,
        reason = field::Empty,
        limited_by = field::Empty,
        explanation = field::Empty,
        lag.events = field::Empty,
        lag.seconds = field::Empty,
    );
    if let Some(decision) = decision {
        span.record("replicas.needed", decision.needed);
        span.record("reason", field::display(decision.reason));
        span.record("limited_by", field::display(decision.limited_by));
        span.record("explanation", &decision.explanation);
        span.record("lag.events", decision.estimates.lag_events);
        span.record("lag.seconds", decision.estimates.lag_seconds);
    }
}

/// Runs one write to the API server in a span of its own.
pub(crate) async fn write<T, E>(
    kind: &str,
    name: &str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    if !telemetry::exports_traces() {
        return call.await;
    }
    let span = tracing::info_span!(
        "write",
        otel.kind = "client",
        otel.status_code = field::Empty,
        k8s.object.kind = kind,
        k8s.object.name = name,
        error.type = field::Empty,
    );
    let result = call.instrument(span.clone()).await;
    if result.is_err() {
        failed(&span, "api_server");
    }
    result
}

fn failed(span: &Span, kind: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", kind);
}
