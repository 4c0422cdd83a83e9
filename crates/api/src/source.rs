//! The Kafka side of a pipeline.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where events come from: a Kafka topic.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.groupProtocol != 'consumer' || !has(self.properties) || self.properties.all(k, !(k in ['session.timeout.ms', 'heartbeat.interval.ms', 'group.protocol.type']))"
).message(
    "`properties` must not set session.timeout.ms, heartbeat.interval.ms or group.protocol.type when `groupProtocol` is consumer: the broker decides about them (group.consumer.session.timeout.ms)"
))]
pub struct Source {
    /// Addresses of some brokers of the Kafka cluster, `host:port`, separated by commas. Example: `kafka-0.kafka:9092,kafka-1.kafka:9092`.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(
        r"self.matches('^(\\[[0-9A-Fa-f:]+\\]|[A-Za-z0-9._-]+):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])(,(\\[[0-9A-Fa-f:]+\\]|[A-Za-z0-9._-]+):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))*$')"
    ).message(
        "`bootstrapServers` must be `host:port` pairs separated by commas without spaces, with ports from 1 to 65535, for example kafka-0:9092,kafka-1:9092"
    ))]
    pub bootstrap_servers: String,

    /// Name of the topic to read. It may not be changed later: stored offsets belong to it. Example: `user-events`.
    #[schemars(length(min = 1, max = 249))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$') && self != '.' && self != '..'").message(
            "`topic` must hold only letters, digits, `.`, `_` and `-`, as Kafka demands"
        ),
        validation = Rule::new("self == oldSelf").message(
            "`topic` may not be changed, because stored offsets belong to it: create another AnalyticsPipeline for the other topic and delete this one when it has drained"
        )
    )]
    pub topic: String,

    /// Name of the consumer group. It may not be changed later: stored offsets belong to it. Default: `analytics-service`.
    #[serde(default = "default_group_id")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "`groupId` may not be changed, because stored offsets belong to it: create another AnalyticsPipeline with the other group and delete this one when it has drained"
    ))]
    pub group_id: String,

    /// Where to begin in a partition for which no offset is stored and the group has committed none: `earliest` or `latest`. Default: `earliest`.
    #[serde(default)]
    pub start_from: StartFrom,

    /// What to do when the stored offset (or, where none is stored, the committed one) is no longer in the topic (recreated topic, expired data): `fail` stops and says so, `earliest` and `latest` go on there. Default: `fail`.
    #[serde(default)]
    pub on_offset_gap: OnOffsetGap,

    /// How the consumers of the group share out partitions: `classic` works with every broker, `consumer` (KIP-848) lets the broker decide and needs Kafka 4.0. Default: `classic`.
    #[serde(default)]
    pub group_protocol: GroupProtocol,

    /// How to connect to the brokers: transport security and login. Unset: plain text without login.
    #[serde(default)]
    pub security: Security,

    /// Further settings of librdkafka, name to value, for what has no field here. Settings that would break delivery or security are refused. Example: `{"fetch.max.bytes": "1048576"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "properties_schema")]
    #[x_kube(
        validation = Rule::new(REFUSED_PROPERTIES_RULE).message(
            "`properties` must not set what the pipeline itself decides (group.id, group.instance.id, group.protocol, bootstrap.servers, metadata.broker.list, enable.auto.commit, enable.auto.offset.store, auto.offset.reset, isolation.level, auto.commit.enable, enable.partition.eof, enable.ssl.certificate.verification, enable.sasl.oauthbearer.unsecure.jwt, partition.assignment.strategy, and all of security., sasl., ssl. and plugin.): use the fields of `source` instead"
        ),
        validation = Rule::new(r"self.all(k, !self[k].contains('\n') && !self[k].contains(';') && !k.contains('=') && !k.contains(';'))").message(
            "`properties` must not hold line breaks or `;`, nor `=` in a name: each entry is one setting of librdkafka"
        )
    )]
    pub properties: BTreeMap<String, String>,
}

const REFUSED_PROPERTIES_RULE: &str = "self.all(k, !(k in ['group.id', 'group.instance.id', 'group.protocol', 'bootstrap.servers', 'metadata.broker.list', 'enable.auto.commit', 'enable.auto.offset.store', 'auto.offset.reset', 'isolation.level', 'auto.commit.enable', 'enable.partition.eof', 'enable.ssl.certificate.verification', 'enable.sasl.oauthbearer.unsecure.jwt', 'partition.assignment.strategy']) && !k.startsWith('security.') && !k.startsWith('sasl.') && !k.startsWith('ssl.') && !k.startsWith('plugin.'))";

pub(crate) const SECRET_NAME_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')";
pub(crate) const SECRET_NAME_MESSAGE: &str = "`name` must be the name of a Secret: lower-case letters, digits, `-` and `.`, with a letter or digit at both ends";
pub(crate) const SECRET_KEY_RULE: &str = "self.matches('^[-._a-zA-Z0-9]+$')";
pub(crate) const SECRET_KEY_MESSAGE: &str =
    "a key of a Secret must hold only letters, digits, `-`, `_` and `.`";

fn default_group_id() -> String {
    "analytics-service".to_owned()
}

fn properties_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 1024 }
    })
}

