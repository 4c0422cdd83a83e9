//! How much of its time the engine is at work: what the autoscaler learns a consumer's capacity from.
//!
//! The reading thread is at work whenever it does not wait for records; a full slot counts as work, because then the
//! database is the limit. A writer is different: with natural batching it is almost always in some transaction, even
//! at low load, in tiny ones. So only what grows with the number of events counts fully, and of the fixed part of a
//! transaction just the share that its events would have in a full batch.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::Counter;

/// Gathers working time.
pub struct BusyClock {
    state: Mutex<State>,
}

struct State {
    since: Instant,
    waited: Duration,
    writers: Vec<WriterTime>,
}

#[derive(Clone, Copy)]
struct WriterTime {
    /// The shortest transaction seen lately, in seconds: what one costs before its first event.
    fixed: f64,
    /// Seconds of work since the last tick.
    worked: f64,
}

impl BusyClock {
    /// A clock for a reading thread and this many writers.
    #[must_use]
    pub fn new(writers: usize) -> Self {
        let writers = vec![WriterTime { fixed: f64::INFINITY, worked: 0.0 }; writers];
        Self { state: Mutex::new(State { since: Instant::now(), waited: Duration::ZERO, writers }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reading thread waited for records.
    pub fn waited(&self, time: Duration) {
        self.lock().waited += time;
    }

    /// A writer committed a transaction of `events` events.
    pub fn transaction(&self, writer: usize, seconds: f64, events: usize, max_events: usize) {
        if let Some(writer) = self.lock().writers.get_mut(writer) {
            // The shortest drifts up by a hundredth each time, so that a server that became slower is noticed.
            writer.fixed = (writer.fixed * 1.01).min(seconds);
            writer.worked += work(seconds, writer.fixed, events, max_events);
        }
    }

    /// Adds the working seconds since the last tick to the counter.
    pub fn tick(&self, counter: &Counter) {
        let mut state = self.lock();
        let elapsed = state.since.elapsed().as_secs_f64();
        let reader = elapsed - state.waited.as_secs_f64();
        let writers =
            state.writers.iter().map(|writer| writer.worked).sum::<f64>() / state.writers.len().max(1) as f64;
        counter.inc_by(reader.max(writers).clamp(0.0, elapsed));
        state.since = Instant::now();
        state.waited = Duration::ZERO;
        for writer in &mut state.writers {
            writer.worked = 0.0;
        }
    }
}

fn work(seconds: f64, fixed: f64, events: usize, max_events: usize) -> f64 {
    let share = (events as f64 / max_events.max(1) as f64).min(1.0);
    (seconds - fixed).max(0.0) + fixed.min(seconds) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_transactions_are_hardly_work_and_full_ones_are() {
        assert!(work(0.001, 0.001, 1, 10_000) < 1e-6);
        assert!((work(0.1, 0.001, 10_000, 10_000) - 0.1).abs() < 1e-9);
        assert!((work(0.05, 0.001, 5_000, 10_000) - 0.0495).abs() < 1e-9);
    }

    #[test]
    fn waiting_is_not_work() {
        let counter = Counter::new("busy", "busy").expect("valid name");
        let clock = BusyClock::new(1);
        clock.waited(Duration::from_secs(3600));
        clock.tick(&counter);
        assert!(counter.get() < f64::EPSILON);
    }
}
