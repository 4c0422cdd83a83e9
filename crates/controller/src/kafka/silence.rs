//! Clusters that do not answer. A request to one takes as long as it may, and a few pipelines of such a cluster would take every
//! place there is for work. So one of them at a time waits for it, and the others take the last failure for the answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::LagError;

/// A cluster that did not answer is asked again after this time.
const PAUSE: Duration = Duration::from_secs(10);
/// Whoever has asked and said nothing for so long does not come back: somebody else may.
const LOST: Duration = Duration::from_secs(60);
/// For so long is the first answer of a cluster awaited by those that did not ask for it.
const FIRST: Duration = Duration::from_secs(5);

/// Whether a cluster answers.
#[derive(Default)]
pub(super) struct Silence {
    state: Mutex<State>,
    /// The first answer has come, or is known not to come.
    known: Notify,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    /// It was never asked.
    #[default]
    New,
    /// It is being asked for the first time; at that time somebody else may.
    Asked(Instant),
    /// It answered when it was last asked.
    Answers,
    /// It did not, and may be asked again at that time.
    Silent(LagError, Instant),
}

/// What to do with a pipeline's request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Turn {
    /// Make it.
    Ask,
    /// Answer by the last failure, and make it all the same, for the others to know.
    Try(LagError),
    /// Answer by the last failure.
    Leave(LagError),
}

impl Silence {
    /// What to do with a request now; while somebody else makes the first one, that is awaited for a moment. What comes of a
    /// request that is made has to be told to [`Silence::note`].
    pub(super) async fn turn(&self, brokers: &str) -> Turn {
        let turn = async {
            loop {
                let known = self.known.notified();
                match self.turn_at(Instant::now()) {
                    Some(turn) => return turn,
                    None => known.await,
                }
            }
        };
        let late = || {
            let detail = "no answer yet".to_owned();
            Turn::Leave(LagError::Unreachable { brokers: brokers.to_owned(), detail })
        };
        tokio::time::timeout(FIRST, turn).await.unwrap_or_else(|_| late())
    }

    // `None` while somebody makes the first request.
    fn turn_at(&self, now: Instant) -> Option<Turn> {
        let mut state = self.lock();
        match &mut *state {
            State::Asked(again) if now < *again => None,
            State::New | State::Asked(_) => {
                *state = State::Asked(now + LOST);
                Some(Turn::Ask)
            }
            State::Answers => Some(Turn::Ask),
            State::Silent(error, again) if *again <= now => {
                *again = now + LOST;
                Some(Turn::Try(error.clone()))
            }
            State::Silent(error, _) => Some(Turn::Leave(error.clone())),
        }
    }

    /// Notes what came of a request: `None` if the cluster answered, whatever it did.
    pub(super) fn note(&self, failure: Option<&LagError>, now: Instant) {
        let mut state = self.lock();
        *state = match (failure, &*state) {
            (None, _) => State::Answers,
            // The client says the cause (a wrong password, a certificate) once in a while, and in between only that there is no
            // connection.
            (Some(LagError::Unreachable { .. }), State::Silent(cause, _)) => {
                State::Silent(cause.clone(), now + PAUSE)
            }
            (Some(error), _) => State::Silent(error.clone(), now + PAUSE),
        };
        drop(state);
        self.known.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> LagError {
        LagError::Unreachable { brokers: "a:1".into(), detail: "timed out".into() }
    }

    #[test]
    fn one_at_a_time_waits_for_a_cluster_that_does_not_answer() {
        let (silence, start) = (Silence::default(), Instant::now());
        let leave = || Some(Turn::Leave(error()));
        assert_eq!(silence.turn_at(start), Some(Turn::Ask));
        assert_eq!(silence.turn_at(start), None, "the first one is under way");
        assert_eq!(silence.turn_at(start + LOST), Some(Turn::Ask), "it was lost");
        silence.note(Some(&error()), start);
        assert_eq!(silence.turn_at(start), leave());
        let later = start + PAUSE;
        assert_eq!(silence.turn_at(later), Some(Turn::Try(error())));
        assert_eq!(silence.turn_at(later), leave(), "somebody tries already");
        assert_eq!(silence.turn_at(later + LOST), Some(Turn::Try(error())), "and was lost");
        silence.note(Some(&error()), later);
        assert_eq!(silence.turn_at(later), leave());
        assert_eq!(silence.turn_at(later + PAUSE), Some(Turn::Try(error())));
        silence.note(None, later + PAUSE);
        assert_eq!(silence.turn_at(later + PAUSE), Some(Turn::Ask));
        assert_eq!(silence.turn_at(later + PAUSE), Some(Turn::Ask), "all at the same time");
    }

    /// A condition that changes back and forth would be written, and told in an Event, each time.
    #[test]
    fn a_cause_is_not_forgotten_while_the_cluster_stays_silent() {
        let (silence, start) = (Silence::default(), Instant::now());
        let cause = || LagError::AuthenticationFailed { detail: "wrong password".into() };
        let known = |silence: &Silence| silence.turn_at(start);
        silence.note(Some(&error()), start);
        silence.note(Some(&cause()), start);
        assert_eq!(known(&silence), Some(Turn::Leave(cause())));
        silence.note(Some(&error()), start);
        assert_eq!(known(&silence), Some(Turn::Leave(cause())));
        silence.note(None, start);
        silence.note(Some(&error()), start);
        assert_eq!(known(&silence), Some(Turn::Leave(error())), "it has answered since");
    }

    #[tokio::test]
    async fn the_first_answer_is_awaited_by_all() {
        let silence = Silence::default();
        assert_eq!(silence.turn("a:1").await, Turn::Ask);
        let answered = async {
            tokio::task::yield_now().await;
            silence.note(None, Instant::now());
        };
        let turns = tokio::join!(silence.turn("a:1"), silence.turn("a:1"), answered);
        assert_eq!((turns.0, turns.1), (Turn::Ask, Turn::Ask));
    }
}
