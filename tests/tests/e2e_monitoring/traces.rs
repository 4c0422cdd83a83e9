//! Traces of the controller, as a real collector receives them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::collector::Span;
use testbed::wait;

use crate::world::{OPERATOR, PIPELINE, PIPELINES, SOON, World};

/// The reconcile that made the consumers: one trace, in which the decision and the write can be found.
pub(crate) async fn a_reconcile_tells_what_was_decided_and_written(world: &World) -> Result<()> {
    let root = wait::until("a trace with the write of the Deployment", SOON, || async {
        let spans = world.collector.spans()?;
        let write = spans.iter().find(|span| {
            span.text("name") == "write" && span.attribute("k8s.object.kind").as_deref() == Some("Deployment")
        });
        let write = write.context("no such span yet")?;
        let root = spans.iter().find(|span| span.text("spanId") == write.text("parentSpanId"));
        Ok(Some(root.context("its reconcile is under way")?.clone()))
    })
    .await?;
    assert_eq!((root.text("name"), root.service.as_str()), ("reconcile", "analytics-controller"));
    assert_eq!(root.text("parentSpanId"), "", "{}", root.json);
    for (key, value) in
        [("k8s.namespace.name", PIPELINES), ("analytics.pipeline", PIPELINE), ("generation", "1")]
    {
        assert_eq!(root.attribute(key).as_deref(), Some(value), "{}", root.json);
    }
    a_decision_says_why(world).await?;
    consumers_export_too(world).await?;
    log_lines_carry_the_trace(world).await
}

async fn a_decision_says_why(world: &World) -> Result<()> {
    let decision = wait::until("a scaling decision", SOON, || async {
        let spans = world.collector.spans()?;
        let explained =
            |span: &&Span| span.text("name") == "scale" && span.attribute("explanation").is_some();
        Ok(spans.iter().find(explained).cloned())
    })
    .await?;
    assert_eq!(decision.attribute("replicas.desired").as_deref(), Some("2"), "{}", decision.json);
    for key in ["replicas.current", "replicas.needed", "reason", "limited_by"] {
        assert!(decision.attribute(key).is_some(), "no {key}: {}", decision.json);
    }
    Ok(())
}

async fn consumers_export_too(world: &World) -> Result<()> {
    wait::until_true("a batch of a consumer", SOON, || async {
        let spans = world.collector.spans()?;
        Ok(spans
            .iter()
            .any(|span| span.service == "analytics-service" && span.text("name").starts_with("process ")))
    })
    .await
}

/// A line of the log that was written within a reconcile leads to its trace, once that has been exported.
async fn log_lines_carry_the_trace(world: &World) -> Result<()> {
    let words = ["-n", OPERATOR, "logs", "deployment/analytics-controller"];
    wait::until_true("a trace to which a line of the log leads", SOON, || async {
        let log = world.bed.cluster.kubectl(&words).await?;
        let known = world.collector.spans()?;
        let has_been_exported = |trace: String| known.iter().any(|span| span.text("traceId") == trace);
        ensure!(log.lines().filter_map(trace_of).any(has_been_exported), "no such line yet: {log}");
        Ok(true)
    })
    .await
}

fn trace_of(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let mut spans = line["spans"].as_array()?.iter();
    spans.find_map(|span| Some(span["trace_id"].as_str()?.to_owned()))
}
