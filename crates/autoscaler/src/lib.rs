//! How many consumers a pipeline needs: a pure function of what was seen.
//!
//! [`decide`] takes what is remembered ([`State`]), what was seen ([`Observation`]) and what the user wants
//! ([`Policy`]) and gives back what to remember and what to do ([`Decision`]). It reads no clock, does no I/O
//! and is deterministic: equal input gives equal output, bit for bit, so a recorded decision can be replayed.
//!
//! Units, everywhere: time in seconds since the Unix epoch (`f64`), durations in seconds, rates in events per
//! second, offsets as Kafka counts them, ratios from 0 to 1.

mod arrival;
mod bounds;
mod capacity;
mod change;
mod choose;
mod conditions;
mod decide;
mod decision;
mod demand;
mod explain;
mod fluid;
mod gate;
mod learn;
mod observation;
mod offsets;
mod plan;
mod policy;
mod record;
mod shadow;
mod shape;
mod sink;
mod slope;
mod state;
mod surplus;

pub use decide::decide;
pub use decision::{Condition, Decision, DrainOutcome, Estimates, Limit, Reason};
pub use explain::{describe, explain};
pub use observation::{
    CommittedOffset, ConsumerObservation, GroupState, Observation, PartitionObservation, ReplicaObservation,
};
pub use policy::{OnUnknown, Policy, StartFrom};
pub use record::{RecordError, Recorder, Replayed, replay};
pub use state::State;
