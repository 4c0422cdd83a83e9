//! What can go wrong in a reconcile and is no fault of the specification.

use std::time::Duration;

use thiserror::Error;

/// What can go wrong in a reconcile and is no fault of the specification; all of it is tried again.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// A Secret could not be read.
    #[error("failed to read Secret `{name}`: {source}")]
    ReadSecret {
        /// Name of the Secret.
        name: String,
        /// What the API server answered.
        source: Box<kube::Error>,
    },
    /// An object could not be read.
    #[error("failed to read {kind} `{name}`: {source}")]
    Read {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What the API server answered.
        source: Box<kube::Error>,
    },
    /// An object could not be written.
    #[error("failed to apply {kind} `{name}`: {source}")]
    Apply {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What the API server answered.
        source: Box<kube::Error>,
    },
    /// An object could not be deleted.
    #[error("failed to delete {kind} `{name}`: {source}")]
    Delete {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What the API server answered.
        source: Box<kube::Error>,
    },
    /// An object of the same name belongs to someone else.
    #[error(
        "{kind} `{name}` exists and does not belong to this pipeline; it is left alone: delete or rename it, or give the pipeline another name"
    )]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// An object of a pipeline that had the same name is still there.
    #[error("{kind} `{name}` of an earlier pipeline of the same name is still being deleted")]
    Leftover {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
    /// The status could not be written.
    #[error("failed to write the status: {source}")]
    Status {
        /// What the API server answered.
        source: Box<kube::Error>,
    },
    /// Something did not answer.
    #[error("not everything has answered within {} s", limit.as_secs())]
    TimedOut {
        /// Time that it had.
        limit: Duration,
    },
    /// A mistake in the operator.
    #[error("a mistake in the operator (please report it): {message}")]
    Panicked {
        /// The words of the panic.
        message: String,
    },
}

impl Error {
    /// All labels of the metric that [`Self::category`] gives.
    pub(crate) const CATEGORIES: [&str; 9] = [
        "read_secret",
        "read",
        "apply",
        "delete",
        "foreign_object",
        "leftover",
        "status",
        "timed_out",
        "panicked",
    ];

    /// Label of the metric; one of a few.
    pub(crate) const fn category(&self) -> &'static str {
        match self {
            Self::ReadSecret { .. } => "read_secret",
            Self::Read { .. } => "read",
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::Foreign { .. } => "foreign_object",
            Self::Leftover { .. } => "leftover",
            Self::Status { .. } => "status",
            Self::TimedOut { .. } => "timed_out",
            Self::Panicked { .. } => "panicked",
        }
    }
}
