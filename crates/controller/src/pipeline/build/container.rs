//! What the consumers' container and the migration's have in common: image, environment, files and rights.

use analytics_api::{ClientCertificateRef, ImagePullSecret, Quantities, SecretKeyRef};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, EnvVarSource, KeyToPath, LocalObjectReference, ObjectFieldSelector,
    PodSecurityContext, ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pipeline::validate::ValidatedPipeline;

pub(super) const KAFKA_CA_FILE: &str = "/etc/analytics-pipeline/kafka-ca/ca.crt";
pub(super) const KAFKA_CERTIFICATE_FILE: &str = "/etc/analytics-pipeline/kafka-client/tls.crt";
pub(super) const KAFKA_KEY_FILE: &str = "/etc/analytics-pipeline/kafka-client/tls.key";
pub(super) const DATABASE_CA_FILE: &str = "/etc/analytics-pipeline/database-ca/ca.crt";
pub(super) const DATABASE_CERTIFICATE_FILE: &str = "/etc/analytics-pipeline/database-client/tls.crt";
pub(super) const DATABASE_KEY_FILE: &str = "/etc/analytics-pipeline/database-client/tls.key";

const COMMAND: &str = "/usr/local/bin/analytics-consumer";
/// The user of the image.
const USER: i64 = 65532;

/// The container, without what only one of the two has.
pub(super) fn build(pipeline: &ValidatedPipeline, name: &str, arguments: Option<Vec<String>>) -> Container {
    let consumer = &pipeline.spec.consumer;
    Container {
        name: name.to_owned(),
        image: Some(pipeline.image.clone()),
        image_pull_policy: consumer.image_pull_policy.map(|policy| policy.as_str().to_owned()),
        command: Some(vec![COMMAND.to_owned()]),
        args: arguments,
        env: Some(environment(pipeline)),
        volume_mounts: some_if_any(files(pipeline).iter().map(SecretFiles::mount).collect()),
        resources: Some(resources(pipeline)),
        // The last lines of the log say why a container ended, in the pod's status and from there in the pipeline's.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(security_context()),
        ..Container::default()
    }
}

/// Rights of the pod: Pod Security Standard "restricted".
pub(super) fn pod_security_context() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        // Files of mounted Secrets belong to this group; with mode 0440 nobody else reads them.
        fs_group: Some(USER),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

/// Volumes with the certificates that the pipeline names.
pub(super) fn volumes(pipeline: &ValidatedPipeline) -> Option<Vec<Volume>> {
    some_if_any(files(pipeline).iter().map(SecretFiles::volume).collect())
}

/// Credentials of the image registry.
pub(super) fn pull_secrets(secrets: &[ImagePullSecret]) -> Option<Vec<LocalObjectReference>> {
    some_if_any(secrets.iter().map(|secret| LocalObjectReference { name: secret.name.clone() }).collect())
}

fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

fn environment(pipeline: &ValidatedPipeline) -> Vec<EnvVar> {
    let url = &pipeline.spec.sink.url_secret_ref;
    let mut variables = vec![
        EnvVar {
            name: "CONSUMER_INSTANCE".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.name".to_owned(),
                    api_version: None,
                }),
                ..EnvVarSource::default()
            }),
            value: None,
        },
        from_secret("DATABASE_URL", &url.name, &url.key),
    ];
    if let Some(login) = &pipeline.spec.source.security.credentials_secret_ref {
        variables.push(from_secret("KAFKA_SASL_USERNAME", &login.name, &login.username_key));
        variables.push(from_secret("KAFKA_SASL_PASSWORD", &login.name, &login.password_key));
    }
    variables.extend(pipeline.spec.consumer.env.iter().cloned());
    variables
}

fn from_secret(variable: &str, secret: &str, key: &str) -> EnvVar {
    let reference = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), optional: None };
    EnvVar {
        name: variable.to_owned(),
        value_from: Some(EnvVarSource { secret_key_ref: Some(reference), ..EnvVarSource::default() }),
        value: None,
    }
}

fn resources(pipeline: &ValidatedPipeline) -> ResourceRequirements {
    let quantities = |map: &Quantities| {
        (!map.is_empty()).then(|| map.iter().map(|(name, value)| (name.clone(), quantity(value))).collect())
    };
    let resources = &pipeline.spec.consumer.resources;
    ResourceRequirements {
        requests: quantities(&resources.requests),
        limits: quantities(&resources.limits),
        ..ResourceRequirements::default()
    }
}

fn quantity(value: &IntOrString) -> Quantity {
    match value {
        IntOrString::Int(number) => Quantity(number.to_string()),
        IntOrString::String(text) => Quantity(text.clone()),
    }
}

// Files from one Secret, in a folder of their own.
struct SecretFiles<'a> {
    volume: &'static str,
    secret: &'a str,
    items: Vec<(&'a str, &'static str)>,
}

fn files(pipeline: &ValidatedPipeline) -> Vec<SecretFiles<'_>> {
    let (sink, security) = (&pipeline.spec.sink, &pipeline.spec.source.security);
    let kafka =
        ("kafka-ca", &security.ca_secret_ref, "kafka-client", &security.client_certificate_secret_ref);
    let database =
        ("database-ca", &sink.ca_secret_ref, "database-client", &sink.client_certificate_secret_ref);
    let mut files = Vec::new();
    for (ca, authority, client, certificate) in [kafka, database] {
        if let Some(SecretKeyRef { name, key }) = authority {
            files.push(SecretFiles { volume: ca, secret: name, items: vec![(key, "ca.crt")] });
        }
        if let Some(ClientCertificateRef { name, certificate_key, private_key_key }) = certificate {
            let items = vec![(certificate_key.as_str(), "tls.crt"), (private_key_key.as_str(), "tls.key")];
            files.push(SecretFiles { volume: client, secret: name, items });
        }
    }
    files
}

impl SecretFiles<'_> {
    fn mount(&self) -> VolumeMount {
        VolumeMount {
            name: self.volume.to_owned(),
            mount_path: format!("/etc/analytics-pipeline/{}", self.volume),
            read_only: Some(true),
            ..VolumeMount::default()
        }
    }

    fn volume(&self) -> Volume {
        let items = self
            .items
            .iter()
            .map(|(key, path)| KeyToPath { key: (*key).to_owned(), path: (*path).to_owned(), mode: None })
            .collect();
        Volume {
            name: self.volume.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(self.secret.to_owned()),
                items: Some(items),
                default_mode: Some(0o440),
                optional: None,
            }),
            ..Volume::default()
        }
    }
}

pub(super) fn some_if_any<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}
