//! One pipeline, from its description to what runs it.

mod apply;
mod build;
mod contest;
mod dereference;
#[cfg(test)]
mod fake;
#[cfg(test)]
pub(crate) mod fixtures;
mod guard;
pub(crate) mod hash;
mod migrate;
mod monitoring;
mod observe;
mod policy;
mod prepared;
mod rest;
mod scale;
mod schedule;
mod scrape;
mod status;
#[cfg(test)]
mod tests;
mod validate;
mod verdict;

use std::sync::Arc;
use std::time::{Duration, Instant};

use analytics_api::{AnalyticsPipeline, AnalyticsPipelineStatus, labels};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use tracing::Instrument;

use crate::context::{Context, Memory, Pipeline};
use crate::error::Error;
use crate::{events, trace};
pub(crate) use apply::AppliedObjects;
use apply::Extent;
use migrate::Migration;
pub(crate) use monitoring::{Kinds, Monitor};
pub(crate) use observe::Fleet;
pub(crate) use prepared::{Essence, Prepared, Settled};
use rest::LONGEST_PAUSE;
pub(crate) use rest::{Rest, wakes};
pub(crate) use scale::Course;
pub(crate) use scrape::{Sample, client as http_client};
use status::{Report, Written};
use validate::{Description, Refusal, ValidatedPipeline};

/// Longest wait for the watches to have listed what there is.
const READY_WAIT: Duration = Duration::from_secs(10);
/// So long after the start it is still worth waiting for pipelines of other namespaces.
const OTHERS_WAIT: Duration = Duration::from_secs(30);
/// Pause before they are waited for again.
const READY_AGAIN: Duration = Duration::from_secs(2);

/// Brings one pipeline to what is described. What goes wrong becomes a condition; an error is only what could not even be said.
pub(crate) async fn reconcile(object: Arc<Pipeline>, context: Arc<Context>) -> Result<Action, Error> {
    let (pipeline, spec) = match (&object.0, Description::of(&object)) {
        (Ok(pipeline), Some(spec)) if pipeline.metadata.deletion_timestamp.is_none() => (pipeline, spec),
        // Everything goes by its owner references; there is nothing to wait for.
        (Ok(_), _) => return Ok(Action::await_change()),
        (Err(invalid), _) => {
            tracing::warn!(
                pipeline = object.name_any(),
                namespace = object.namespace(),
                error = invalid.error,
                "A pipeline cannot be read"
            );
            context.metrics.failed("unreadable");
            return Ok(Action::await_change());
        }
    };
    let name = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    if !is_ready(&name.0, &context).await {
        tracing::warn!(
            pipeline = name.1,
            namespace = name.0,
            "Not every watch has listed what there is; nothing is concluded before"
        );
        context.metrics.failed("not_listed");
        return Ok(Action::requeue(READY_AGAIN));
    }
    let started = Instant::now();
    let uid = pipeline.uid().unwrap_or_default();
    let mut memory = context.memories.take(&uid);
    memory.name = name;
    let span = trace::reconcile(&memory.name.0, &memory.name.1, pipeline.metadata.generation);
    let outcome = guard::whole(run(pipeline, &spec, &context, &mut memory)).instrument(span.clone()).await;
    trace::reconciled(&span, &outcome);
    let error = outcome.as_ref().err().map(Error::category);
    context.metrics.reconciled(started.elapsed(), error);
    memory.failures = if error.is_some() { memory.failures.saturating_add(1) } else { 0 };
    let asked = memory.decision.as_ref().and_then(|decision| decision.look_again_seconds);
    let asked = asked.map(Duration::from_secs_f64);
    let interval = memory.rest.interval(context.settings.poll_interval(), asked);
    let pause = rest::spread(interval, memory.failures, &uid);
    context.memories.put(&uid, memory);
    if let Err(error) = outcome {
        let _within = span.enter();
        tracing::warn!(pipeline = pipeline.name_any(), namespace = pipeline.namespace(), %error, "Reconciling failed; trying again");
    }
    Ok(Action::requeue(pause))
}

// A Deployment that the watch has not delivered yet would look like none, and a pipeline with many consumers like a new one.
async fn is_ready(namespace: &str, context: &Context) -> bool {
    let all = async {
        for pipelines in &context.pipelines {
            // Those of other namespaces, which are only looked at for conflicts, and which it may be forbidden to list.
            pipelines.ready_within(OTHERS_WAIT).await;
        }
        match context.stores.get(namespace) {
            Some(stores) => stores.ready().await,
            None => true,
        }
    };
    // Not for ever: a controller that stops waits for its reconciles.
    tokio::time::timeout(READY_WAIT, all).await.unwrap_or(false)
}

