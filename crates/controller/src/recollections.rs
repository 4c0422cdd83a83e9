//! What the autoscaler remembered of each pipeline before this controller began. It stands in the status and is needed once: the
//! watch takes it out of what it delivers, so that it does not lie about for as long as the pipeline does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use analytics_api::AnalyticsPipeline;
use kube::ResourceExt;

/// Memories out of statuses, by uid; shared by the watches and the reconciles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recollections {
    by_uid: Arc<Mutex<HashMap<String, Recollection>>>,
}

#[derive(Debug)]
enum Recollection {
    /// Not asked for yet.
    Kept(String),
    /// What comes now was written by this controller itself.
    Over,
}

impl Recollections {
    /// Takes the memory out of the status, and keeps it unless it is of no use any more.
    pub(crate) fn keep(&self, pipeline: &mut AnalyticsPipeline) {
        let scaling = pipeline.status.as_mut().and_then(|status| status.scaling.as_mut());
        let (Some(text), Some(uid)) = (scaling.and_then(|scaling| scaling.memory.take()), pipeline.uid())
        else {
            return;
        };
        let mut by_uid = self.lock();
        if !matches!(by_uid.get(&uid), Some(Recollection::Over)) {
            by_uid.insert(uid, Recollection::Kept(text));
        }
    }

    /// What was remembered of a pipeline, if this is asked for the first time.
    pub(crate) fn recall(&self, uid: &str) -> Option<String> {
        match self.lock().insert(uid.to_owned(), Recollection::Over) {
            Some(Recollection::Kept(text)) => Some(text),
            Some(Recollection::Over) | None => None,
        }
    }

    /// Forgets the pipelines for which `exists` is false. What was not asked for yet may be of one that is only being listed.
    pub(crate) fn forget_unless(&self, exists: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, kept| matches!(kept, Recollection::Kept(_)) || exists(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Recollection>> {
        self.by_uid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use analytics_api::{AnalyticsPipelineStatus, ScalingStatus};

    use super::*;
    use crate::pipeline::fixtures;

    /// Delivers a pipeline with this memory in its status.
    fn deliver(recollections: &Recollections, memory: Option<&str>) {
        let scaling = ScalingStatus { memory: memory.map(str::to_owned), ..ScalingStatus::default() };
        let mut pipeline = fixtures::pipeline("{}");
        pipeline.status =
            Some(AnalyticsPipelineStatus { scaling: Some(scaling), ..AnalyticsPipelineStatus::default() });
        recollections.keep(&mut pipeline);
        assert_eq!(pipeline.status.unwrap().scaling.unwrap().memory, None, "it is nowhere twice");
    }

    #[test]
    fn the_latest_memory_is_recalled_once() {
        let recollections = Recollections::default();
        deliver(&recollections, Some("older"));
        deliver(&recollections, None);
        deliver(&recollections, Some("newer"));
        recollections.forget_unless(|_| false);
        assert_eq!(recollections.recall("uid-clicks").as_deref(), Some("newer"));
        deliver(&recollections, Some("its own"));
        assert_eq!(recollections.recall("uid-clicks"), None);
        assert_eq!(recollections.lock().len(), 1);
        recollections.forget_unless(|uid| uid != "uid-clicks");
        assert_eq!(recollections.lock().len(), 0);
    }
}
