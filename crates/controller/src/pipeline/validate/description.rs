//! What the user wants, held once: by the store of the watch, and here as a part of the same object.

use std::ops::Deref;
use std::sync::Arc;

use analytics_api::AnalyticsPipelineSpec;

use crate::context::Pipeline;

/// The specification of a pipeline that could be read, shared with whoever else holds the object.
#[derive(Clone, Debug)]
pub(crate) struct Description(Arc<Pipeline>);

impl Description {
    /// That of an object; `None` if it could not be read.
    pub(crate) fn of(object: &Arc<Pipeline>) -> Option<Self> {
        object.0.is_ok().then(|| Self(Arc::clone(object)))
    }

    /// Whether both are parts of the same object.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Description {
    type Target = AnalyticsPipelineSpec;

    fn deref(&self) -> &Self::Target {
        match &self.0.0 {
            Ok(pipeline) => &pipeline.spec,
            // `of` makes none of an object that could not be read, and nobody changes what an `Arc` holds.
            Err(_) => unreachable!("a description of an object that could not be read"),
        }
    }
}

#[cfg(test)]
impl From<&analytics_api::AnalyticsPipeline> for Description {
    fn from(pipeline: &analytics_api::AnalyticsPipeline) -> Self {
        Self(Arc::new(kube::core::DeserializeGuard(Ok(pipeline.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_none_of_an_object_that_cannot_be_read() {
        let read = |text: &str| Arc::new(serde_json::from_str::<Pipeline>(text).unwrap());
        let bad = read(r#"{"metadata": {"name": "clicks", "namespace": "shop"}, "spec": {"source": 5}}"#);
        assert!(Description::of(&bad).is_none());
        let good = read(&serde_json::to_string(&crate::pipeline::fixtures::pipeline("{}")).unwrap());
        let description = Description::of(&good).unwrap();
        assert_eq!(description.source.topic, "user-events");
        assert!(description.is(&description.clone()));
        assert!(!description.is(&Description::of(&Arc::new((*good).clone())).unwrap()));
    }
}
