//! What the pipeline's status says, and when it is worth a write.

use std::time::{Duration, Instant};

use analytics_api::{
    AnalyticsPipeline, AnalyticsPipelineSpec, AnalyticsPipelineStatus, LagStatus, RatesStatus, ScalingStatus,
};
use autoscaler::{Decision, Limit, Reason};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::observe::Fleet;
use super::{build, scale};
use crate::conditions::{Verdict, follow};
use crate::context::{Context, Memory};
use crate::error::Error;
use crate::trace;

/// Field manager of the status alone, so that its writes never touch fields of another.
const FIELD_MANAGER: &str = "analytics-controller-status";
/// Numbers alone are written no more often than this.
const NUMBERS_EVERY: Duration = Duration::from_secs(10);
/// The autoscaler's memory alone is written no more often than this. Windows do not survive a gap of two minutes.
const MEMORY_EVERY: Duration = Duration::from_secs(90);
/// What is longer does not go into the resource.
const MEMORY_BYTES: usize = 64 * 1024;

/// Whether the status was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// There is something to write, but not yet.
    Later,
    /// There is nothing to write.
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
    /// When they were last changed, if this controller did it.
    pub(crate) changed: Option<Timestamp>,
    /// Consumers that the operator has stopped.
    pub(crate) stopped: Option<i32>,
    /// Somebody else sets the number of consumers.
    pub(crate) truce: bool,
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
        scaling: Some(scaling(&pipeline.spec, old.scaling.as_ref(), report)),
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

fn scaling(spec: &AnalyticsPipelineSpec, old: Option<&ScalingStatus>, report: &Report) -> ScalingStatus {
    let old = old.cloned().unwrap_or_default();
    let last_scale_time = report.changed.map(whole_second).map(Time).or_else(|| old.last_scale_time.clone());
    let stopped_replicas = report.stopped;
    let Some(decision) = &report.decision else {
        // What a dry run has found stays until it finds something else; what is wanted is known.
        let desired = if spec.scaling.dry_run { old.desired } else { report.desired };
        return ScalingStatus { desired, last_scale_time, stopped_replicas, memory: None, ..old };
    };
    let told = scale::explanation(spec, Some(decision), report.truce);
    let (reason_code, reason) = told.unzip();
    let by_lag = reason_code.as_deref() == Some(decision.reason.to_string().as_str());
    let wanted = i32::try_from(decision.desired).unwrap_or(i32::MAX);
    ScalingStatus {
        // Where lag does not decide, the autoscaler's number is not what is wanted.
        desired: if by_lag && spec.scaling.dry_run { wanted } else { report.desired },
        needed: i32::try_from(decision.needed).ok().filter(|_| decision.limited_by != Limit::Unknown),
        schedule: report.schedule.clone(),
        limited_by: (by_lag && decision.limited_by != Limit::None).then(|| decision.limited_by.to_string()),
        reason,
        reason_code,
        last_scale_time,
        next_eligible: decision
            .next_eligible
            .filter(|_| by_lag)
            .and_then(|time| Timestamp::from_second(time.ceil() as i64).ok())
            .map(Time),
        stopped_replicas,
        memory: None,
    }
}

// What the autoscaler remembers, as text. Of thousands of partitions only what is known of all of them together: how each fares is
// learned again in a minute, what a consumer can do is not.
fn remembered(memory: &mut Memory) -> Option<String> {
    let whole = serde_json::to_string(memory.scaling.as_ref()?.as_ref()).ok()?;
    if whole.len() <= MEMORY_BYTES {
        return Some(whole);
    }
    let most = without_partitions(&whole).filter(|text| text.len() <= MEMORY_BYTES);
    if !std::mem::replace(&mut memory.course.cut, true) {
        tracing::warn!(
            pipeline = memory.name.1,
            namespace = memory.name.0,
            bytes = whole.len(),
            kept_bytes = most.as_ref().map_or(0, String::len),
            "What is remembered for scaling is too long for the status: the partitions are left out, and learned anew after a restart"
        );
    }
    most
}

