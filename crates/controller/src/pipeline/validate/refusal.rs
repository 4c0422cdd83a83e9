//! Why a pipeline cannot be run as it is.

use analytics_api::AnalyticsPipeline;
use kube::ResourceExt;

use crate::conditions::reasons;

/// Why a pipeline cannot be run as it is: only its user (or whoever makes the Secret) can change that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Reason of the conditions.
    pub(crate) reason: &'static str,
    /// What is wrong and what to do.
    pub(crate) message: String,
    /// True if consumers must not go on: they would disturb another pipeline. Otherwise those that run are left alone.
    pub(crate) stop: bool,
}

impl Refusal {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { reason: reasons::INVALID_SPEC, message: message.into(), stop: false }
    }

    pub(super) fn secret_not_found(name: &str, namespace: &str, field: &str, example: &str) -> Self {
        let message = format!(
            "Secret `{name}`, named in `{field}`, does not exist in namespace `{namespace}`; create it, for example: kubectl -n {namespace} create secret generic {name} {example}"
        );
        Self { reason: reasons::SECRET_NOT_FOUND, message, stop: false }
    }

    pub(super) fn key_missing(name: &str, key: &str, field: &str, present: &[&str]) -> Self {
        let present = if present.is_empty() {
            "no keys".to_owned()
        } else {
            format!("the keys {}", present.join(", "))
        };
        let message = format!(
            "Secret `{name}`, named in `{field}`, has no key `{key}` (it has {present}); add the key, or name another one in `{field}`"
        );
        Self { reason: reasons::SECRET_KEY_MISSING, message, stop: false }
    }

    pub(super) fn secret_invalid(name: &str, key: &str, what: &str) -> Self {
        let message = format!("key `{key}` of Secret `{name}` {what}");
        Self { reason: reasons::SECRET_INVALID, message, stop: false }
    }

    pub(super) fn conflict(pipeline: &AnalyticsPipeline, rival: &AnalyticsPipeline) -> Self {
        let source = &pipeline.spec.source;
        let message = format!(
            "pipeline `{}` in namespace `{}` is older and reads topic `{}` with group `{}` on the same brokers; this pipeline is not run: delete one of the two, or make this one anew with another `source.groupId`",
            rival.name_any(),
            rival.namespace().unwrap_or_default(),
            source.topic,
            source.group_id,
        );
        Self { reason: reasons::CONFLICT, message, stop: true }
    }
}