/// What to do with an error of [`reconcile`] itself; it has none that it does not handle.
pub(crate) fn error_policy(_: Arc<Pipeline>, _: &Error, _: Arc<Context>) -> Action {
    Action::requeue(LONGEST_PAUSE)
}

async fn run(
    pipeline: &AnalyticsPipeline,
    spec: &Description,
    context: &Context,
    memory: &mut Memory,
) -> Result<(), Error> {
    let fleet = observe::fleet(context, &memory.name.0, &memory.name.1);
    let mut report = Report {
        verdicts: vec![verdict::suspended(pipeline.spec.suspend, &fleet)],
        fleet,
        ..Report::default()
    };
    report.desired = report.fleet.spec;
    let outcome = guard::work(bring_about(pipeline, spec, context, memory, &mut report)).await;
    (report.changed, report.stopped) = (memory.course.changed, memory.course.stopped);
    let interval = context.settings.poll_interval();
    memory.rest = Rest::Awake;
    let (essence, failure) = match outcome {
        Ok(Outcome::Told) => {
            memory.rest = Rest::after(memory, true, interval);
            // What is remembered of Events is worth more room than all else, and when something happens, it is something new.
            memory.recorder = None;
            return Ok(());
        }
        Ok(Outcome::Done(essence)) => (Some(essence), None),
        Ok(Outcome::Refused) => (None, None),
        Err(error) => {
            report.verdicts.extend(verdict::failed(&error));
            (None, Some(error))
        }
    };
    if essence.is_none() {
        Box::pin(monitoring::alerts(pipeline, context, memory)).await;
    }
    memory.told = None;
    let written = tell(pipeline, &report, context, memory).await;
    if let Some(error) = failure {
        return Err(error);
    }
    // A status that was written comes back by the watch, with another version.
    memory.told = essence.filter(|_| matches!(written, Ok(Written::No))).map(|essence| *essence);
    memory.rest = Rest::after(memory, false, interval);
    written.map(|_| ())
}

/// What became of a reconcile.
enum Outcome {
    /// All is as it was told before.
    Told,
    /// It is to be told.
    Done(Box<Essence>),
    /// The pipeline cannot be run as it is.
    Refused,
}

async fn bring_about(
    pipeline: &AnalyticsPipeline,
    spec: &Description,
    context: &Context,
    memory: &mut Memory,
    report: &mut Report,
) -> Result<Outcome, Error> {
    scale::recall(pipeline, memory);
    // Reads referenced Secrets.
    let references = dereference::run(pipeline, &context.secrets, &mut memory.secrets).await?;
    // Pure.
    let rivals = context.rivals(pipeline);
    let others: Vec<_> = rivals.iter().filter_map(|other| other.0.as_ref().ok()).collect();
    let prepared = match prepared(pipeline, spec, references, &others, context, memory) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            return refuse(pipeline, &refusal, context, memory, report).await.map(|()| Outcome::Refused);
        }
    };
    let Prepared { valid, job, .. } = prepared.as_ref();
    look_for_others(valid, &report.fleet, context, memory).await;
    // Reads Kafka and the consumers' metrics.
    let seen = observe::run(valid, &report.fleet, context, memory).await;
    // Pure.
    let scale = scale::run(valid, &report.fleet, &seen, memory, &context.decisions);
    if seen.observation.is_some() {
        trace::decided(report.fleet.spec, scale.replicas, scale.decision.as_ref());
    }
    drained(context, memory);
    let migration = migration(valid, job, context);
    let extent = match migration {
        Migration::Done | Migration::NotWanted => Extent::All,
        Migration::Failing { anew: true, .. } => Extent::MigrationAnew,
        Migration::Running | Migration::Failing { .. } => Extent::Migration,
    };
    let settled = memory.settled.take().filter(|settled| {
        settled.is_for(&prepared, scale.replicas, extent) && apply::is_untouched(valid, job, context, memory)
    });
    let essence = essence(pipeline, &report.fleet, &scale, &migration);
    if settled.is_some() && seen.nothing_new && memory.told.as_ref() == Some(&essence) {
        memory.settled = settled;
        Box::pin(monitoring::run(pipeline, context, memory)).await;
        return Ok(Outcome::Told);
    }
    report.verdicts.extend(verdict::running(valid, &report.fleet, &seen.reading, &scale, &migration, job));
    let deployment = labels::consumer_name(&valid.name);
    report.verdicts.push(verdict::contest(&scale, &memory.course.contest, &deployment));
    report.desired = scale.replicas;
    report.truce = scale.truce;
    report.partitions =
        seen.reading.as_ref().ok().and_then(|reading| i32::try_from(reading.partition_count).ok());
    report.decision = scale.decision;
    report.schedule = scale.schedule;
    let seen_version = apply::seen_version(valid, context);
    let scales = extent == Extent::All
        && report.fleet.exists
        && report.fleet.spec != scale.replicas
        && !memory.course.contest.is_on_its_way(scale.replicas, seen_version);
    // Writes.
    if settled.is_none() {
        let objects = build::run(valid, scale.replicas);
        report.put_right = Box::pin(apply::run(valid, objects, extent, context, memory)).await?;
        if extent == Extent::All {
            let version = apply::applied_version(valid, memory);
            memory.course.contest.set(scale.replicas, version);
        }
    }
    // Not before: what was refused has changed nothing.
    if scales {
        report.scaled = true;
        memory.course.changed = Some(jiff::Timestamp::now());
    }
    memory.settled = Some(Settled::new(&prepared, scale.replicas, extent));
    Box::pin(monitoring::run(pipeline, context, memory)).await;
    Ok(Outcome::Done(Box::new(essence)))
}

