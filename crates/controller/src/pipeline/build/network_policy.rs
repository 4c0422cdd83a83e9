//! The NetworkPolicy: consumers and migrations reach what they need, by port, and who reads metrics reaches them.
//!
//! Ports only, not addresses: brokers tell their addresses themselves, and names may lead anywhere tomorrow.

use std::collections::BTreeSet;

use analytics_api::{NetworkPolicyMode, labels};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::METRICS_PORT;
use super::metadata::{self, Component};
use crate::pipeline::validate::ValidatedPipeline;

/// `None` unless the pipeline asks for one.
pub(super) fn build(pipeline: &ValidatedPipeline) -> Option<NetworkPolicy> {
    let access = &pipeline.spec.network_policy;
    (access.mode == NetworkPolicyMode::Enabled).then(|| NetworkPolicy {
        metadata: metadata::object(pipeline, labels::consumer_name(&pipeline.name), Component::Consumer),
        spec: Some(NetworkPolicySpec {
            // Consumers and migrations.
            pod_selector: Some(metadata::pods(&pipeline.name)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![ingress(&access.metrics_from)]),
            egress: Some(
                [names(), servers(pipeline)].into_iter().chain(access.extra_egress.clone()).collect(),
            ),
        }),
    })
}

// The controller scales by what consumers say of themselves, so it is let in wherever it runs. Nobody named means everyone.
fn ingress(metrics_from: &[NetworkPolicyPeer]) -> NetworkPolicyIngressRule {
    let controller = || NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(metadata::controller()),
        ip_block: None,
    };
    NetworkPolicyIngressRule {
        from: (!metrics_from.is_empty())
            .then(|| metrics_from.iter().cloned().chain(std::iter::once(controller())).collect()),
        ports: Some(vec![port("TCP", METRICS_PORT)]),
    }
}

fn names() -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to: None, ports: Some(vec![port("UDP", 53), port("TCP", 53)]) }
}

fn servers(pipeline: &ValidatedPipeline) -> NetworkPolicyEgressRule {
    let tracing = pipeline.spec.telemetry.tracing.as_ref();
    let ports: BTreeSet<u16> = broker_ports(&pipeline.spec.source.bootstrap_servers)
        .chain(std::iter::once(pipeline.database_port))
        .chain(tracing.and_then(|tracing| endpoint_port(&tracing.endpoint)))
        .collect();
    NetworkPolicyEgressRule {
        to: None,
        ports: Some(ports.into_iter().map(|number| port("TCP", number)).collect()),
    }
}

fn broker_ports(bootstrap_servers: &str) -> impl Iterator<Item = u16> {
    bootstrap_servers.split(',').filter_map(|broker| broker.rsplit_once(':')?.1.trim().parse().ok())
}

fn endpoint_port(endpoint: &str) -> Option<u16> {
    url::Url::parse(endpoint).ok()?.port_or_known_default()
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(i32::from(number))),
        end_port: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    fn server_ports(spec: &str) -> Vec<i32> {
        let policy = build(&fixtures::valid(spec)).unwrap().spec.unwrap();
        let ports = policy.egress.unwrap()[1].ports.clone().unwrap();
        let number = |port: NetworkPolicyPort| match port.port {
            Some(IntOrString::Int(number)) => number,
            other => panic!("a port without a number: {other:?}"),
        };
        ports.into_iter().map(number).collect()
    }

    #[test]
    fn there_is_none_unless_it_is_asked_for() {
        assert!(build(&fixtures::valid("{}")).is_none());
    }

    #[test]
    fn consumers_get_out_to_the_ports_of_their_servers_only() {
        let with = |more: &str| format!(r#"{{"networkPolicy": {{"mode": "Enabled"}}{more}}}"#);
        let table = [
            (with(""), vec![5432, 9092]),
            (
                with(r#", "source": {"bootstrapServers": "a:9093,b:9093,[fd00::1]:9094"}"#),
                vec![5432, 9093, 9094],
            ),
            (with(r#", "telemetry": {"tracing": {"endpoint": "http://otel:4317"}}"#), vec![4317, 5432, 9092]),
            (with(r#", "telemetry": {"tracing": {"endpoint": "https://otel"}}"#), vec![443, 5432, 9092]),
        ];
        for (spec, expected) in table {
            assert_eq!(server_ports(&spec), expected, "{spec}");
        }
    }

    /// Who names the readers of metrics must not lock the controller out by it: it would scale blindly.
    #[test]
    fn the_controller_gets_in_whoever_else_may() {
        let from = |spec: &str| {
            let policy = build(&fixtures::valid(spec)).unwrap().spec.unwrap();
            policy.ingress.unwrap()[0].from.clone()
        };
        assert_eq!(from(r#"{"networkPolicy": {"mode": "Enabled"}}"#), None, "everyone");
        let spec = r#"{"networkPolicy": {"mode": "Enabled", "metricsFrom": [{"podSelector": {}}]}}"#;
        let peers = from(spec).unwrap();
        assert_eq!(peers.len(), 2);
        let selector = peers[1].pod_selector.clone().unwrap().match_labels.unwrap();
        assert_eq!(selector["app.kubernetes.io/name"], "analytics-controller");
    }
}
