//! Recording decisions so that they can be made again, bit for bit.
//!
//! A recording is text, one JSON value per line. A decision follows from state, observation and policy; the state
//! follows from the one before. So only what is new in the observation is written each time, the policy when it changes,
//! and the state when it is not the one that the last decision left (the first time, and after anything else has happened
//! to it). Each observation carries a checksum of its decision, and replay compares.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::change::Change;
use crate::{Decision, Observation, Policy, State, decide};

/// One line of a recording.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    /// From here on this is remembered, and nothing has been seen before.
    State(Box<State>),
    /// From here on this is wanted.
    Policy(Policy),
    /// This was seen, and decided on.
    Seen {
        /// What is new since the observation before; since the default one behind a state.
        #[serde(flatten)]
        change: Change,
        /// FNV-1a of the decision's JSON, in hexadecimal digits.
        decision: String,
    },
}

/// Writes a recording, line by line.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    seen: Observation,
    state: Option<Arc<State>>,
    policy: Option<Policy>,
}

impl Recorder {
    /// Decides as [`decide`] does, and adds to `lines` what replay needs to do it again. The state is shared with the caller:
    /// thousands of recorders need not keep one each.
    ///
    /// # Errors
    ///
    /// None in practice: it would take a value that JSON cannot hold. The decision is not lost to such a failure,
    /// because [`decide`] can be called by itself.
    pub fn decide(
        &mut self,
        state: &Arc<State>,
        observation: &Observation,
        policy: &Policy,
        lines: &mut Vec<String>,
    ) -> Result<(Arc<State>, Decision), RecordError> {
        let (next, decision) = decide(state, observation, policy);
        let next = Arc::new(next);
        let goes_on = self.state.as_ref().is_some_and(|known| Arc::ptr_eq(known, state) || known == state);
        if !goes_on {
            lines.push(write(&Line::State(Box::new(State::clone(state))))?);
            // A state is a new beginning: what stands before it may be cut off.
            self.seen = Observation::default();
        }
        if self.policy.as_ref() != Some(policy) {
            lines.push(write(&Line::Policy(policy.clone()))?);
            self.policy = Some(policy.clone());
        }
        let change = Change::between(&self.seen, observation);
        lines.push(write(&Line::Seen { change, decision: checksum(&decision)? })?);
        self.seen = observation.clone();
        self.state = Some(Arc::clone(&next));
        Ok((next, decision))
    }
}

/// A decision made again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What was seen.
    pub observation: Observation,
    /// What was wanted.
    pub policy: Policy,
    /// What is decided.
    pub decision: Decision,
    /// True if the decision is the recorded one, bit for bit. It is not if the recording was made by another
    /// version of the law.
    pub same: bool,
}

