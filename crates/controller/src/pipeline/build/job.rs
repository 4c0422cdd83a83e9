//! The migration Job: it brings the tables to what this version of the consumer needs, before the first consumer of it runs.

use analytics_api::labels;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::container;
use super::metadata::{self, Component};
use crate::pipeline::hash::Hasher;
use crate::pipeline::validate::ValidatedPipeline;

/// The container is started again and again with growing pauses; giving up would only need a person to say "try again".
const ATTEMPTS: i32 = 10_000;

pub(super) fn build(pipeline: &ValidatedPipeline, config_map: &ConfigMap) -> Job {
    let name = labels::migration_name(&pipeline.name, &migration_hash(pipeline));
    let labels = metadata::all(&pipeline.name, Component::Migration);
    Job {
        metadata: metadata::object(pipeline, name, Component::Migration),
        spec: Some(JobSpec {
            backoff_limit: Some(ATTEMPTS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(pipeline, config_map)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// Names the migration: eight digits that change when it has to run (again), because the image, the tables, the database or
/// the way to it changed.
pub(crate) fn migration_hash(pipeline: &ValidatedPipeline) -> String {
    let mut hasher = Hasher::new();
    hasher
        .add(&pipeline.image)
        .add(&pipeline.spec.sink.table)
        .add(pipeline.spec.delivery.dead_letters.table_name().unwrap_or_default())
        .add(&pipeline.database_hash);
    // Which interval makes another table; how long events are kept is the consumers' own business.
    if let Some(partitioning) = &pipeline.spec.sink.partitioning {
        hasher.add(partitioning.interval.as_setting());
    }
    let mut digits = hasher.finish();
    digits.truncate(8);
    digits
}

fn pod(pipeline: &ValidatedPipeline, config_map: &ConfigMap) -> PodSpec {
    let consumer = &pipeline.spec.consumer;
    PodSpec {
        // The pod stays and its container is restarted, so that there is one place to look for what went wrong.
        restart_policy: Some("OnFailure".to_owned()),
        service_account_name: Some(labels::consumer_name(&pipeline.name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(container::pod_security_context()),
        image_pull_secrets: container::pull_secrets(&consumer.image_pull_secrets),
        containers: vec![main_container(pipeline, config_map)],
        volumes: container::volumes(pipeline),
        node_selector: (!consumer.node_selector.is_empty()).then(|| consumer.node_selector.clone()),
        affinity: consumer.affinity.clone(),
        tolerations: container::some_if_any(consumer.tolerations.clone()),
        priority_class_name: consumer.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

// Settings stand in the Job itself: the ConfigMap still holds those of the consumers that run.
fn main_container(pipeline: &ValidatedPipeline, config_map: &ConfigMap) -> Container {
    let mut container = container::build(pipeline, "migrate", Some(vec!["migrate".to_owned()]));
    let settings = config_map
        .data
        .iter()
        .flatten()
        .filter(|(name, _)| !name.starts_with("OTEL_") && *name != "DATABASE_MIGRATIONS")
        .map(|(name, value)| EnvVar { name: name.clone(), value: Some(escaped(value)), value_from: None });
    container.env.get_or_insert_default().extend(settings);
    container
}

// Kubernetes replaces $(NAME) in values of `env`, but not in those that come from a ConfigMap.
fn escaped(value: &str) -> String {
    value.replace("$(", "$$(")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    /// A Job cannot be changed once made, so its name must change whenever it has to run again, and only then.
    #[test]
    fn the_migration_runs_again_when_image_tables_or_database_change() {
        let before = migration_hash(&fixtures::valid("{}"));
        for (spec, again) in [
            (r#"{"consumer": {"image": "other:2"}}"#, true),
            (r#"{"sink": {"table": "clicks"}}"#, true),
            (r#"{"delivery": {"deadLetters": {"table": "dead"}}}"#, true),
            (r#"{"delivery": {"deadLetters": {"table": "dead_letters"}}}"#, false),
            (r#"{"sink": {"partitioning": {"interval": "Day"}}}"#, true),
            (r#"{"delivery": {"batch": {"maxEvents": 5}}}"#, false),
            (r#"{"scaling": {"minReplicas": 2}}"#, false),
        ] {
            assert_eq!(migration_hash(&fixtures::valid(spec)) != before, again, "{spec}");
        }
        assert_eq!(before.len(), 8);
    }
}
