//! The latest decisions of every pipeline, kept so that they can be looked at and made again, bit for bit.
//!
//! They live in memory and are served beside the metrics: recording costs the API server nothing. What a restart must not
//! forget is in the status; the recording only explains.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use autoscaler::{Decision, Observation, Policy, Recorder, State};
use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// Most bytes for all recordings together, whatever there is to record.
const TOTAL_BYTES: usize = 4 << 20;
/// Most bytes for one pipeline: some hours of an idle one, or half an hour of a busy one.
const MOST_BYTES: usize = 512 << 10;
/// So many decisions are kept at least of what is recorded: each beginning takes as much room as dozens of them.
const LEAST_DECISIONS: usize = 20;

type Name = (String, String);

/// The latest decisions of every pipeline; shared by all parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decisions {
    by_name: Arc<Mutex<HashMap<Name, Arc<Mutex<Recording>>>>>,
    /// Bytes of all recordings together.
    total: Arc<AtomicUsize>,
}

/// One pipeline's decisions in two pieces: when the younger is full, the older goes. Where there is little room, in one.
#[derive(Debug, Default)]
struct Recording {
    /// `None` while there is no room to record anything.
    recorder: Option<Box<Recorder>>,
    older: String,
    younger: String,
    /// Decisions in the younger piece.
    count: usize,
    /// Bytes of its first one, with all that is needed to make it again.
    first: usize,
}

impl Decisions {
    /// Decides as [`autoscaler::decide`] does, and keeps what it takes to do it again, as far as there is room.
    pub(crate) fn decide(
        &self,
        pipeline: &Name,
        state: &Arc<State>,
        observation: &Observation,
        policy: &Policy,
    ) -> (Arc<State>, Decision) {
        let (recording, limit) = {
            let mut recordings = lock(&self.by_name);
            let recording = match recordings.get(pipeline) {
                Some(recording) => Arc::clone(recording),
                None => Arc::clone(recordings.entry(pipeline.clone()).or_default()),
            };
            (recording, (TOTAL_BYTES / recordings.len()).min(MOST_BYTES))
        };
        let mut recording = lock(&recording);
        let before = recording.bytes();
        let others = self.total.load(Ordering::Relaxed).saturating_sub(before);
        let decided = recording.decide(state, observation, policy, limit, TOTAL_BYTES.saturating_sub(others));
        self.total.fetch_add(recording.bytes(), Ordering::Relaxed);
        self.total.fetch_sub(before, Ordering::Relaxed);
        decided
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
        let gone = lock(&self.by_name).remove(pipeline);
        if let Some(recording) = gone {
            let mut recording = lock(&recording);
            self.total.fetch_sub(recording.bytes(), Ordering::Relaxed);
            *recording = Recording::default();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    fn bytes(&self) -> usize {
        self.older.len() + self.younger.len()
    }

    /// `limit` is what it may take as its share, `room` what there is at all.
    fn decide(
        &mut self,
        state: &Arc<State>,
        observation: &Observation,
        policy: &Policy,
        limit: usize,
        room: usize,
    ) -> (Arc<State>, Decision) {
        self.make_room(limit);
        if self.recorder.is_none() && self.first > room {
            // It would only be thrown away again.
            return unrecorded(state, observation, policy);
        }
        let mut lines = Vec::new();
        let recorder = self.recorder.get_or_insert_default();
        match recorder.decide(state, observation, policy, &mut lines) {
            Ok(decided) => {
                self.add(&lines, room);
                decided
            }
            Err(error) => {
                tracing::warn!(%error, "A decision could not be recorded");
                *self = Self::default();
                unrecorded(state, observation, policy)
            }
        }
    }

    // A piece begins with all that its first decision takes: where that is much of what there is, one piece has to do.
    fn make_room(&mut self, limit: usize) {
        let pieces = if self.first > limit / 8 { 1 } else { 2 };
        if self.count < LEAST_DECISIONS || self.younger.len() <= limit / pieces {
            return;
        }
        self.older = std::mem::take(&mut self.younger);
        if pieces == 1 || self.older.len() > limit {
            self.older = String::new();
        }
        self.older.shrink_to_fit();
        self.recorder = None;
        self.count = 0;
    }

    fn add(&mut self, lines: &[String], room: usize) {
        let more: usize = lines.iter().map(|line| line.len() + 1).sum();
        if self.count == 0 {
            self.first = more;
        }
        if self.older.len() + self.younger.len() + more > room {
            // The others have all the room, or nearly so: this one begins anew, once there is some.
            *self = Self { first: self.first, ..Self::default() };
            return;
        }
        self.count += 1;
        // Half of what a String takes at its own discretion would stay empty, for every pipeline.
        self.younger.reserve_exact(more);
        for line in lines {
            self.younger.push_str(line);
            self.younger.push('\n');
        }
    }
}

fn unrecorded(state: &Arc<State>, observation: &Observation, policy: &Policy) -> (Arc<State>, Decision) {
    let (next, decision) = autoscaler::decide(state, observation, policy);
    (Arc::new(next), decision)
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
        Some(text) if text.is_empty() => {
            let words = format!(
                "no decision about {namespace}/{pipeline} is kept: other pipelines take all the room there is for that\n"
            );
            (StatusCode::NOT_FOUND, words).into_response()
        }
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

    fn total(decisions: &Decisions) -> usize {
        let recordings = lock(&decisions.by_name);
        let total = recordings.values().map(|recording| lock(recording).bytes()).sum();
        assert_eq!(decisions.total.load(Ordering::Relaxed), total);
        total
    }

    #[test]
    fn many_pipelines_share_the_room() {
        let decisions = Decisions::default();
        for number in 0..1_000 {
            run(&decisions, &name(&format!("p{number}")), 1);
        }
        run(&decisions, &name("p7"), 500);
        let text = decisions.text("shop", "p7").unwrap();
        let kept = autoscaler::replay(text.lines()).unwrap();
        // Just begun anew, it may be one.
        assert!((1..100).contains(&kept.len()), "{}", kept.len());
        assert!(kept.iter().all(|replayed| replayed.same));
        assert!(total(&decisions) <= TOTAL_BYTES);
    }

    /// What the first ones took while they were alone is in the way of those that come later until they decide again; however
    /// many there are, the sum is never exceeded.
    #[test]
    fn there_is_no_more_room_than_there_is() {
        let decisions = Decisions::default();
        let early = |turns| {
            for number in 0..40 {
                run(&decisions, &name(&format!("early{number}")), turns);
            }
        };
        let late = || {
            for number in 0..4_000 {
                run(&decisions, &name(&format!("p{number}")), 1);
            }
        };
        early(600);
        assert!(total(&decisions) > TOTAL_BYTES / 2, "they take what there is");
        late();
        assert!(total(&decisions) <= TOTAL_BYTES);
        early(1);
        assert!(total(&decisions) < TOTAL_BYTES / 4, "they give back what is more than their share");
        late();
        assert!(total(&decisions) <= TOTAL_BYTES);
        let kept = |number: usize| !decisions.text("shop", &format!("p{number}")).unwrap().is_empty();
        assert!(kept(0) && !kept(3_999), "who comes too late finds no room");
        for number in 0..3_000 {
            decisions.forget(&name(&format!("p{number}")));
        }
        run(&decisions, &name("p3999"), 1);
        assert!(kept(3_999), "and finds some later");
        assert!(total(&decisions) <= TOTAL_BYTES);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let decisions = Decisions::default();
        run(&decisions, &name("clicks"), 1);
        decisions.forget(&name("clicks"));
        assert_eq!(decisions.text("shop", "clicks"), None);
    }
}
