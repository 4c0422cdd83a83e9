//! What the pipeline's status says, and when it is worth a write.

use std::time::{Duration, Instant};

use analytics_api::{AnalyticsPipeline, AnalyticsPipelineStatus, LagStatus, RatesStatus, ScalingStatus};
use autoscaler::{Decision, Limit};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::build;
use super::observe::Fleet;
use crate::conditions::{Verdict, follow};
use crate::context::{Context, Memory};
use crate::error::Error;
use crate::trace;

/// Field manager of the status alone, so that its writes never touch fields of another.
const FIELD_MANAGER: &str = "analytics-controller-status";
/// Numbers alone are written no more often than this.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);
/// The autoscaler's memory alone is written no more often than this.
const MEMORY_EVERY: Duration = Duration::from_secs(300);
/// A longer memory stays out of the resource.
const MEMORY_BYTES: usize = 64 * 1024;

/// Whether the status was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    No,
}

/// What a reconcile has to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) fleet: Fleet,
    pub(crate) desired: i32,
    pub(crate) verdicts: Vec<Verdict>,
    /// What was decided; `None` leaves the figures of the last status.
    pub(crate) decision: Option<Decision>,
    /// Name of the schedule whose window is open.
    pub(crate) schedule: Option<String>,
    /// Partitions of the topic, while they are known.
    pub(crate) partitions: Option<i32>,
    /// True if the replicas were changed just now.
    pub(crate) scaled: bool,
    /// Objects that somebody else had changed or deleted.
    pub(crate) put_right: Vec<String>,
}

/// The status that follows the pipeline's, without the autoscaler's memory. (no client required)
pub(crate) fn next(pipeline: &AnalyticsPipeline, report: &Report, now: Timestamp) -> AnalyticsPipelineStatus {
    let none = AnalyticsPipelineStatus::default();
    let old = pipeline.status.as_ref().unwrap_or(&none);
    let generation = pipeline.metadata.generation.unwrap_or_default();
    let conditions: Vec<Condition> = follow(&old.conditions, &report.verdicts, generation, &Time(now));
    let (lag, rates) = match &report.decision {
        Some(decision) => (lag(decision, report.partitions), rates(decision)),
        None => (old.lag.clone(), old.rates.clone()),
    };
    AnalyticsPipelineStatus {
        observed_generation: Some(generation),
        replicas: Some(report.fleet.existing),
        ready_replicas: Some(report.fleet.ready),
        selector: Some(build::selector(&pipeline.name_any())),
        conditions,
        lag,
        rates,
        scaling: Some(scaling(old.scaling.as_ref(), report, now)),
    }
}

fn lag(decision: &Decision, partitions: Option<i32>) -> Option<LagStatus> {
    let events = decision.estimates.lag_events?;
    Some(LagStatus {
        events: coarse(i64::try_from(events).unwrap_or(i64::MAX)),
        seconds: decision.estimates.lag_seconds.map(seconds),
        partitions: partitions?,
    })
}

// Less than half a second of waiting is none; anything between is at least one.
fn seconds(seconds: f64) -> i64 {
    coarse(seconds.max(0.0).round() as i64)
}

/// The rates of a decision as the status shows them. (no client required)
pub(crate) fn rates(decision: &Decision) -> Option<RatesStatus> {
    let whole = |rate: Option<f64>| rate.map(|rate| coarse(rate.max(0.0).round() as i64));
    let estimates = &decision.estimates;
    let rates = RatesStatus {
        arrivals: whole(estimates.arrival_rate),
        processed: whole(estimates.processed_rate),
        capacity_per_replica: whole(estimates.capacity_per_replica),
    };
    (rates != RatesStatus::default()).then_some(rates)
}

// Two significant digits: enough for a person, and a steady flow does not make a new status with each look.
fn coarse(number: i64) -> i64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

fn scaling(old: Option<&ScalingStatus>, report: &Report, now: Timestamp) -> ScalingStatus {
    let Some(decision) = &report.decision else {
        return ScalingStatus { memory: None, ..old.cloned().unwrap_or_default() };
    };
    let last_scale_time = old.and_then(|old| old.last_scale_time.clone());
    ScalingStatus {
        desired: i32::try_from(decision.desired).unwrap_or(i32::MAX),
        needed: i32::try_from(decision.needed).ok().filter(|_| decision.limited_by != Limit::Unknown),
        schedule: report.schedule.clone(),
        limited_by: (decision.limited_by != Limit::None).then(|| decision.limited_by.to_string()),
        reason: Some(decision.explanation.clone()),
        last_scale_time: if report.scaled { Some(Time(whole_second(now))) } else { last_scale_time },
        next_eligible: decision
            .next_eligible
            .and_then(|time| Timestamp::from_second(time.ceil() as i64).ok())
            .map(Time),
        memory: None,
    }
}

