//! The Deployment of the consumers.

use std::collections::BTreeMap;

use analytics_api::{Sink, labels};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapEnvSource, Container, ContainerPort, EnvFromSource, HTTPGetAction, PodSpec,
    PodTemplateSpec, Probe, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::METRICS_PORT;
use super::container;
use super::metadata::{self, Component};
use crate::pipeline::hash::Hasher;
use crate::pipeline::policy::connections_per_replica;
use crate::pipeline::validate::ValidatedPipeline;

/// What a consumer may take beyond its own limit for stopping, before it is killed.
const GRACE_SECONDS: i64 = 10;

pub(super) fn build(pipeline: &ValidatedPipeline, config_map: &ConfigMap, replicas: i32) -> Deployment {
    Deployment {
        metadata: metadata::object(pipeline, labels::consumer_name(&pipeline.name), Component::Consumer),
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            revision_history_limit: Some(3),
            selector: metadata::consumers(&pipeline.name),
            strategy: Some(strategy(replicas, &pipeline.spec.sink)),
            template: template(pipeline, config_map),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

// One at a time, so that each step moves one consumer's partitions. The new one comes before the old one goes, so that there are
// never fewer than are needed, and so that a version that does not start replaces nobody. Only where the budget of connections
// has no room for one more does the old one go first.
fn strategy(replicas: i32, sink: &Sink) -> DeploymentStrategy {
    let needed = (i64::from(replicas) + 1) * i64::from(connections_per_replica(sink));
    let room = needed <= i64::from(sink.max_connections);
    let (surge, unavailable) = if room { (1, 0) } else { (0, 1) };
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
        }),
    }
}

fn template(pipeline: &ValidatedPipeline, config_map: &ConfigMap) -> PodTemplateSpec {
    let metadata = &pipeline.spec.consumer.pod_metadata;
    let mut labels = metadata.labels.clone();
    labels.extend(metadata::all(&pipeline.name, Component::Consumer));
    let mut annotations = metadata.annotations.clone();
    annotations.insert(labels::ANNOTATION_CONFIG_HASH.to_owned(), config_hash(pipeline, config_map));
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod(pipeline)),
    }
}

// Consumers read their settings once, at the start: a change has to make new pods.
fn config_hash(pipeline: &ValidatedPipeline, config_map: &ConfigMap) -> String {
    let mut hasher = Hasher::new();
    hasher.add(&pipeline.secrets_hash);
    for (name, value) in config_map.data.iter().flatten() {
        hasher.add(name).add(value);
    }
    hasher.finish()
}

fn pod(pipeline: &ValidatedPipeline) -> PodSpec {
    let consumer = &pipeline.spec.consumer;
    PodSpec {
        service_account_name: Some(labels::consumer_name(&pipeline.name)),
        automount_service_account_token: Some(false),
        // The variables of service links (KAFKA_PORT=tcp://…) would look like settings.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(i64::from(consumer.shutdown_timeout_seconds) + GRACE_SECONDS),
        security_context: Some(container::pod_security_context()),
        image_pull_secrets: container::pull_secrets(&consumer.image_pull_secrets),
        containers: vec![main_container(pipeline)],
        volumes: container::volumes(pipeline),
        node_selector: some_if_any(&consumer.node_selector),
        affinity: consumer.affinity.clone(),
        tolerations: container::some_if_any(consumer.tolerations.clone()),
        topology_spread_constraints: Some(spread(pipeline)),
        priority_class_name: consumer.priority_class_name.clone(),
        ..PodSpec::default()
    }
}

fn main_container(pipeline: &ValidatedPipeline) -> Container {
    let probe = |path: &str, period: i32, failures: i32| {
        Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some(path.to_owned()),
                port: IntOrString::String("metrics".to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(period),
            failure_threshold: Some(failures),
            timeout_seconds: Some(3),
            ..Probe::default()
        })
    };
    Container {
        env_from: Some(vec![EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource {
                name: labels::consumer_name(&pipeline.name),
                optional: None,
            }),
            ..EnvFromSource::default()
        }]),
        ports: Some(vec![ContainerPort {
            name: Some("metrics".to_owned()),
            container_port: i32::from(METRICS_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: probe("/livez", 1, 60),
        liveness_probe: probe("/livez", 10, 3),
        readiness_probe: probe("/readyz", 2, 2),
        ..container::build(pipeline, "consumer", None)
    }
}

// As the user says; a constraint that says of no pods is meant for these, and would be without effect.
fn spread(pipeline: &ValidatedPipeline) -> Vec<TopologySpreadConstraint> {
    let Some(mut constraints) = pipeline.spec.consumer.topology_spread_constraints.clone() else {
        return evenly(&pipeline.name);
    };
    for constraint in &mut constraints {
        constraint.label_selector.get_or_insert_with(|| metadata::consumers(&pipeline.name));
    }
    constraints
}

// Over nodes and zones where that is possible, counted for each revision by itself.
fn evenly(pipeline: &str) -> Vec<TopologySpreadConstraint> {
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .into_iter()
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(metadata::consumers(pipeline)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        })
        .collect()
}

fn some_if_any(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    #[test]
    fn consumers_are_replaced_one_at_a_time_without_a_gap_where_connections_allow_it() {
        for (replicas, connections, surge, unavailable) in
            [(1, 40, 1, 0), (19, 40, 1, 0), (20, 40, 0, 1), (1, 2, 0, 1), (1, 4, 1, 0), (0, 2, 1, 0)]
        {
            let mut sink = fixtures::pipeline("{}").spec.sink;
            sink.max_connections = connections;
            let update = strategy(replicas, &sink).rolling_update.unwrap();
            let found = (update.max_surge, update.max_unavailable);
            let expected = (Some(IntOrString::Int(surge)), Some(IntOrString::Int(unavailable)));
            assert_eq!(found, expected, "{replicas} replicas, {connections} connections");
        }
    }
}
