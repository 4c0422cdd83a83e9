//! Whether the tables are as the consumers need them: consumers of a new version wait for their migration.

use std::time::Duration;

use analytics_api::labels;
use k8s_openapi::api::batch::v1::Job;

use crate::conditions::{MIGRATED, Verdict, reasons};

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
pub(crate) fn progress(job: Option<&Job>, trouble: Option<String>, ended: Option<Duration>) -> Migration {
    let status = job.and_then(|job| job.status.as_ref());
    if status.is_some_and(|status| status.succeeded.unwrap_or(0) > 0) {
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

/// Jobs of earlier migrations of the pipeline, which have no purpose any more.
pub(crate) fn outdated<'a>(
    jobs: impl IntoIterator<Item = &'a Job>,
    current: &str,
    owner_uid: &str,
) -> Vec<String> {
    jobs.into_iter()
        .filter(|job| job.metadata.deletion_timestamp.is_none())
        .filter(|job| job.metadata.owner_references.iter().flatten().any(|owner| owner.uid == owner_uid))
        .filter_map(|job| job.metadata.name.clone())
        .filter(|name| name != current)
        .collect()
}

/// Name of the current migration's Job.
pub(crate) fn job_name(pipeline: &str, hash: &str) -> String {
    labels::migration_name(pipeline, hash)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(name: &str, succeeded: i32, owner: &str) -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "v1", "kind": "AnalyticsPipeline", "name": "clicks", "uid": owner}]},
            "status": {"succeeded": succeeded}
        }))
        .unwrap()
    }

    #[test]
    fn consumers_wait_until_the_migration_has_succeeded() {
        let failing = |anew| Migration::Failing { trouble: "no".into(), anew };
        let (begun, done) = (job("j", 0, "u"), job("j", 1, "u"));
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
    fn only_earlier_jobs_of_the_same_pipeline_are_outdated() {
        let jobs = [job("now", 0, "me"), job("before", 1, "me"), job("foreign", 1, "other")];
        assert_eq!(outdated(&jobs, "now", "me"), ["before"]);
    }
}
