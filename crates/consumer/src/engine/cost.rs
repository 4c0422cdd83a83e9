//! What a transaction costs: something for itself, and something for each event. Both are found by a straight line through the
//! transactions of late (least squares, older ones counting less and less), seconds over events.
//!
//! The shortest transaction would not do for the fixed part: where events are slow, by a trigger say, it holds the work for an
//! event of its own, and a consumer that is half busy would look nearly idle.

/// What a transaction counts for when the next one is there: memory of some 500.
const KEPT: f64 = 0.998;
/// A transaction counts for no more than so many times what one of its size would on average: others held it up.
const MOST: f64 = 3.0;
/// As if so much had been seen of the square of the difference between sizes, all costing the same: transactions that have all one
/// size do not tell one part from the other, and then all is taken for fixed.
const PRIOR: f64 = 1.0;

/// The line, and what it is drawn from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Transactions, the older ones counting less.
    weight: f64,
    mean_events: f64,
    mean_seconds: f64,
    /// Sum of squares of the events' distance from their mean …
    squares: f64,
    /// … and of the products with the seconds' distance from theirs.
    products: f64,
}

impl Cost {
    /// A transaction of so many events has taken so many seconds.
    pub(super) fn learn(&mut self, events: f64, seconds: f64) {
        let larger = if self.mean_events > 0.0 { (events / self.mean_events).max(1.0) } else { 1.0 };
        let most = MOST * larger * self.mean_seconds;
        let seconds = if self.weight > 0.0 { seconds.min(most) } else { seconds };
        self.weight = KEPT * self.weight + 1.0;
        let (more, longer) = (events - self.mean_events, seconds - self.mean_seconds);
        self.mean_events += more / self.weight;
        self.mean_seconds += longer / self.weight;
        // Distances from the means before and after (Welford 1962, West 1979).
        self.squares = KEPT * self.squares + more * (events - self.mean_events);
        self.products = KEPT * self.products + more * (seconds - self.mean_seconds);
    }

    /// Seconds for each event.
    fn per_event(&self) -> f64 {
        let slope = (self.products / (self.squares + PRIOR)).max(0.0);
        // The fixed part is never less than nothing.
        if self.mean_events > 0.0 { slope.min(self.mean_seconds / self.mean_events) } else { 0.0 }
    }

    /// Seconds of work that so many events are, of which `max_events` fill a batch.
    pub(super) fn work(&self, events: f64, max_events: f64) -> f64 {
        let per_event = self.per_event();
        let fixed = self.mean_seconds - per_event * self.mean_events;
        events * (per_event + fixed / max_events.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: f64 = 10_000.0;

    /// After a thousand transactions of these sizes in turn, each of so much and so much per event.
    fn learned(sizes: &[f64], fixed: f64, per_event: f64) -> Cost {
        let mut cost = Cost::default();
        for events in sizes.iter().cycle().take(1_000) {
            cost.learn(*events, fixed + per_event * events);
        }
        cost
    }

    #[test]
    fn work_is_what_events_cost_and_their_share_of_a_full_batch() {
        let cases: [(&[f64], f64, f64); 4] = [
            // Small and fast, as at a low load.
            (&[1.0, 1.0, 2.0, 1.0, 3.0], 0.002, 0.000_01),
            // Every event is slow.
            (&[1.0, 2.0, 1.0, 4.0], 0.003, 0.02),
            // Anything between little and full.
            (&[10.0, 900.0, 10_000.0, 40.0], 0.002, 0.000_01),
            (&[1.0, 2.0, 3.0], 0.0, 0.01),
        ];
        for (sizes, fixed, per_event) in cases {
            let cost = learned(sizes, fixed, per_event);
            for events in [1.0, 50.0, MAX] {
                let expected = events * (per_event + fixed / MAX);
                let work = cost.work(events, MAX);
                assert!((work / expected - 1.0).abs() < 0.01, "{sizes:?}: {work} for {expected}");
            }
        }
    }

    #[test]
    fn full_batches_are_work_for_as_long_as_they_take() {
        let work = learned(&[MAX], 0.002, 0.000_01).work(MAX, MAX);
        assert!((work / 0.102 - 1.0).abs() < 1e-6, "{work}");
    }

    #[test]
    fn single_events_alone_are_taken_for_hardly_any_work() {
        assert!(learned(&[1.0], 0.002, 0.0).work(1.0, MAX) < 1e-6);
    }

    #[test]
    fn one_that_was_held_up_hardly_counts_and_a_slower_database_does() {
        let mut cost = learned(&[1.0, 2.0, 3.0], 0.002, 0.001);
        cost.learn(1.0, 60.0);
        let work = cost.work(2.0, MAX);
        assert!((work / 0.002 - 1.0).abs() < 0.05, "{work}");
        for events in [1.0, 2.0, 3.0].iter().cycle().take(2_000) {
            cost.learn(*events, 0.02 + 0.01 * events);
        }
        let work = cost.work(2.0, MAX);
        assert!((work / 0.02 - 1.0).abs() < 0.05, "{work}");
    }
}
