//! What follows from a pipeline's description alone: worked out once, and again when the description or a Secret has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::apply::Extent;
use super::dereference::References;
use super::migrate::Migration;
use super::observe::Fleet;
use super::scale::Shown;
use super::validate::{Description, ValidatedPipeline};
use super::{build, migrate};

/// A pipeline that was found right, and from what.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// No two that were worked out have the same.
    number: u64,
    generation: i64,
    references: References,
    /// The pipeline.
    pub(crate) valid: ValidatedPipeline,
    /// Name of the migration's Job.
    pub(crate) job: String,
}

impl Prepared {
    /// Works out what follows. (no client required)
    pub(crate) fn new(generation: i64, references: References, valid: ValidatedPipeline) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let job = migrate::job_name(&valid.name, &build::migration_hash(&valid));
        Self { number, generation, references, valid, job }
    }

    /// The same with the same description as a part of a newer object: the older one would stay in memory beside it.
    pub(crate) fn held_by(self: &Arc<Self>, spec: &Description) -> Arc<Self> {
        if self.valid.spec.is(spec) {
            return Arc::clone(self);
        }
        let mut renewed = Self::clone(self);
        renewed.valid.spec = spec.clone();
        Arc::new(renewed)
    }

    /// Whether working it out again would give the same.
    pub(crate) fn is_of(&self, generation: i64, references: &References) -> bool {
        self.generation == generation && self.references == *references
    }
}

/// What was brought about: as long as the same is wanted and nobody touches it, there is nothing to build and to compare.
#[derive(Debug)]
pub(crate) struct Settled {
    prepared: u64,
    replicas: i32,
    extent: Extent,
}

impl Settled {
    pub(crate) fn new(prepared: &Prepared, replicas: i32, extent: Extent) -> Self {
        Self { prepared: prepared.number, replicas, extent }
    }

    /// Whether the same is wanted.
    pub(crate) fn is_for(&self, prepared: &Prepared, replicas: i32, extent: Extent) -> bool {
        self.prepared == prepared.number && self.replicas == replicas && self.extent == extent
    }
}

/// All that status, Events and metrics follow from, as far as it can change while nothing waits and nothing arrives. As long as it
/// is the same, there is nothing to tell.
#[derive(Debug, PartialEq)]
pub(crate) struct Essence {
    /// Of the pipeline's resource, whose status may have been changed by others.
    pub(crate) version: Option<String>,
    pub(crate) fleet: Fleet,
    pub(crate) migration: Migration,
    /// What was decided, and the figures that are shown.
    pub(crate) scale: Shown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    /// A password that was changed has to be seen although the pipeline is as it was.
    #[test]
    fn it_is_worked_out_again_for_a_new_description_or_another_secret() {
        let references = |url: &str| fixtures::secrets(&[("db", &[("url", url)])]);
        let prepared = Prepared::new(2, references("postgres://a"), fixtures::valid("{}"));
        let table = [
            (2, references("postgres://a"), true),
            (3, references("postgres://a"), false),
            (2, references("postgres://b"), false),
            (2, fixtures::secrets(&[]), false),
        ];
        for (generation, references, expected) in table {
            assert_eq!(prepared.is_of(generation, &references), expected, "{generation} {references:?}");
        }
        assert!(prepared.job.starts_with("clicks-migrate-"));
    }

    #[test]
    fn what_is_settled_is_settled_for_one_wish_only() {
        let prepared = || Arc::new(Prepared::new(1, fixtures::secrets(&[]), fixtures::valid("{}")));
        let (one, other) = (prepared(), prepared());
        let settled = Settled::new(&one, 2, Extent::All);
        assert!(settled.is_for(&one, 2, Extent::All));
        assert!(!settled.is_for(&one, 3, Extent::All));
        assert!(!settled.is_for(&one, 2, Extent::Migration));
        assert!(!settled.is_for(&other, 2, Extent::All), "worked out again");
        let newer = one.held_by(&(&fixtures::pipeline("{}")).into());
        assert!(settled.is_for(&newer, 2, Extent::All), "only its status is another");
        assert!(!newer.valid.spec.is(&one.valid.spec), "the older object is let go");
        assert!(Arc::ptr_eq(&newer, &newer.held_by(&newer.valid.spec)));
    }
}