// Somebody else who sets the number of consumers.
async fn look_for_others(
    pipeline: &ValidatedPipeline,
    fleet: &Fleet,
    context: &Context,
    memory: &mut Memory,
) {
    if policy::is_dry_run(&pipeline.spec) {
        // It is meant for others to set it.
        return;
    }
    let version = apply::seen_version(pipeline, context);
    if memory.course.contest.look(fleet.spec, version, Instant::now()) {
        let who = apply::who_scales(pipeline, context).await;
        memory.course.contest.name(who);
    }
}

fn essence(
    pipeline: &AnalyticsPipeline,
    fleet: &Fleet,
    scale: &scale::Scale,
    migration: &Migration,
) -> Essence {
    Essence {
        version: pipeline.metadata.resource_version.clone(),
        fleet: fleet.clone(),
        migration: migration.clone(),
        scale: scale::Shown::of(scale),
    }
}

// How well the last growth was predicted, once its backlog is gone.
fn drained(context: &Context, memory: &mut Memory) {
    let Some(outcome) = memory.drained.take() else { return };
    let (namespace, pipeline) = &memory.name;
    let autoscaler::DrainOutcome { predicted_seconds, actual_seconds } = outcome;
    tracing::info!(
        pipeline,
        namespace,
        predicted_seconds,
        actual_seconds,
        "The backlog of the last growth is gone"
    );
    context.metrics.drained(namespace, pipeline, &outcome);
}

fn prepared(
    pipeline: &AnalyticsPipeline,
    spec: &Description,
    references: dereference::References,
    others: &[&AnalyticsPipeline],
    context: &Context,
    memory: &mut Memory,
) -> Result<Arc<Prepared>, Refusal> {
    let generation = pipeline.metadata.generation.unwrap_or_default();
    let checked = memory.rules.take().filter(|(checked, _)| *checked == generation);
    let (_, broken) =
        memory.rules.insert(checked.unwrap_or_else(|| (generation, validate::broken_rules(pipeline))));
    if let Some(broken) = broken {
        return Err(Refusal::invalid(broken.clone()));
    }
    let known = memory.prepared.as_ref().filter(|known| known.is_of(generation, &references));
    if let Some(known) = known {
        validate::conflicts(pipeline, others)?;
        let known = known.held_by(spec);
        memory.prepared = Some(Arc::clone(&known));
        return Ok(known);
    }
    let image = context.settings.consumer_image.as_deref();
    let valid = validate::run(pipeline, spec, &references, others, image)?;
    let prepared = Arc::new(Prepared::new(generation, references, valid));
    memory.prepared = Some(Arc::clone(&prepared));
    Ok(prepared)
}

