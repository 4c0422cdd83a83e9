//! Runs `AnalyticsPipeline`s on Kubernetes and scales them by lag.
//!
//! A reconcile is a pipeline of its own, a file for each stage: dereference (reads referenced Secrets) → validate (pure) →
//! observe (reads lag and consumers) → decide (pure) → build (pure) → apply (the only writer) → status.

pub mod args;
mod arrivals;
pub mod conditions;
mod context;
mod decisions;
mod error;
mod events;
mod heap;
mod index;
mod kafka;
pub mod lease;
mod metrics;
mod pipeline;
mod recollections;
mod run;
mod secrets;
mod shelf;
mod trace;
mod watches;

pub use run::{RunError, run};

use analytics_api::crd;

/// The CustomResourceDefinition as YAML, the text of `crds/analyticspipelines.yaml`.
///
/// # Errors
/// When the definition cannot be written as YAML, which would be a mistake in the types.
pub fn crd_yaml() -> Result<String, serde_json::Error> {
    // By way of a JSON value: its maps are sorted, so the file is the same on every run.
    let value = serde_json::to_value(crd())?;
    serde_saphyr::to_string(&value).map_err(<serde_json::Error as serde::ser::Error>::custom)
}

/// Every metric of the controller as a Markdown table, for `docs/metrics.md`.
///
/// # Errors
/// When two metrics have one name, which would be a mistake in the program.
pub fn metrics_reference() -> Result<String, prometheus::Error> {
    metrics::Metrics::families().map(analytics_runtime::catalogue::markdown)
}
