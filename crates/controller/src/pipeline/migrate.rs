//! Whether the tables are as the consumers need them: consumers of a new version wait for their migration.

use analytics_api::labels;
use k8s_openapi::api::batch::v1::Job;

use crate::conditions::{MIGRATED, Verdict, reasons};

/// How far the migration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Migration {
    /// It has run to its end: consumers may come.
    Done,
    /// It has not ended yet.
    Running,
    /// It failed, is tried again, and said this.
    Failing(String),
    /// Nobody waits for it, because no consumer shall run.
    NotWanted,
}

/// How far the migration is, from its Job and what its pod said last. (no client required)
pub(crate) fn progress(job: Option<&Job>, trouble: Option<String>) -> Migration {
    let status = job.and_then(|job| job.status.as_ref());
    if status.is_some_and(|status| status.succeeded.unwrap_or(0) > 0) {
        return Migration::Done;
    }
    trouble.map_or(Migration::Running, Migration::Failing)
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
            Self::Failing(trouble) => Some(Verdict::no(
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
        let table = [
            (progress(None, None), Migration::Running, false),
            (progress(Some(&job("j", 0, "u")), None), Migration::Running, false),
            (progress(Some(&job("j", 0, "u")), Some("no".into())), Migration::Failing("no".into()), false),
            (progress(Some(&job("j", 1, "u")), Some("an earlier attempt".into())), Migration::Done, true),
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
