//! Label values that stay bounded whatever producers send.

use std::collections::HashMap;

use prometheus::IntCounter;

use super::Metrics;
use crate::event::KNOWN_EVENT_TYPES;

/// Services with a series of their own; further ones share `other`.
const MOST_SERVICES: usize = 100;
/// What everything past the bounds is called.
const OTHER: &str = "other";

/// The label of an event type: the type itself when the product knows it.
#[must_use]
pub fn event_type_label(event_type: &str) -> &'static str {
    KNOWN_EVENT_TYPES.into_iter().find(|known| *known == event_type).unwrap_or(OTHER)
}

/// Counts records by type and service without looking labels up for each record. One per writer; the services of all
/// writers are bounded by the writers' number times the cap.
#[derive(Default)]
pub struct Labels {
    services: HashMap<String, HashMap<&'static str, IntCounter>>,
}

impl Labels {
    /// The counter of `events_processed_total` for this record.
    pub fn processed(&mut self, metrics: &Metrics, event_type: &str, service: &str) -> &IntCounter {
        let known = self.services.contains_key(service) || self.services.len() < MOST_SERVICES;
        let service = if known { service } else { OTHER };
        if !self.services.contains_key(service) {
            self.services.insert(service.to_owned(), HashMap::new());
        }
        let event_type = event_type_label(event_type);
        let counters = self.services.entry(service.to_owned()).or_default();
        counters
            .entry(event_type)
            .or_insert_with(|| metrics.processed.with_label_values(&[event_type, service]))
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
}