fn without_partitions(whole: &str) -> Option<String> {
    let mut state: serde_json::Map<String, serde_json::Value> = serde_json::from_str(whole).ok()?;
    state.remove("partitions");
    serde_json::to_string(&state).ok()
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Whether the new status has to be written, `since` the last write. `learns`: the autoscaler learns something that a restart of
/// the controller must not forget.
fn worth_writing(
    old: &AnalyticsPipelineStatus,
    new: &AnalyticsPipelineStatus,
    learns: bool,
    since: Option<Duration>,
) -> Written {
    let elapsed = since.unwrap_or(Duration::MAX);
    let after = |pause| if elapsed >= pause { Written::Yes } else { Written::Later };
    if facts(old) != facts(new) {
        Written::Yes
    } else if (&old.lag, &old.rates) != (&new.lag, &new.rates) {
        after(NUMBERS_EVERY)
    } else if learns {
        after(MEMORY_EVERY)
    } else {
        Written::No
    }
}

// An idle pipeline learns nothing, so there is nothing to remember: it is not written at all. One that waits for a window to end is
// not idle, though nothing may arrive.
fn learns(new: &AnalyticsPipelineStatus, decision: Option<&Decision>) -> bool {
    new.lag.as_ref().is_some_and(|lag| lag.events > 0)
        || new.rates.as_ref().is_some_and(|rates| rates.arrivals.unwrap_or(0) > 0)
        || decision.is_some_and(|decision| decision.reason == Reason::Waiting)
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
        // Whether none or a few events wait at the moment of a look is chance; that it is known is not.
        status.lag.is_some(),
        conditions,
        (
            scaling.map_or(0, |scaling| scaling.desired),
            scaling.and_then(|scaling| scaling.limited_by.as_ref()),
            scaling.and_then(|scaling| scaling.stopped_replicas),
            scaling.and_then(|scaling| scaling.last_scale_time.as_ref()),
            scaling.and_then(|scaling| scaling.schedule.as_ref()),
        ),
    )
}

