//! Recorded decisions, made again by the function that made them.

use std::path::Path;

use autoscaler::Replayed;
use jiff::Timestamp;

use crate::cluster::Failure;

/// Changes that are shown at most, the latest.
const SHOWN: usize = 10;

/// The last decision, and how the number of consumers came to be.
pub(crate) fn latest(recording: &str) -> Result<String, Failure> {
    let replayed = replayed(recording)?;
    let Some(last) = replayed.last() else { return Ok(String::new()) };
    let mut text = format!("Last look, at {}:\n", time(last));
    text.push_str(&autoscaler::explain(&last.decision, &last.observation, &last.policy));
    text.push('\n');
    text.push_str(&changes(&replayed));
    if !replayed.iter().all(|replayed| replayed.same) {
        text.push_str(
            "The operator is of another version than this program: some decisions were not the ones shown here.\n",
        );
    }
    Ok(text)
}

/// Makes every decision of a recording again. Gives back what to print, and whether each is the recorded one, bit for bit.
pub(crate) fn again(path: &Path) -> Result<(String, bool), Failure> {
    judge(&crate::validate::read(path)?)
}

fn judge(recording: &str) -> Result<(String, bool), Failure> {
    let replayed = replayed(recording)?;
    let (Some(first), Some(last)) = (replayed.first(), replayed.last()) else {
        return Ok(("There is no decision in this recording.\n".to_owned(), false));
    };
    let count = replayed.len();
    let mut text =
        format!("{count} decisions from {} to {}\n{}", time(first), time(last), changes(&replayed));
    let others: Vec<_> = replayed.iter().enumerate().filter(|(_, replayed)| !replayed.same).collect();
    for (index, other) in others.iter().take(SHOWN) {
        let number = index + 1;
        let (time, explanation) = (time(other), &other.decision.explanation);
        text.push_str(&format!(
            "Decision {number} of {count}, at {time}, differs from the recorded one; now: {explanation}\n"
        ));
    }
    match others.len() {
        0 => text.push_str("Every decision is the recorded one, bit for bit.\n"),
        number => text.push_str(&format!(
            "{number} of {count} decisions differ: was the recording changed, or made by another version?\n"
        )),
    }
    Ok((text, others.is_empty()))
}

fn replayed(recording: &str) -> Result<Vec<Replayed>, Failure> {
    Ok(autoscaler::replay(recording.lines())?)
}

fn changes(replayed: &[Replayed]) -> String {
    let wanted = replayed.iter().filter(|one| one.decision.desired != one.observation.replicas.spec);
    let lines: Vec<String> =
        wanted.map(|one| format!("  {}  {}\n", time(one), one.decision.explanation)).collect();
    if lines.is_empty() {
        return format!("No change was wanted in the last {} decisions.\n", replayed.len());
    }
    let hidden = lines.len().saturating_sub(SHOWN);
    let head = match hidden {
        0 => format!("Changes wanted in the last {} decisions:\n", replayed.len()),
        hidden => format!(
            "Changes wanted in the last {} decisions ({hidden} earlier ones not shown):\n",
            replayed.len()
        ),
    };
    head + &lines[hidden..].concat()
}

fn time(replayed: &Replayed) -> String {
    let seconds = replayed.observation.time;
    Timestamp::from_second(seconds as i64).map_or_else(|_| format!("{seconds}"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use autoscaler::{
        CommittedOffset, GroupState, Observation, PartitionObservation, Policy, Recorder, ReplicaObservation,
        State,
    };

    use super::*;

    /// A sleeping pipeline that is woken by events.
    fn recording() -> String {
        let (mut recorder, mut state, mut lines) = (Recorder::default(), Arc::<State>::default(), Vec::new());
        let policy = Policy { min_replicas: 0, ..Policy::default() };
        for turn in 0..5_u32 {
            let partition = PartitionObservation {
                partition: 0,
                log_start: Some(0),
                log_end: Some(if turn < 3 { 0 } else { 500 }),
                committed: CommittedOffset::At(0),
                lag_seconds: None,
            };
            let observation = Observation {
                time: 1_768_473_000.0 + f64::from(turn) * 5.0,
                replicas: ReplicaObservation { group: GroupState::Empty, ..ReplicaObservation::default() },
                partition_count: Some(1),
                partitions: std::sync::Arc::new([partition]),
                consumers: Vec::new(),
            };
            state = recorder.decide(&state, &observation, &policy, &mut lines).unwrap().0;
        }
        lines.join("\n")
    }

    #[test]
    fn the_last_decision_is_told_in_full_and_changes_in_a_line() {
        let text = latest(&recording()).unwrap();
        for words in [
            "Last look, at 2026-01-15T10:30:20Z:\nGrowing from 0 to 1 replica",
            "\n  seen:     0 of 0 replicas ready",
            "\n  needed:   1 replica to keep every event under 30.0 s",
            "Changes wanted in the last 5 decisions:\n  2026-01-15T10:30:15Z  Growing from 0 to 1",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }
        assert!(!text.contains("another version"), "{text}");
        assert_eq!(latest("").unwrap(), "");
    }

    #[test]
    fn a_recording_is_made_again_bit_for_bit() {
        let (text, same) = judge(&recording()).unwrap();
        assert!(same && text.contains("5 decisions") && text.contains("bit for bit"), "{text}");
    }

    #[test]
    fn a_decision_that_differs_is_named() {
        let changed = recording().replacen("[[0,0,0,0,null]]", "[[0,0,9000,0,null]]", 1);
        assert_ne!(changed, recording());
        let (text, same) = judge(&changed).unwrap();
        assert!(!same && text.contains("Decision 1 of 5, at 2026-01-15T10:30:00Z, differs"), "{text}");
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        assert!(judge("nonsense").unwrap_err().to_string().contains("line 1 of the recording"));
        assert!(!judge("\n").unwrap().1, "nothing reproduced is no success");
    }
}
