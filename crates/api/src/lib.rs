//! The `AnalyticsPipeline` resource: types and schema, no client, no runtime.
//!
//! One struct per part of the resource, each in a file of its own. Whatever is known from the specification alone (bounds,
//! contradictions, fields that may not change) is refused by the API server through the schema and its CEL rules; what
//! needs a look at other objects is the controller's business.

// The schema derive repeats each struct inside a function body, where `pub` reaches nobody.
#![allow(unreachable_pub)]

mod consumer;
mod crd;
mod delivery;
pub mod labels;
mod network;
mod pipeline;
mod scaling;
mod schedule;
mod sink;
mod source;
mod status;
mod telemetry;

pub use consumer::{
    Consumer, ImagePullPolicy, ImagePullSecret, LogFormat, PodMetadata, Quantities, Resources,
};
pub use crd::crd;
pub use delivery::{Batch, DeadLetters, Deduplication, DeduplicationMode, Delivery, Tombstones};
pub use network::{NetworkAccess, NetworkPolicyMode};
pub use pipeline::{AnalyticsPipeline, AnalyticsPipelineSpec, MAX_NAME_LENGTH};
pub use scaling::{Behavior, OnUnknown, Scaling, ScalingMode};
pub use schedule::Schedule;
pub use sink::{DatabaseUrlRef, PartitionInterval, Partitioning, RollupUsers, Rollups, Sink};
pub use source::{
    ClientCertificateRef, CredentialsRef, GroupProtocol, Mechanism, OnOffsetGap, Protocol, SecretKeyRef,
    Security, Source, StartFrom,
};
pub use status::{
    AnalyticsPipelineStatus, LagStatus, RatesStatus, SCALING_LIMITS, SCALING_REASONS, ScalingStatus,
};
pub use telemetry::{Automatic, Telemetry, Tracing};