/// Writes the status if it is worth it. (client required)
pub(crate) async fn write(
    pipeline: &AnalyticsPipeline,
    new: &AnalyticsPipelineStatus,
    decision: Option<&Decision>,
    context: &Context,
    memory: &mut Memory,
) -> Result<Written, Error> {
    let none = AnalyticsPipelineStatus::default();
    let old = pipeline.status.as_ref().unwrap_or(&none);
    let since = memory.status_written.map(|written| written.elapsed());
    let written = worth_writing(old, new, learns(new, decision), since);
    if written != Written::Yes {
        return Ok(written);
    }
    let mut new = new.clone();
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
    Ok(written)
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
        let (soon, later, much_later) = (1, 11, 91);
        let table = [
            (status(0, 1), status(0, 1), false, much_later, Written::No, "nothing has changed"),
            (status(0, 1), status(0, 2), false, soon, Written::Yes, "a fact"),
            // A steady flow is seen now with, now without a few events that wait.
            (status(0, 1), status(5, 1), true, soon, Written::Later, "lag appears"),
            (status(5, 1), status(0, 1), true, soon, Written::Later, "lag is gone"),
            (status(5, 1), status(0, 1), false, later, Written::Yes, "and that is not forgotten"),
            (status(5, 1), status(6, 1), true, soon, Written::Later, "a figure"),
            (status(5, 1), status(6, 1), true, later, Written::Yes, "a figure, after a while"),
            (status(5, 1), status(5, 1), true, later, Written::Later, "only memory"),
            (status(5, 1), status(5, 1), true, much_later, Written::Yes, "memory, after a while"),
        ];
        for (old, new, learns, seconds, expected, what) in table {
            let since = Some(Duration::from_secs(seconds));
            assert_eq!(worth_writing(&old, &new, learns, since), expected, "{what}");
        }
        assert!(MEMORY_EVERY <= Duration::from_secs(100), "a longer gap resets the windows");
    }

    fn decision(change: impl FnOnce(&mut Decision)) -> Decision {
        let (_, mut decision) =
            autoscaler::decide(&Default::default(), &Default::default(), &Default::default());
        change(&mut decision);
        decision
    }

    #[test]
    fn a_window_that_runs_is_remembered_though_nothing_arrives() {
        for (reason, expected) in [(Reason::Waiting, true), (Reason::Steady, false), (Reason::Idle, false)] {
            let decision = decision(|decision| decision.reason = reason);
            assert_eq!(learns(&status(0, 1), Some(&decision)), expected, "{reason}");
        }
        assert!(learns(&status(1, 1), None));
    }

    /// `desired` is what shall run, whoever says so; only a dry run shows what would be wanted.
    #[test]
    fn what_is_wanted_is_what_is_set_and_lag_explains_only_its_own_numbers() {
        let of_lag = decision(|decision| {
            (decision.desired, decision.needed) = (1, 1);
            (decision.limited_by, decision.reason) = (Limit::Partitions, Reason::AtLimit);
        });
        let fixed = r#"{"scaling": {"mode": "Fixed", "replicas": 5}}"#;
        let table = [
            ("{}", 1, false, 1, "AtLimit", Some("Partitions")),
            (r#"{"scaling": {"dryRun": true}}"#, 3, false, 1, "AtLimit", Some("Partitions")),
            (fixed, 5, false, 5, "SetByUser", None),
            (r#"{"suspend": true}"#, 0, false, 0, "Suspended", None),
            ("{}", 7, true, 7, "SetByOthers", None),
        ];
        for (spec, set, truce, desired, code, limit) in table {
            let report = Report { desired: set, decision: Some(of_lag.clone()), truce, ..Report::default() };
            let scaling = next(&fixtures::pipeline(spec), &report, Timestamp::UNIX_EPOCH).scaling.unwrap();
            assert_eq!((scaling.desired, scaling.reason_code.as_deref()), (desired, Some(code)), "{spec}");
            assert_eq!(scaling.limited_by.as_deref(), limit, "{spec}");
        }
    }

    /// A status that could not be written must not lose when consumers were last changed.
    #[test]
    fn the_time_of_the_last_change_is_told_until_it_is_written() {
        let mut pipeline = fixtures::pipeline("{}");
        let report = Report { changed: Some(Timestamp::from_second(7).unwrap()), ..Report::default() };
        let told = |pipeline: &AnalyticsPipeline, report: &Report| {
            next(pipeline, report, Timestamp::UNIX_EPOCH).scaling.unwrap().last_scale_time
        };
        assert_eq!(told(&pipeline, &report), Some(fixtures::time(7)));
        pipeline.status = Some(next(&pipeline, &report, Timestamp::UNIX_EPOCH));
        assert_eq!(told(&pipeline, &Report::default()), Some(fixtures::time(7)), "by an earlier controller");
    }

    #[test]
    fn of_too_long_a_memory_what_counts_most_is_kept() {
        let observation = |partitions: i32, turn: i64| autoscaler::Observation {
            time: 1.0e9 + 5.0 * turn as f64,
            partition_count: Some(partitions.unsigned_abs()),
            partitions: (0..partitions)
                .map(|partition| autoscaler::PartitionObservation {
                    partition,
                    log_start: Some(0),
                    log_end: Some(turn * 1_000),
                    committed: autoscaler::CommittedOffset::At(turn * 999),
                    lag_seconds: None,
                })
                .collect(),
            ..autoscaler::Observation::default()
        };
        for (partitions, cut) in [(12, false), (3_000, true)] {
            let mut state = autoscaler::State::default();
            for turn in 1..5 {
                (state, _) = autoscaler::decide(&state, &observation(partitions, turn), &Default::default());
            }
            let mut memory = Memory { scaling: Some(state.clone().into()), ..Memory::default() };
            let text = remembered(&mut memory).unwrap();
            assert!(text.len() <= MEMORY_BYTES, "{} bytes", text.len());
            assert_eq!(memory.course.cut, cut);
            let read: autoscaler::State = serde_json::from_str(&text).unwrap();
            assert_eq!(read == state, !cut);
            let whole = serde_json::to_value(&state).unwrap();
            let kept = serde_json::to_value(&read).unwrap();
            for part in ["capacity", "scaling", "sink", "shadows"] {
                assert_eq!(kept[part], whole[part], "{part}");
            }
        }
    }
}