// What the autoscaler remembers, as text.
fn remembered(memory: &Memory) -> Option<String> {
    let text = memory.scaling.as_ref().and_then(|state| serde_json::to_string(state.as_ref()).ok());
    text.filter(|text| text.len() <= MEMORY_BYTES)
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Whether the new status has to be written, `since` the last write.
fn worth_writing(
    old: &AnalyticsPipelineStatus,
    new: &AnalyticsPipelineStatus,
    since: Option<Duration>,
) -> bool {
    let elapsed = since.unwrap_or(Duration::MAX);
    if facts(old) != facts(new) {
        return true;
    }
    if (&old.lag, &old.rates) != (&new.lag, &new.rates) {
        return elapsed >= NUMBERS_EVERY;
    }
    // An idle pipeline learns nothing, so there is nothing to remember: it is not written at all.
    let busy = new.lag.as_ref().is_some_and(|lag| lag.events > 0)
        || new.rates.as_ref().is_some_and(|rates| rates.arrivals.unwrap_or(0) > 0);
    busy && elapsed >= MEMORY_EVERY
}

// What a person or a tool waits for. Messages with figures in them are no reason for a write.
fn facts(status: &AnalyticsPipelineStatus) -> impl PartialEq {
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| {
            let failure = (condition.status == "False").then_some(&condition.message);
            (&condition.type_, &condition.status, &condition.reason, failure)
        })
        .collect();
    let scaling = status.scaling.as_ref();
    (
        (status.observed_generation, status.replicas, status.ready_replicas, &status.selector),
        (status.lag.is_some(), status.lag.as_ref().is_some_and(|lag| lag.events == 0)),
        conditions,
        (
            scaling.map_or(0, |scaling| scaling.desired),
            scaling.and_then(|scaling| scaling.limited_by.as_ref()),
            scaling.and_then(|scaling| scaling.last_scale_time.as_ref()),
            scaling.and_then(|scaling| scaling.schedule.as_ref()),
        ),
    )
}

/// Writes the status if it is worth it, and tells of transitions by Events. (client required)
pub(crate) async fn write(
    pipeline: &AnalyticsPipeline,
    report: &Report,
    context: &Context,
    memory: &mut Memory,
) -> Result<(AnalyticsPipelineStatus, Written), Error> {
    let none = AnalyticsPipelineStatus::default();
    let old = pipeline.status.as_ref().unwrap_or(&none);
    let mut new = next(pipeline, report, Timestamp::now());
    if !worth_writing(old, &new, memory.status_written.map(|written| written.elapsed())) {
        return Ok((new, Written::No));
    }
    if let Some(scaling) = &mut new.scaling {
        scaling.memory = remembered(memory);
    }
    let api = Api::<AnalyticsPipeline>::namespaced(
        context.client.clone(),
        &pipeline.namespace().unwrap_or_default(),
    );
    let object = json!({
        "apiVersion": "analyticspipeline.dev/v1alpha1",
        "kind": "AnalyticsPipeline",
        // The uid keeps a new pipeline of the same name from getting the status of the old one.
        "metadata": {"name": pipeline.name_any(), "uid": pipeline.uid()},
        "status": new,
    });
    let (name, parameters, patch) =
        (pipeline.name_any(), PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&object));
    trace::write("AnalyticsPipelineStatus", &name, api.patch_status(&name, &parameters, &patch))
        .await
        .map_err(|source| Error::Status { source: Box::new(source) })?;
    context.metrics.wrote("AnalyticsPipelineStatus");
    memory.status_written = Some(Instant::now());
    Ok((new, Written::Yes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::{READY, reasons};
    use crate::pipeline::fixtures;

    #[test]
    fn figures_keep_two_digits() {
        let table = [
            (0, 0),
            (7, 7),
            (99, 99),
            (104, 100),
            (105, 110),
            (1_049, 1_000),
            (123_456, 120_000),
            (995, 1_000),
        ];
        for (number, expected) in table {
            assert_eq!(coarse(number), expected, "{number}");
        }
        assert!(coarse(i64::MAX / 2) > 0);
    }

    fn status(events: i64, ready: i32) -> AnalyticsPipelineStatus {
        let verdicts = [Verdict::yes(READY, reasons::CONSUMERS_READY, format!("{events}"))];
        AnalyticsPipelineStatus {
            ready_replicas: Some(ready),
            lag: Some(LagStatus { events, seconds: None, partitions: 1 }),
            conditions: follow(&[], &verdicts, 1, &fixtures::time(1)),
            ..AnalyticsPipelineStatus::default()
        }
    }

    /// A thousand idle pipelines must not write at all, and busy ones not with each look.
    #[test]
    fn facts_are_written_at_once_figures_now_and_then_and_nothing_when_nothing_changed() {
        let soon = Some(Duration::from_secs(1));
        let later = Some(Duration::from_secs(11));
        let much_later = Some(Duration::from_secs(301));
        assert!(!worth_writing(&status(0, 1), &status(0, 1), much_later));
        assert!(worth_writing(&status(0, 1), &status(0, 2), soon));
        assert!(worth_writing(&status(0, 1), &status(5, 1), soon), "lag appears");
        assert!(worth_writing(&status(5, 1), &status(0, 1), soon), "lag is gone");
        assert!(!worth_writing(&status(5, 1), &status(6, 1), soon));
        assert!(worth_writing(&status(5, 1), &status(6, 1), later));
        assert!(!worth_writing(&status(5, 1), &status(5, 1), later));
        assert!(worth_writing(&status(5, 1), &status(5, 1), much_later));
    }
}
