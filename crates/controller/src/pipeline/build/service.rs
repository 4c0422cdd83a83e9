//! The Service by which metrics are found.

use analytics_api::labels;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::METRICS_PORT;
use super::metadata::{self, Component};
use crate::pipeline::validate::ValidatedPipeline;

pub(super) fn build(pipeline: &ValidatedPipeline) -> Service {
    Service {
        metadata: metadata::object(pipeline, labels::consumer_name(&pipeline.name), Component::Consumer),
        spec: Some(ServiceSpec {
            // Headless: whoever collects metrics wants each consumer, not one of them.
            cluster_ip: Some("None".to_owned()),
            // A consumer that is not ready is the one whose metrics matter most.
            publish_not_ready_addresses: Some(true),
            selector: metadata::consumers(&pipeline.name).match_labels,
            ports: Some(vec![ServicePort {
                name: Some("metrics".to_owned()),
                port: i32::from(METRICS_PORT),
                target_port: Some(IntOrString::String("metrics".to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
