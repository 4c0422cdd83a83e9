//! How much of its time the engine is at work: what the autoscaler learns a consumer's capacity from.
//!
//! The reading thread is at work whenever it does not wait for records; a full slot counts as work, because then the
//! database is the limit. A writer is different: with natural batching it is almost always in some transaction, even
//! at low load, in tiny ones. So only what grows with the number of events counts fully, and of the fixed part of a
//! transaction just the share that its events would have in a full batch. Which part is which, [`Cost`] finds out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cost::Cost;
use crate::metrics::Metrics;

/// Gathers working time.
pub struct BusyClock {
    state: Mutex<State>,
}

/// What the reading thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Records: there is nothing to do.
    Records,
    /// A writer that is at work: the database is the limit, and that counts as work.
    Database,
    /// A server that is away, which is no work that more consumers could share.
    AbsentDatabase,
}

struct State {
    since: Instant,
    /// Without work.
    idle: Duration,
    for_kafka: Duration,
    for_database: Duration,
    writers: Vec<WriterTime>,
}

#[derive(Clone, Copy, Default)]
struct WriterTime {
    /// What its transactions cost.
    cost: Cost,
    /// Seconds of work since the last tick.
    worked: f64,
}

impl BusyClock {
    /// A clock for a reading thread and this many writers.
    #[must_use]
    pub fn new(writers: usize) -> Self {
        let writers = vec![WriterTime::default(); writers];
        Self {
            state: Mutex::new(State {
                since: Instant::now(),
                idle: Duration::ZERO,
                for_kafka: Duration::ZERO,
                for_database: Duration::ZERO,
                writers,
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reading thread waited.
    pub fn waited(&self, wait: Wait, time: Duration) {
        let mut state = self.lock();
        if wait != Wait::Database {
            state.idle += time;
        }
        if wait == Wait::Records {
            state.for_kafka += time;
        } else {
            state.for_database += time;
        }
    }

    /// A writer committed a transaction of `events` events.
    pub fn transaction(&self, writer: usize, seconds: f64, events: usize, max_events: usize) {
        if let Some(writer) = self.lock().writers.get_mut(writer) {
            writer.cost.learn(events as f64, seconds);
            writer.worked += writer.cost.work(events as f64, max_events as f64);
        }
    }

    /// Adds the seconds since the last tick to the counters.
    pub fn tick(&self, metrics: &Metrics) {
        let mut state = self.lock();
        let elapsed = state.since.elapsed().as_secs_f64();
        let reader = elapsed - state.idle.as_secs_f64();
        let writers =
            state.writers.iter().map(|writer| writer.worked).sum::<f64>() / state.writers.len().max(1) as f64;
        metrics.busy.inc_by(reader.max(writers).clamp(0.0, elapsed));
        for (whom, time) in [("kafka", state.for_kafka), ("database", state.for_database)] {
            metrics.waited.with_label_values(&[whom]).inc_by(time.as_secs_f64());
        }
        (state.for_kafka, state.for_database) = (Duration::ZERO, Duration::ZERO);
        state.since = Instant::now();
        state.idle = Duration::ZERO;
        for writer in &mut state.writers {
            writer.worked = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_work_only_where_the_database_is_the_limit() {
        const HOUR: Duration = Duration::from_secs(3600);
        for (wait, for_kafka, for_database, busy) in [
            (Wait::Records, 3600.0, 0.0, false),
            (Wait::AbsentDatabase, 0.0, 3600.0, false),
            (Wait::Database, 0.0, 3600.0, true),
        ] {
            let metrics = Metrics::new(&prometheus::Registry::new(), "t").expect("fresh registry");
            let clock = BusyClock::new(1);
            clock.waited(wait, HOUR);
            clock.tick(&metrics);
            let waited = |whom| metrics.waited.with_label_values(&[whom]).get();
            assert_eq!((waited("kafka"), waited("database")), (for_kafka, for_database), "{wait:?}");
            assert_eq!(metrics.busy.get() > 0.0, busy, "{wait:?}");
        }
    }
}
