//! The laboratory: a world to scale in, scalers to compare with, and measures.

pub mod contest;
pub mod flink;
pub mod group;
pub mod held_out;
pub mod keda;
pub mod log;
pub mod others;
pub mod random;
pub mod reading;
pub mod run;
pub mod scaler;
pub mod sets;
pub mod trace;
pub mod world;
