//! The latest decisions of every pipeline, kept so that they can be looked at and made again, bit for bit.
//!
//! They live in memory and are served beside the metrics: recording costs the API server nothing. What a restart must not
//! forget is in the status; the recording only explains.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use autoscaler::{Decision, Observation, Policy, Recorder, State};
use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Most bytes for all recordings together, as long as each pipeline still has a few decisions.
const TOTAL_BYTES: usize = 4 << 20;
/// Most bytes for one pipeline: some hours of an idle one, or half an hour of a busy one.
const MOST_BYTES: usize = 512 << 10;
/// So many decisions are kept whatever they take.
const LEAST_DECISIONS: usize = 20;

type Name = (String, String);

/// The latest decisions of every pipeline; shared by all parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decisions {
    by_name: Arc<Mutex<HashMap<Name, Arc<Mutex<Recording>>>>>,
}

/// One pipeline's decisions in two pieces: when the younger is full, the older goes.
#[derive(Debug, Default)]
struct Recording {
    recorder: Recorder,
    older: String,
    younger: String,
    /// Decisions in the younger piece.
    count: usize,
}

impl Decisions {
    /// Decides as [`autoscaler::decide`] does, and keeps what it takes to do it again.
    pub(crate) fn decide(
        &self,
        pipeline: &Name,
        state: &Arc<State>,
        observation: &Observation,
        policy: &Policy,
    ) -> (Arc<State>, Decision) {
        let (recording, limit) = {
            let mut recordings = lock(&self.by_name);
            let recording = Arc::clone(recordings.entry(pipeline.clone()).or_default());
            (recording, (TOTAL_BYTES / recordings.len()).min(MOST_BYTES))
        };
        lock(&recording).decide(state, observation, policy, limit)
    }

    /// The recording of a pipeline, one JSON value per line; `None` if nothing has been decided here.
    fn text(&self, namespace: &str, pipeline: &str) -> Option<String> {
        let name = (namespace.to_owned(), pipeline.to_owned());
        let recording = Arc::clone(lock(&self.by_name).get(&name)?);
        let recording = lock(&recording);
        Some(format!("{}{}", recording.older, recording.younger))
    }

    /// Forgets a pipeline that is gone.
    pub(crate) fn forget(&self, pipeline: &Name) {
        lock(&self.by_name).remove(pipeline);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    fn decide(
        &mut self,
        state: &Arc<State>,
        observation: &Observation,
        policy: &Policy,
        limit: usize,
    ) -> (Arc<State>, Decision) {
        if self.younger.len() > limit / 2 && self.count >= LEAST_DECISIONS {
            self.older = std::mem::take(&mut self.younger);
            self.older.shrink_to_fit();
            self.recorder = Recorder::default();
            self.count = 0;
        }
        let mut lines = Vec::new();
        match self.recorder.decide(state, observation, policy, &mut lines) {
            Ok(decided) => {
                self.count += 1;
                for line in lines {
                    // Half of what a String takes at its own discretion would stay empty, for every pipeline.
                    self.younger.reserve_exact(line.len() + 1);
                    self.younger.push_str(&line);
                    self.younger.push('\n');
                }
                decided
            }
            Err(error) => {
                tracing::warn!(%error, "A decision could not be recorded");
                *self = Self::default();
                let (next, decision) = autoscaler::decide(state, observation, policy);
                (Arc::new(next), decision)
            }
        }
    }
}

/// `GET /decisions/<namespace>/<pipeline>`: the recording, for `kubectl apl explain`.
pub(crate) fn routes(decisions: Decisions) -> Router {
    Router::new().route("/decisions/{namespace}/{pipeline}", get(show)).with_state(decisions)
}

async fn show(
    Shared(decisions): Shared<Decisions>,
    Path((namespace, pipeline)): Path<(String, String)>,
) -> Response {
    match decisions.text(&namespace, &pipeline) {
        Some(text) => ([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response(),
        None => {
            let words =
                format!("no decision about {namespace}/{pipeline} was made here; only the leader decides\n");
            (StatusCode::NOT_FOUND, words).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::{CommittedOffset, PartitionObservation, ReplicaObservation};

    use super::*;

    fn observation(turn: u32) -> Observation {
        let partition = |partition: i32| PartitionObservation {
            partition,
            log_start: Some(0),
            log_end: Some(i64::from(turn) * 101),
            committed: CommittedOffset::At(i64::from(turn) * 100),
            lag_seconds: None,
        };
        Observation {
            time: 1.0e9 + f64::from(turn) * 5.1,
            replicas: ReplicaObservation { spec: 1, ready: 1, ..ReplicaObservation::default() },
            partition_count: Some(12),
            partitions: (0..12).map(partition).collect(),
            consumers: Vec::new(),
        }
    }

    fn name(pipeline: &str) -> Name {
        ("shop".to_owned(), pipeline.to_owned())
    }

    fn run(decisions: &Decisions, pipeline: &Name, turns: u32) -> Vec<Decision> {
        let (mut state, mut made) = (Arc::<State>::default(), Vec::new());
        for turn in 1..=turns {
            let (next, decision) = decisions.decide(pipeline, &state, &observation(turn), &Policy::default());
            state = next;
            made.push(decision);
        }
        made
    }

    /// However long a controller runs, what it keeps is bounded, and what it keeps can be made again.
    #[test]
    fn the_latest_decisions_are_kept_and_made_again_bit_for_bit() {
        let decisions = Decisions::default();
        let made = run(&decisions, &name("clicks"), 3_000);
        let text = decisions.text("shop", "clicks").unwrap();
        assert!(text.len() <= MOST_BYTES + (64 << 10), "{} bytes", text.len());
        let replayed = autoscaler::replay(text.lines()).unwrap();
        assert!((LEAST_DECISIONS..3_000).contains(&replayed.len()), "{}", replayed.len());
        assert!(replayed.iter().all(|replayed| replayed.same));
        let again: Vec<_> = replayed.into_iter().map(|replayed| replayed.decision).collect();
        assert_eq!(again[..], made[made.len() - again.len()..]);
    }

    #[test]
    fn many_pipelines_share_the_room() {
        let decisions = Decisions::default();
        for number in 0..400 {
            run(&decisions, &name(&format!("p{number}")), 1);
        }
        run(&decisions, &name("p7"), 500);
        let text = decisions.text("shop", "p7").unwrap();
        let kept = autoscaler::replay(text.lines()).unwrap();
        assert!(kept.len() >= LEAST_DECISIONS && kept.len() < 100, "{}", kept.len());
        assert!(kept.iter().all(|replayed| replayed.same));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let decisions = Decisions::default();
        run(&decisions, &name("clicks"), 1);
        decisions.forget(&name("clicks"));
        assert_eq!(decisions.text("shop", "clicks"), None);
    }
}
