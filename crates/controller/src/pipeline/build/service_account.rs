//! The ServiceAccount of the consumers. They never talk to the API server, so no token is mounted.

use analytics_api::labels;
use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata::{self, Component};
use crate::pipeline::validate::ValidatedPipeline;

pub(super) fn build(pipeline: &ValidatedPipeline) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::object(pipeline, labels::consumer_name(&pipeline.name), Component::Consumer),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
