//! The chart without a cluster: what it renders, what it refuses, and that nothing in it has drifted from its source.

mod drift;
mod matrix;
mod monitoring;
mod refusals;
mod score;
mod values;
