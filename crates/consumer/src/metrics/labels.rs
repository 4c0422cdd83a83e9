//! Label values that stay bounded whatever producers send.

use std::collections::HashMap;

use prometheus::IntCounter;

use super::Metrics;
use crate::dead_letter::DeadLetter;
use crate::event::{KNOWN_EVENT_TYPES, event_type_of};

/// Services with a series of their own; further ones share `other`.
const MOST_SERVICES: usize = 100;
/// What everything past the bounds is called.
const OTHER: &str = "other";
/// What an event type is called that cannot be read.
pub(super) const UNKNOWN: &str = "unknown";

/// Every label of an event type that was read.
pub(super) const EVENT_TYPES: [&str; KNOWN_EVENT_TYPES.len() + 1] = {
    let mut labels = [OTHER; KNOWN_EVENT_TYPES.len() + 1];
    let mut position = 0;
    while position < KNOWN_EVENT_TYPES.len() {
        labels[position] = KNOWN_EVENT_TYPES[position];
        position += 1;
    }
    labels
};

/// The label of an event type: the type itself when the product knows it.
#[must_use]
pub fn event_type_label(event_type: &str) -> &'static str {
    label_at(position(event_type))
}

/// The label of a dead letter's event type. Its record is read once more for it: dead letters are few.
pub(super) fn letter_type_label(letter: &DeadLetter) -> &'static str {
    let payload = letter.payload.as_deref().filter(|_| letter.reason.leaves_a_type());
    payload.and_then(event_type_of).map_or(UNKNOWN, |event_type| event_type_label(&event_type))
}

/// Where an event type has its place among the labels; all that the product does not know share the last one.
fn position(event_type: &str) -> usize {
    KNOWN_EVENT_TYPES.iter().position(|known| *known == event_type).unwrap_or(KNOWN_EVENT_TYPES.len())
}

fn label_at(position: usize) -> &'static str {
    EVENT_TYPES.get(position).copied().unwrap_or(OTHER)
}

/// One counter for each label of an event type, made when it is needed first.
type Counters = [Option<IntCounter>; KNOWN_EVENT_TYPES.len() + 1];

/// Counts records by type and service, for each record without looking labels up and without allocating. One per
/// writer; the services of all writers are bounded by the writers' number times the cap.
#[derive(Default)]
pub struct Labels {
    services: HashMap<String, Counters>,
    others: Counters,
}

impl Labels {
    /// The counter of `events_processed_total` for this record.
    pub fn processed(&mut self, metrics: &Metrics, event_type: &str, service: &str) -> &IntCounter {
        if !self.services.contains_key(service) && self.services.len() < MOST_SERVICES {
            self.services.insert(service.to_owned(), Counters::default());
        }
        let (service, counters) = match self.services.get_mut(service) {
            Some(counters) => (service, counters),
            None => (OTHER, &mut self.others),
        };
        let position = position(event_type);
        counters[position]
            .get_or_insert_with(|| metrics.processed.with_label_values(&[label_at(position), service]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Registry;

    #[test]
    fn ten_thousand_services_and_types_make_few_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry, "t").expect("fresh registry");
        let mut labels = Labels::default();
        for n in 0..10_000 {
            labels.processed(&metrics, &format!("type_{n}"), &format!("service-{n}")).inc();
        }
        labels.processed(&metrics, "user_login", "service-1").inc();
        let families = registry.gather();
        let family =
            families.iter().find(|family| family.name() == "events_processed_total").expect("registered");
        assert_eq!(family.get_metric().len(), MOST_SERVICES + 2);
    }

    #[test]
    fn a_dead_letter_counts_under_its_event_type_where_that_can_be_read() {
        use crate::dead_letter::Reason;

        for (reason, payload, label) in [
            (Reason::MissingField, Some(&br#"{"event_type":"user_login"}"#[..]), "user_login"),
            (
                Reason::RefusedByDatabase,
                Some(br#"{"data":{},"event_type":"user\u005fsearch"}"#),
                "user_search",
            ),
            (Reason::InvalidTimestamp, Some(br#"{"event_type":"something_new"}"#), "other"),
            (Reason::InvalidField, Some(br#"{"event_type":7}"#), "unknown"),
            (Reason::MissingField, Some(b"{}"), "unknown"),
            (Reason::InvalidField, Some(b"[1]"), "unknown"),
            (Reason::InvalidJson, Some(br#"{"event_type":"user_login","#), "unknown"),
            (Reason::TooLarge, Some(br#"{"event_type":"user_login"}"#), "unknown"),
            (Reason::Tombstone, None, "unknown"),
        ] {
            let letter = DeadLetter {
                partition: 0,
                offset: 0,
                reason,
                detail: String::new(),
                key: None,
                payload: payload.map(<[u8]>::to_vec),
                headers: Vec::new(),
                timestamp_millis: None,
                delivered: false,
            };
            assert_eq!(letter_type_label(&letter), label, "{reason:?} {payload:?}");
        }
    }
}
