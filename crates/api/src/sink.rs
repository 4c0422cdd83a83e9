//! The PostgreSQL side of a pipeline.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::source::{SECRET_KEY_MESSAGE, SECRET_KEY_RULE, SECRET_NAME_MESSAGE, SECRET_NAME_RULE};
use crate::{ClientCertificateRef, SecretKeyRef};

/// Where events go to: a PostgreSQL table.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sink {
    /// Secret that holds the connection URL, `postgres://user:password@host:5432/database`.
    pub url_secret_ref: DatabaseUrlRef,

    /// Secret that holds the certificate authority of the server (PEM), for `sslmode=verify-ca` or `verify-full` in the URL, without which it would not be looked at and is refused. Unset: the authorities of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,

    /// Secret that holds a client certificate and its key (PEM), for servers that ask for one (`clientcert`, or the method `cert` of pg_hba.conf). Unset: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<ClientCertificateRef>,

    /// Name of the table that events are stored in; it is made when it does not exist. It may not be changed later: stored offsets belong to it. Default: `events`.
    #[serde(default = "default_table")]
    #[schemars(length(min = 1, max = 48))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z_][a-z0-9_]*$') && self != 'pipeline_offsets'").message(
            "`table` must begin with a lower-case letter or `_`, hold only lower-case letters, digits and `_`, and not be pipeline_offsets"
        ),
        validation = Rule::new("self == oldSelf").message(
            "`table` may not be changed, because stored offsets stand for rows in it: create another AnalyticsPipeline with another `groupId` for the other table and delete this one"
        )
    )]
    pub table: String,

    /// Partitions of the table by the time of the event, made as they are needed and dropped when they are over. A plain table that is there already has to be replaced by hand; the condition `Migrated` says how. Unset: one plain table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitioning: Option<Partitioning>,

    /// Most database connections that all consumers of this pipeline may hold together, two for each, and a third to look after the partitions of `partitioning`; scaling stays below it. Default: 40.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 2, max = 10000))]
    pub max_connections: i32,

    /// Whether each transaction also counts what it stored, by hour, type and service; dashboards read these counts instead of the table. Costs a few per cent of throughput. Default: `Enabled`.
    #[serde(default)]
    pub rollups: Rollups,

    /// Whether distinct users are counted by hour, too, exactly: costs a row and an index entry for each user and hour. Needs `rollups`. Default: `Disabled`.
    #[serde(default)]
    pub rollup_users: RollupUsers,
}

/// Partitions of the table by the time of the event, in UTC.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Partitioning {
    /// How much time one partition holds: `Day`, `Week` (from Monday on) or `Month`.
    pub interval: PartitionInterval,
    /// Days after which a partition is dropped with all its events. Unset: they are kept for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 36500))]
    pub retain_days: Option<i32>,
    /// How many partitions are made ahead of the present one. Default: 3.
    #[serde(default = "default_ahead")]
    #[schemars(range(min = 1, max = 60))]
    pub ahead: i32,
}

const fn default_ahead() -> i32 {
    3
}

/// How much time one partition holds.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionInterval {
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A calendar month.
    Month,
}

impl PartitionInterval {
    /// The interval as the consumer's settings have it.
    #[must_use]
    pub const fn as_setting(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

/// Whether each transaction counts what it stored.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rollups {
    /// It does.
    #[default]
    Enabled,
    /// It does not.
    Disabled,
}

/// Whether distinct users are counted by hour.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RollupUsers {
    /// They are.
    Enabled,
    /// They are not.
    #[default]
    Disabled,
}

fn default_table() -> String {
    "events".to_owned()
}

const fn default_max_connections() -> i32 {
    40
}

/// A connection URL in a Secret of the pipeline's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseUrlRef {
    /// Name of the Secret, in the namespace of the pipeline. Example: `analytics-db`.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_NAME_RULE).message(SECRET_NAME_MESSAGE))]
    pub name: String,
    /// Key of the URL in the Secret. Default: `url`.
    #[serde(default = "default_url_key")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new(SECRET_KEY_RULE).message(SECRET_KEY_MESSAGE))]
    pub key: String,
}

fn default_url_key() -> String {
    "url".to_owned()
}
