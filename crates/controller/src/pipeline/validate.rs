//! Turns a pipeline and what it refers to into something that can be built without further questions, or says what is wrong.

mod conflict;
mod database_url;
mod description;
mod refusal;
mod rules;
mod secret;

use analytics_api::AnalyticsPipeline;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::dereference::References;
use super::schedule;
use crate::kafka::Connection;
pub(crate) use description::Description;
pub(crate) use refusal::Refusal;

/// A pipeline of which everything needed is known and right; after this nobody asks again.
#[derive(Clone, Debug)]
pub(crate) struct ValidatedPipeline {
    /// Name of the resource.
    pub(crate) name: String,
    /// Namespace of the resource and of everything made for it.
    pub(crate) namespace: String,
    /// Makes everything go when the resource goes.
    pub(crate) owner: OwnerReference,
    /// What the user wants.
    pub(crate) spec: Description,
    /// Image of consumers and migrations.
    pub(crate) image: String,
    /// Hash of the content of all referenced Secrets.
    pub(crate) secrets_hash: String,
    /// Hash of the content of the Secrets that lead to the database.
    pub(crate) database_hash: String,
    /// TCP port of the database, the only part of its URL that other objects may hold.
    pub(crate) database_port: u16,
    /// How the controller itself reaches Kafka.
    pub(crate) kafka: Connection,
}

/// The rules that a specification breaks: those of the schema, and what a schema cannot say about schedules. Takes about a
/// millisecond. (no client required)
pub(crate) fn broken_rules(pipeline: &AnalyticsPipeline) -> Option<String> {
    match rules::broken(pipeline) {
        Some(errors) => Some(format!("the specification breaks a rule: {errors}")),
        None => schedule::broken(&pipeline.spec.scaling.schedules),
    }
}

/// Checks a pipeline, of which the rules of the schema are checked already. `spec` is its description; `others` are all pipelines, `default_image` the image for those that name none. (no client required)
pub(crate) fn run(
    pipeline: &AnalyticsPipeline,
    spec: &Description,
    references: &References,
    others: &[&AnalyticsPipeline],
    default_image: Option<&str>,
) -> Result<ValidatedPipeline, Refusal> {
    let owner =
        pipeline.controller_owner_ref(&()).ok_or_else(|| Refusal::invalid("the resource has no uid yet"))?;
    conflicts(pipeline, others)?;
    let image = spec.consumer.image.as_deref().or(default_image).ok_or_else(|| {
        Refusal::invalid(
            "no image for the consumers is known: set `spec.consumer.image`, or start the controller with --consumer-image",
        )
    })?;
    let namespace = pipeline.namespace().unwrap_or_default();
    let secrets = secret::check(spec, &namespace, references)?;
    Ok(ValidatedPipeline {
        name: pipeline.name_any(),
        namespace,
        owner,
        spec: spec.clone(),
        image: image.to_owned(),
        secrets_hash: secrets.all_hash,
        database_hash: secrets.database_hash,
        database_port: secrets.database_port,
        kafka: secrets.kafka,
    })
}

/// Refuses a pipeline whose topic and group belong to an earlier one of `others`. (no client required)
pub(crate) fn conflicts(pipeline: &AnalyticsPipeline, others: &[&AnalyticsPipeline]) -> Result<(), Refusal> {
    conflict::earlier_rival(pipeline, others).map_or(Ok(()), |rival| Err(Refusal::conflict(pipeline, rival)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    #[test]
    fn a_minimal_pipeline_is_valid_and_takes_the_controllers_image() {
        let pipeline = fixtures::pipeline("{}");
        let valid =
            run(&pipeline, &(&pipeline).into(), &fixtures::references(&pipeline), &[], Some("image:1"))
                .unwrap();
        assert_eq!(valid.name, "clicks");
        assert_eq!(valid.image, "image:1");
        assert_eq!(valid.kafka.topic, "user-events");
        assert_eq!(valid.kafka.group, "analytics-service");
    }

    #[test]
    fn a_pipeline_that_breaks_a_rule_is_found_out_even_if_the_api_server_let_it_pass() {
        let broken =
            broken_rules(&fixtures::pipeline(r#"{"scaling": {"minReplicas": 3, "maxReplicas": 2}}"#));
        let broken = broken.unwrap();
        assert!(broken.contains("`minReplicas` must be less than or equal to `maxReplicas`"), "{broken}");
        assert_eq!(broken_rules(&fixtures::pipeline("{}")), None);
    }

    #[test]
    fn without_any_image_the_message_names_both_ways_to_give_one() {
        let pipeline = fixtures::pipeline("{}");
        let refusal =
            run(&pipeline, &(&pipeline).into(), &fixtures::references(&pipeline), &[], None).unwrap_err();
        assert!(refusal.message.contains("--consumer-image"), "{refusal:?}");
    }
}
