//! Series that are there from the beginning, at zero. One that is born with its first event has no growth to show, and
//! `increase` and `rate` miss exactly the event that somebody waits for.

use super::labels::{EVENT_TYPES, UNKNOWN};
use super::{Metrics, SKIPPED};
use crate::dead_letter::Reason;

impl Metrics {
    /// Makes every series whose labels come from a fixed set.
    pub(super) fn begin_at_zero(&self) {
        for event_type in EVENT_TYPES {
            self.stored.with_label_values(&[event_type]);
        }
        for reason in Reason::ALL {
            self.dead_letters.with_label_values(&[reason.as_str()]);
            self.errors.with_label_values(&[UNKNOWN, reason.as_str()]);
            for event_type in EVENT_TYPES.iter().filter(|_| reason.leaves_a_type()) {
                self.errors.with_label_values(&[*event_type, reason.as_str()]);
            }
        }
        for outcome in ["committed", "fenced", "failed"] {
            self.transactions.with_label_values(&[outcome]);
        }
        for kind in ["assigned", "revoked"] {
            self.rebalances.with_label_values(&[kind]);
        }
        for action in ["fail", "earliest", "latest"] {
            self.offset_gaps.with_label_values(&[action]);
        }
        for fault in ["transient", "resources", "configuration"] {
            self.database_errors.with_label_values(&[fault]);
        }
        for whom in ["kafka", "database"] {
            self.waited.with_label_values(&[whom]);
        }
        self.skipped.with_label_values(&[SKIPPED]);
        self.assigned.with_label_values(&[self.topic.as_str()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;

    #[test]
    fn what_has_fixed_labels_is_there_before_anything_happens() {
        let registry = Registry::new();
        let _metrics = Metrics::new(&registry, "t").expect("fresh registry");
        let families = registry.gather();
        let series = |name: &str| {
            let family = families.iter().find(|family| family.name() == name);
            family.map_or(0, |family| family.get_metric().len())
        };
        for (name, expected) in [
            ("events_stored_total", 8),
            ("dead_letters_total", Reason::ALL.len()),
            ("transaction_seconds", 3),
            ("rebalances_total", 2),
            ("offset_gaps_total", 3),
            ("offsets_lost_total", 1),
            ("offsets_passed_over_total", 1),
            ("records_skipped_total", 1),
            ("database_errors_total", 3),
            ("consumer_waiting_seconds_total", 2),
            ("partitions_assigned", 1),
            // Nobody has asked the server yet, and 0 would be a number.
            ("database_connections", 0),
            ("database_connections_limit", 0),
        ] {
            assert_eq!(series(name), expected, "{name}");
        }
        let typed = Reason::ALL.iter().filter(|reason| reason.leaves_a_type()).count();
        assert_eq!(series("processing_errors_total"), Reason::ALL.len() + 8 * typed);
    }
}