/// Where to begin when no offset is stored.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// At the oldest event that the topic still holds.
    #[default]
    Earliest,
    /// At the end: only events that arrive from now on.
    Latest,
}

/// What to do when the stored offset is outside the log.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOffsetGap {
    /// Stop the partition and say so.
    #[default]
    Fail,
    /// Go on at the oldest event.
    Earliest,
    /// Go on at the end.
    Latest,
}

/// How the consumers of the group share out partitions.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// Among themselves, cooperatively.
    #[default]
    Classic,
    /// As the broker decides.
    Consumer,
}

/// How to connect to the brokers.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.protocol.startsWith('SASL_') || has(self.credentialsSecretRef)").message(
        "`credentialsSecretRef` must be set when `protocol` is SASL_PLAINTEXT or SASL_SSL: name a Secret with the keys `username` and `password`"
    ),
    validation = Rule::new("!self.protocol.startsWith('SASL_') || has(self.mechanism)").message(
        "`mechanism` must be set when `protocol` is SASL_PLAINTEXT or SASL_SSL: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    ),
    validation = Rule::new("self.protocol.startsWith('SASL_') || !has(self.credentialsSecretRef)").message(
        "`credentialsSecretRef` may not be set when `protocol` is PLAINTEXT or SSL: choose SASL_SSL, or remove the reference"
    ),
    validation = Rule::new("self.protocol.startsWith('SASL_') || !has(self.mechanism)").message(
        "`mechanism` may not be set when `protocol` is PLAINTEXT or SSL: choose SASL_SSL, or remove `mechanism`"
    ),
    validation = Rule::new("self.protocol.endsWith('SSL') || !has(self.caSecretRef)").message(
        "`caSecretRef` may not be set when `protocol` is PLAINTEXT or SASL_PLAINTEXT: choose SSL or SASL_SSL, or remove the reference"
    ),
    validation = Rule::new("self.protocol.endsWith('SSL') || !has(self.clientCertificateSecretRef)").message(
        "`clientCertificateSecretRef` may not be set when `protocol` is PLAINTEXT or SASL_PLAINTEXT: choose SSL or SASL_SSL, or remove the reference"
    )
)]
pub struct Security {
    /// Protocol of the brokers' listener: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`. Default: `PLAINTEXT`.
    #[serde(default)]
    pub protocol: Protocol,
    /// How to log in, with the SASL protocols: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<Mechanism>,
    /// Secret that holds user name and password, with the SASL protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<CredentialsRef>,
    /// Secret that holds the certificate authority of the brokers (PEM). Unset: the authorities of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// Secret that holds a client certificate and its key (PEM), for brokers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<ClientCertificateRef>,
}

/// Protocol of a Kafka listener.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// No encryption, no login.
    #[default]
    #[serde(rename = "PLAINTEXT")]
    Plaintext,
    /// Encryption, no login by password.
    #[serde(rename = "SSL")]
    Ssl,
    /// Login without encryption.
    #[serde(rename = "SASL_PLAINTEXT")]
    SaslPlaintext,
    /// Login with encryption.
    #[serde(rename = "SASL_SSL")]
    SaslSsl,
}

impl Protocol {
    /// The name that Kafka and the schema use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }
}

/// SASL mechanism.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// RFC 4616.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 5802 with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Mechanism {
    /// The name that Kafka and the schema use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// User name and password in a Secret of the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsRef {
    /// Name of the Secret, in the namespace of the pipeline. Example: `kafka-user`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_NAME_RULE).message(SECRET_NAME_MESSAGE))]
    pub name: String,
    /// Key of the user name in the Secret. Default: `username`.
    #[serde(default = "default_username_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_KEY_RULE).message(SECRET_KEY_MESSAGE))]
    pub username_key: String,
    /// Key of the password in the Secret. Default: `password`.
    #[serde(default = "default_password_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_KEY_RULE).message(SECRET_KEY_MESSAGE))]
    pub password_key: String,
}

fn default_username_key() -> String {
    "username".to_owned()
}

fn default_password_key() -> String {
    "password".to_owned()
}

/// A certificate in a Secret of the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret, in the namespace of the pipeline. Example: `kafka-ca`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_NAME_RULE).message(SECRET_NAME_MESSAGE))]
    pub name: String,
    /// Key of the certificate (PEM) in the Secret. Default: `ca.crt`.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_KEY_RULE).message(SECRET_KEY_MESSAGE))]
    pub key: String,
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

/// A client certificate in a Secret of the pipeline's namespace; a Secret of type `kubernetes.io/tls` fits as it is.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificateRef {
    /// Name of the Secret, in the namespace of the pipeline. Example: `kafka-client`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_NAME_RULE).message(SECRET_NAME_MESSAGE))]
    pub name: String,
    /// Key of the certificate (PEM) in the Secret. Default: `tls.crt`.
    #[serde(default = "default_certificate_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_KEY_RULE).message(SECRET_KEY_MESSAGE))]
    pub certificate_key: String,
    /// Key of the private key (PEM) in the Secret. Default: `tls.key`.
    #[serde(default = "default_private_key_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_KEY_RULE).message(SECRET_KEY_MESSAGE))]
    pub private_key_key: String,
}

fn default_certificate_key() -> String {
    "tls.crt".to_owned()
}

fn default_private_key_key() -> String {
    "tls.key".to_owned()
}
