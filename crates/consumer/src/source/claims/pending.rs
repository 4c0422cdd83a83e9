//! Claims that are not served yet, and when each is looked at next. Pure: the time is told.

use std::time::{Duration, Instant};

use super::Claim;

/// A claim that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) partition: i32,
    pub(super) generation: u64,
    due: Instant,
    /// It could not be served the last time.
    failing: bool,
    /// It waits for a person, who has been told.
    pub(super) is_known_gap: bool,
}

/// The claims that wait.
#[derive(Debug, Default)]
pub(super) struct Pending(Vec<Waiting>);

impl Pending {
    /// A partition is to be taken over.
    pub(super) fn add(&mut self, claim: Claim) {
        let Claim { partition, generation, due } = claim;
        self.0.push(Waiting { partition, generation, due, failing: false, is_known_gap: false });
    }

    /// When the next of them is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.due).min()
    }

    /// Takes out what is due, and forgets what does not matter any more.
    pub(super) fn take_due(&mut self, now: Instant, is_current: impl Fn(i32, u64) -> bool) -> Vec<Waiting> {
        self.0.retain(|waiting| is_current(waiting.partition, waiting.generation));
        self.0.extract_if(.., |waiting| waiting.due <= now).collect()
    }

    /// It could not be served, and is tried again.
    pub(super) fn put_back_failed(&mut self, waiting: Waiting, now: Instant, pause: Duration) {
        self.0.push(Waiting { due: now + pause, failing: true, ..waiting });
    }

    /// It waits for a person, and is looked at again.
    pub(super) fn put_back_gap(&mut self, waiting: Waiting, now: Instant, pause: Duration) {
        self.0.push(Waiting { due: now + pause, failing: false, is_known_gap: true, ..waiting });
    }

    /// Whether some of them fail for a reason that nobody has decided about.
    pub(super) fn is_failing(&self) -> bool {
        self.0.iter().any(|waiting| waiting.failing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn numbers(due: &[Waiting]) -> Vec<i32> {
        due.iter().map(|waiting| waiting.partition).collect()
    }

    #[test]
    fn a_new_claim_is_due_although_others_wait() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(Claim { partition: 0, generation: 1, due: now });
        pending.add(Claim { partition: 1, generation: 2, due: now });
        let due = pending.take_due(now, |_, _| true);
        assert_eq!(numbers(&due), [0, 1]);
        pending.put_back_gap(due[0], now, 10 * SECOND);
        pending.put_back_failed(due[1], now, 5 * SECOND);
        assert!(pending.is_failing());
        assert_eq!(pending.due(), Some(now + 5 * SECOND));
        pending.add(Claim { partition: 2, generation: 3, due: now + SECOND });
        assert!(pending.take_due(now, |_, _| true).is_empty(), "it was asked for later");
        assert_eq!(numbers(&pending.take_due(now + SECOND, |_, _| true)), [2]);
        let due = pending.take_due(now + 10 * SECOND, |_, _| true);
        assert_eq!(due.iter().map(|waiting| waiting.is_known_gap).collect::<Vec<_>>(), [true, false]);
        assert_eq!(pending.due(), None);
    }

    #[test]
    fn a_gap_that_could_not_be_looked_at_again_fails_and_was_told_all_the_same() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(Claim { partition: 0, generation: 1, due: now });
        let due = pending.take_due(now, |_, _| true);
        pending.put_back_gap(due[0], now, SECOND);
        assert!(!pending.is_failing());
        let due = pending.take_due(now + SECOND, |_, _| true);
        pending.put_back_failed(due[0], now, SECOND);
        assert!(pending.is_failing());
        assert!(pending.take_due(now + SECOND, |_, _| true)[0].is_known_gap);
    }

    #[test]
    fn what_was_revoked_fails_no_longer() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.add(Claim { partition: 0, generation: 1, due: now });
        let due = pending.take_due(now, |_, _| true);
        pending.put_back_failed(due[0], now, 5 * SECOND);
        assert!(pending.take_due(now, |_, generation| generation != 1).is_empty());
        assert!(!pending.is_failing() && pending.due().is_none());
    }
}