/// Why a recording could not be written or replayed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A line is not what a recording has.
    #[error(
        "line {line} of the recording cannot be read; each line must be one JSON value as the recorder wrote it: {source}"
    )]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The recording does not begin with a policy.
    #[error(
        "line {line} of the recording is an observation, but no policy stands before it; replay from the recording's first line"
    )]
    NoPolicy {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A value cannot be written as JSON.
    #[error("failed to write the recording: {0}")]
    Write(#[source] serde_json::Error),
}

/// Makes every decision of a recording again.
///
/// # Errors
///
/// [`RecordError`] names the first line that cannot be used.
pub fn replay<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Replayed>, RecordError> {
    let (mut state, mut wanted, mut replayed) = (State::default(), None, Vec::new());
    let mut observation = Observation::default();
    for (index, text) in lines.into_iter().enumerate() {
        let line = index + 1;
        if text.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(text).map_err(|source| RecordError::Line { line, source })? {
            Line::State(remembered) => {
                state = *remembered;
                observation = Observation::default();
            }
            Line::Policy(policy) => wanted = Some(policy),
            Line::Seen { change, decision: recorded } => {
                change.apply(&mut observation);
                let policy: &Policy = wanted.as_ref().ok_or(RecordError::NoPolicy { line })?;
                let (next, decision) = decide(&state, &observation, policy);
                state = next;
                let same = checksum(&decision)? == recorded;
                replayed.push(Replayed {
                    observation: observation.clone(),
                    policy: policy.clone(),
                    decision,
                    same,
                });
            }
        }
    }
    Ok(replayed)
}

fn write(line: &Line) -> Result<String, RecordError> {
    serde_json::to_string(line).map_err(RecordError::Write)
}

/// FNV-1a (Fowler, Noll, Vo; RFC 9923) of the decision as JSON, which shows every number exactly.
fn checksum(decision: &Decision) -> Result<String, RecordError> {
    let text = serde_json::to_string(decision).map_err(RecordError::Write)?;
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    Ok(format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommittedOffset, PartitionObservation, ReplicaObservation};

    fn observation(time: f64) -> Observation {
        let partition = PartitionObservation {
            partition: 0,
            log_start: Some(0),
            log_end: Some((time * 31.7) as i64),
            committed: CommittedOffset::At((time * 29.3) as i64),
            lag_seconds: Some(time / 3.0),
        };
        let replicas = ReplicaObservation { spec: 1, ready: 1, ..ReplicaObservation::default() };
        Observation {
            time,
            replicas,
            partition_count: Some(1),
            partitions: Arc::new([partition]),
            consumers: vec![],
        }
    }

    fn recording() -> Vec<String> {
        let (mut recorder, mut lines, mut state) = (Recorder::default(), Vec::new(), Arc::<State>::default());
        for turn in 1..20_u32 {
            let policy =
                Policy { target_lag_seconds: if turn < 10 { 30.0 } else { 12.5 }, ..Policy::default() };
            let seen = observation(f64::from(turn) * 5.1);
            let (next, _) = recorder.decide(&state, &seen, &policy, &mut lines).unwrap();
            // The controller is restarted without its memory.
            state = if turn == 15 { Arc::default() } else { next };
        }
        lines
    }

    #[test]
    fn every_decision_is_made_again_bit_for_bit() {
        let lines = recording();
        let replayed = replay(lines.iter().map(String::as_str)).unwrap();
        assert_eq!(replayed.len(), 19);
        assert!(replayed.iter().all(|replayed| replayed.same));
        assert_eq!(lines.len(), 19 + 2 + 2, "two states and two policies besides the observations");
    }

    /// A controller keeps the recording in pieces and drops the oldest.
    #[test]
    fn pieces_can_be_replayed_alone_and_one_after_another() {
        let (mut pieces, mut state) = (Vec::new(), Arc::<State>::default());
        for piece in 0..3_u32 {
            let (mut recorder, mut lines) = (Recorder::default(), Vec::new());
            for turn in 1..6_u32 {
                let mut seen = observation(f64::from(piece * 100 + turn) * 5.1);
                if piece == 1 {
                    seen.partition_count = None;
                    seen.partitions = Arc::default();
                }
                state = recorder.decide(&state, &seen, &Policy::default(), &mut lines).unwrap().0;
            }
            pieces.push(lines);
        }
        for piece in &pieces {
            assert!(replay(piece.iter().map(String::as_str)).unwrap().iter().all(|replayed| replayed.same));
        }
        let replayed = replay(pieces.iter().flatten().map(String::as_str)).unwrap();
        assert_eq!(replayed.iter().filter(|replayed| replayed.same).count(), 15);
    }

    #[test]
    fn another_decision_than_the_recorded_one_is_told() {
        let lines: Vec<String> =
            recording().iter().map(|line| line.replace("\"ready\":1", "\"ready\":0")).collect();
        let replayed = replay(lines.iter().map(String::as_str)).unwrap();
        assert!(replayed.iter().any(|replayed| !replayed.same));
    }

    #[test]
    fn what_is_no_recording_is_refused_with_the_line() {
        let lines = recording();
        let cases = [(vec!["{\"seen\":"], "line 1"), (vec![lines[2].as_str()], "no policy stands before it")];
        for (lines, expected) in cases {
            let message = replay(lines).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
