//! The objects that run a pipeline, each built by a pure function in a file of its own.

mod budget;
mod config_map;
mod container;
mod deployment;
mod job;
mod metadata;
mod monitoring;
mod network_policy;
mod promql;
mod service;
mod service_account;
#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::validate::ValidatedPipeline;
pub(crate) use job::migration_hash;
pub(crate) use metadata::selector;
pub(crate) use monitoring::{Watched, pod_monitor, prometheus_rule};

/// Port of health and metrics on every consumer.
pub(crate) const METRICS_PORT: u16 = 9090;

/// Everything that runs a pipeline.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) service_account: ServiceAccount,
    pub(crate) config_map: ConfigMap,
    pub(crate) service: Service,
    /// `None` where there is at most one consumer: nothing to keep available beside it.
    pub(crate) budget: Option<PodDisruptionBudget>,
    /// `None` where the pipeline does not ask for one.
    pub(crate) network_policy: Option<NetworkPolicy>,
    pub(crate) migration: Job,
    pub(crate) deployment: Deployment,
}

/// Builds everything that runs a pipeline, with so many consumers. (no client required)
pub(crate) fn run(pipeline: &ValidatedPipeline, replicas: i32) -> Objects {
    let config_map = config_map::build(pipeline);
    let deployment = deployment::build(pipeline, &config_map, replicas);
    Objects {
        service_account: service_account::build(pipeline),
        service: service::build(pipeline),
        budget: budget::build(pipeline),
        network_policy: network_policy::build(pipeline),
        migration: job::build(pipeline, &config_map),
        config_map,
        deployment,
    }
}
