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
pub mod residue;
pub mod run;
pub mod scaler;
pub mod trace;
pub mod tuning;
pub mod validation;
pub mod world;

use trace::Trace;

/// All sets of traces by name: those used for tuning, those looked at while the law was developed, and those that
/// nothing was ever changed for.
pub fn sets() -> [(&'static str, Vec<Trace>); 3] {
    [
        ("tuning", tuning::tuning()),
        ("validation", validation::validation()),
        ("held-out", held_out::held_out()),
    ]
}
