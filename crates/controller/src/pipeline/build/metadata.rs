//! Names and labels.

use std::collections::BTreeMap;

use analytics_api::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};

use crate::pipeline::validate::ValidatedPipeline;

/// What a pod is for; its selector label.
#[derive(Clone, Copy)]
pub(super) enum Component {
    Consumer,
    Migration,
}

impl Component {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Consumer => "consumer",
            Self::Migration => "migration",
        }
    }
}

/// Metadata of an object that goes with the pipeline.
pub(super) fn object(pipeline: &ValidatedPipeline, name: String, component: Component) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(all(&pipeline.name, component)),
        ..owned(&pipeline.namespace, &pipeline.owner)
    }
}

/// What ties an object to a pipeline, valid or not.
pub(super) fn owned(namespace: &str, owner: &OwnerReference) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        owner_references: Some(vec![owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// Labels of an object or a pod.
pub(super) fn all(pipeline: &str, component: Component) -> BTreeMap<String, String> {
    let mut labels = selecting(pipeline, component);
    labels.insert(labels::LABEL_MANAGED_BY.to_owned(), labels::MANAGED_BY.to_owned());
    labels.insert(labels::LABEL_PART_OF.to_owned(), labels::PART_OF.to_owned());
    labels
}

/// Selector of the consumers, for the objects that need one.
pub(super) fn consumers(pipeline: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(selecting(pipeline, Component::Consumer)), ..LabelSelector::default() }
}

/// Selector of every pod of a pipeline, whatever it is for.
pub(super) fn pods(pipeline: &str) -> LabelSelector {
    let mut labels = selecting(pipeline, Component::Consumer);
    labels.remove(labels::LABEL_COMPONENT);
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// Selector of the controller's own pods, whatever the release is called.
pub(super) fn controller() -> LabelSelector {
    let labels = BTreeMap::from([(labels::LABEL_NAME.to_owned(), labels::MANAGED_BY.to_owned())]);
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// Selector of the consumers as one string, for the scale subresource.
pub(crate) fn selector(pipeline: &str) -> String {
    let pairs: Vec<_> = selecting(pipeline, Component::Consumer)
        .into_iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

// A selector cannot be changed later, so it holds only what never changes.
fn selecting(pipeline: &str, component: Component) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::LABEL_NAME.to_owned(), labels::APP_NAME.to_owned()),
        (labels::LABEL_INSTANCE.to_owned(), pipeline.to_owned()),
        (labels::LABEL_COMPONENT.to_owned(), component.as_str().to_owned()),
    ])
}
