//! Whether the tables are as the consumers need them: consumers of a new version wait for their migration.

use std::time::Duration;

use analytics_api::labels;

use crate::conditions::{MIGRATED, Verdict, reasons};
use crate::shelf::{Kept, Migrated};

/// The kubelet waits up to five minutes between two attempts; when a database has come back, that is too long.
const LONGEST_WAIT: Duration = Duration::from_secs(45);

/// How far the migration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Migration {
    /// It has run to its end: consumers may come.
    Done,
    /// It has not ended yet.
    Running,
    /// It failed, is tried again, and said this.
    Failing {
        /// What its pod said last.
        trouble: String,
        /// The pod waits so long for its next attempt that a new one is better.
        anew: bool,
    },
    /// Nobody waits for it, because no consumer shall run.
    NotWanted,
}

impl Migration {
    /// There is nothing to wait for.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Done | Self::NotWanted)
    }
}

/// How far the migration is, from its Job and its pod, of which is known what it said last and how long ago it ended. (no
/// client required)
pub(crate) fn progress(
    job: Option<&Migrated>,
    trouble: Option<String>,
    ended: Option<Duration>,
) -> Migration {
    if job.is_some_and(|job| job.succeeded) {
        return Migration::Done;
    }
    let anew = ended.is_some_and(|ago| ago >= LONGEST_WAIT);
    trouble.map_or(Migration::Running, |trouble| Migration::Failing { trouble, anew })
}

impl Migration {
    /// True if consumers of this version may run.
    pub(crate) const fn allows_consumers(&self) -> bool {
        matches!(self, Self::Done | Self::NotWanted)
    }

    /// What the condition says. `job` is the Job's name.
    pub(crate) fn verdict(&self, job: &str) -> Option<Verdict> {
        match self {
            Self::Done => Some(Verdict::yes(
                MIGRATED,
                reasons::MIGRATION_SUCCEEDED,
                "The tables are as the consumers need them.",
            )),
            Self::Running => Some(Verdict::unknown(
                MIGRATED,
                reasons::MIGRATION_RUNNING,
                format!("Job `{job}` prepares the tables; consumers start when it has succeeded."),
            )),
            Self::Failing { trouble, .. } => Some(Verdict::no(
                MIGRATED,
                reasons::MIGRATION_FAILED,
                format!("Job `{job}` cannot prepare the tables and is tried again: {trouble}"),
            )),
            Self::NotWanted => None,
        }
    }
}

/// Whether a Job belongs to the pipeline; all but the current one have no purpose any more.
pub(crate) fn is_outdated(job: &Migrated, owner_uid: &str) -> bool {
    !job.going && job.seen().owners.have(owner_uid)
}

/// Name of the current migration's Job.
pub(crate) fn job_name(pipeline: &str, hash: &str) -> String {
    labels::migration_name(pipeline, hash)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(succeeded: i32, owner: &str, deleted: Option<&str>) -> Migrated {
        let job = json!({
            "metadata": {"name": "j", "deletionTimestamp": deleted, "ownerReferences": [
                {"apiVersion": "v1", "kind": "AnalyticsPipeline", "name": "clicks", "uid": owner}]},
            "status": {"succeeded": succeeded}
        });
        Migrated::of(&serde_json::from_value(job).unwrap())
    }

    #[test]
    fn consumers_wait_until_the_migration_has_succeeded() {
        let failing = |anew| Migration::Failing { trouble: "no".into(), anew };
        let (begun, done) = (job(0, "u", None), job(1, "u", None));
        let (no, soon, late) = (Some("no".to_owned()), Duration::from_secs(5), Duration::from_secs(50));
        let table = [
            (progress(None, None, None), Migration::Running, false),
            (progress(Some(&begun), None, None), Migration::Running, false),
            (progress(Some(&begun), no.clone(), Some(soon)), failing(false), false),
            (progress(Some(&begun), no.clone(), Some(late)), failing(true), false),
            (progress(Some(&begun), no.clone(), None), failing(false), false),
            (progress(Some(&done), no, Some(late)), Migration::Done, true),
        ];
        for (seen, expected, allowed) in table {
            assert_eq!(seen, expected);
            assert_eq!(seen.allows_consumers(), allowed, "{seen:?}");
        }
    }

    #[test]
    fn only_jobs_of_the_same_pipeline_are_outdated() {
        assert!(is_outdated(&job(0, "me", None), "me") && is_outdated(&job(1, "me", None), "me"));
        assert!(!is_outdated(&job(1, "other", None), "me"));
        assert!(!is_outdated(&job(1, "me", Some("2026-01-01T00:00:00Z")), "me"), "it goes already");
    }
}
