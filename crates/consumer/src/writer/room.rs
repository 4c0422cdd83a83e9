//! Makes room for a batch in a partitioned table: a partition for each of its times that deserves one, before the
//! transaction begins. Without it the rows would go into the default partition and have to move later.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::Utc;
use sqlx::PgConnection;

use crate::batch::Batch;
use crate::partitioning::{Policy, Range, time_of};
use crate::retry::answered;
use crate::settings::TableName;
use crate::sink::classify::describe;
use crate::sink::partitions;

/// What was in vain, or was not to be, is tried again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// The partitions that a writer knows of.
pub struct Room {
    table: TableName,
    policy: Policy,
    state: std::sync::Mutex<State>,
}

struct State {
    known: Vec<Range>,
    /// Ranges that have no partition although they were asked for.
    without: HashSet<Range>,
    since: Instant,
}

impl Room {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(table: &TableName, policy: Policy) -> Self {
        let state = State { known: Vec::new(), without: HashSet::new(), since: Instant::now() };
        Self { table: table.clone(), policy, state: std::sync::Mutex::new(state) }
    }

    /// Makes the partitions that the batch needs, as far as that is possible within `limit`. `batch` is sorted by key.
    ///
    /// # Errors
    /// The connection cannot be used any more. What was not made is not tried again at once: the next attempt passes.
    pub(super) async fn make(
        &self,
        connection: &mut PgConnection,
        batch: &Batch,
        limit: Duration,
    ) -> Result<(), sqlx::Error> {
        let wanted = self.wanted(batch);
        if wanted.is_empty() {
            return Ok(());
        }
        let times: Vec<u64> = wanted.iter().map(|range| range.begin).collect();
        let making = partitions::provide(connection, &self.table, &self.policy, Utc::now(), &times);
        let made = answered(limit, making).await;
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match made {
            Ok(there) => {
                state.known = there.into_iter().filter_map(|partition| partition.range).collect();
                let without = wanted.into_iter().filter(|range| !covers(&state.known, range.begin));
                let without: Vec<Range> = without.collect();
                state.without.extend(without);
            }
            Err(error) => {
                tracing::warn!(
                    table = %self.table,
                    error = describe(&error),
                    "A partition could not be made; its events go into the default partition"
                );
                state.without.extend(wanted);
                if error.as_database_error().is_none() {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Ranges of the batch's times of which no partition is known.
    fn wanted(&self, batch: &Batch) -> Vec<Range> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.since.elapsed() >= AGAIN {
            state.without.clear();
            // Partitions may have been dropped, too.
            state.known.clear();
            state.since = Instant::now();
        }
        wanted(batch.rows().iter().map(|row| time_of(&row.key)), &self.policy, &state.known, &state.without)
    }
}

fn covers(known: &[Range], time: u64) -> bool {
    known.iter().any(|range| range.contains(time))
}

/// `times` in order, so that most of them lie in the range of the one before.
fn wanted(
    times: impl Iterator<Item = u64>,
    policy: &Policy,
    known: &[Range],
    without: &HashSet<Range>,
) -> Vec<Range> {
    let mut wanted: Vec<Range> = Vec::new();
    let mut current: Option<Range> = None;
    for time in times {
        if current.is_some_and(|range| range.contains(time)) {
            continue;
        }
        current = policy.interval.range_at(time);
        if let Some(range) = current
            && !covers(known, time)
            && !without.contains(&range)
        {
            wanted.push(range);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partitioning::Interval;

    const DAY: u64 = 86_400_000;

    #[test]
    fn each_unknown_day_of_a_batch_is_asked_for_once() {
        let policy = Policy { interval: Interval::Day, retain_days: None, ahead: 1 };
        let day = |number: u64| Range { begin: number * DAY, end: (number + 1) * DAY };
        let times = [0, 1, DAY, DAY + 5, 2 * DAY, 3 * DAY, 3 * DAY + 1];
        let find = |known: &[Range], without: &[Range]| {
            wanted(times.into_iter(), &policy, known, &without.iter().copied().collect())
        };
        assert_eq!(find(&[], &[]), [day(0), day(1), day(2), day(3)]);
        assert_eq!(find(&[day(1), Range { begin: 2 * DAY, end: 9 * DAY }], &[day(0)]), []);
    }
}