// Consumers that run are left alone, unless they would disturb another pipeline or shall stop anyway.
async fn refuse(
    pipeline: &AnalyticsPipeline,
    refusal: &Refusal,
    context: &Context,
    memory: &mut Memory,
    report: &mut Report,
) -> Result<(), Error> {
    report.verdicts.extend(verdict::refused(refusal, &report.fleet));
    let stops = refusal.stop || pipeline.spec.suspend;
    if stops {
        memory.course.stopped = scale::stopped(memory.course.stopped, &report.fleet, stops, false);
    }
    if stops && report.fleet.spec > 0 {
        let name = labels::consumer_name(&pipeline.name_any());
        apply::set_replicas(context, &pipeline.namespace().unwrap_or_default(), &name, 0).await?;
        // A write of our own: the next apply must not take it for a stranger's.
        memory.applied.clear();
        memory.course.contest.set(0, None);
        memory.settled = None;
        report.desired = 0;
    }
    Ok(())
}

fn migration(pipeline: &ValidatedPipeline, job: &str, context: &Context) -> Migration {
    if pipeline.spec.suspend {
        return Migration::NotWanted;
    }
    let mut pods = observe::pods(context, &pipeline.namespace, &pipeline.name, "migration");
    pods.retain(|pod| pod.labels().get("batch.kubernetes.io/job-name").is_some_and(|name| name == job));
    let trouble = pods.iter().find_map(|pod| observe::trouble(pod));
    let ended = pods.iter().find_map(|pod| observe::ended(pod, jiff::Timestamp::now()));
    let namespace = &pipeline.namespace;
    let job = context.stores.get(namespace).and_then(|stores| stores.jobs.get(namespace, job));
    migrate::progress(job.as_ref(), trouble, ended)
}

// What was done is told whatever becomes of the status; how conditions have changed, once it is written, for else it would be told
// with each attempt.
async fn tell(
    pipeline: &AnalyticsPipeline,
    report: &Report,
    context: &Context,
    memory: &mut Memory,
) -> Result<Written, Error> {
    let old = pipeline.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let status = status::next(pipeline, report, jiff::Timestamp::now());
    show(pipeline, report, &status, context, memory);
    publish(pipeline, &done(pipeline, report), context, memory).await;
    let written = status::write(pipeline, &status, report.decision.as_ref(), context, memory).await?;
    publish(pipeline, &events::between(old, &status.conditions), context, memory).await;
    Ok(written)
}

// Events about what was done.
fn done(pipeline: &AnalyticsPipeline, report: &Report) -> Vec<kube::runtime::events::Event> {
    let mut events = Vec::new();
    if report.scaled {
        let told = scale::explanation(&pipeline.spec, report.decision.as_ref(), report.truce);
        let explanation =
            told.map_or_else(|| "nothing is known of the load yet.".to_owned(), |(_, text)| text);
        let estimates = report.decision.as_ref().map(|decision| &decision.estimates);
        events.push(events::scaled(report.fleet.spec, report.desired, &explanation, estimates));
    }
    if !report.put_right.is_empty() {
        events.push(events::put_right(&report.put_right));
    }
    events
}

async fn publish(
    pipeline: &AnalyticsPipeline,
    events: &[kube::runtime::events::Event],
    context: &Context,
    memory: &mut Memory,
) {
    let reference = kube::Resource::object_ref(pipeline, &());
    for event in events {
        tracing::info!(
            pipeline = memory.name.1,
            namespace = memory.name.0,
            reason = event.reason,
            note = event.note,
            "Event"
        );
        match context.recorder_for(event, memory).publish(event, &reference).await {
            Ok(()) => context.metrics.wrote("Event"),
            // An Event is a courtesy; the status has it all.
            Err(error) => tracing::warn!(%error, "An Event could not be written"),
        }
    }
}

// As metrics.
fn show(
    pipeline: &AnalyticsPipeline,
    report: &Report,
    status: &AnalyticsPipelineStatus,
    context: &Context,
    memory: &Memory,
) {
    let (namespace, name) = (memory.name.0.as_str(), memory.name.1.as_str());
    let Fleet { spec, existing, ready, restarts, rollout, .. } = report.fleet;
    if report.scaled {
        context.metrics.scaled(spec, report.desired);
    }
    // Not from the status, which holds round figures and is not written each time.
    let estimates = report.decision.as_ref().map(|decision| &decision.estimates);
    context.metrics.set_lag(
        namespace,
        name,
        estimates.and_then(|estimates| i64::try_from(estimates.lag_events?).ok()),
        estimates.and_then(|estimates| Some(estimates.lag_seconds?.max(0.0).round() as i64)),
    );
    context.metrics.set_replicas(namespace, name, report.desired, existing, ready);
    context.metrics.set_changes(namespace, name, restarts, rollout);
    context.metrics.set_told(
        namespace,
        name,
        &status.conditions,
        pipeline.spec.scaling.target_lag_seconds,
        report.decision.as_ref(),
    );
}
