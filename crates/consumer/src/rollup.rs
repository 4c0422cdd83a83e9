//! Counting the rows that a transaction stored, by hour: pure, so that what the rollups say is a matter of tables of
//! cases.
//!
//! Only rows that are really new in the table are counted, and the counts go into the transaction that stores them.
//! That is why rollups equal the table, whatever is sent twice and whoever dies in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::batch::{Batch, Row};

const HOUR_MICROS: i64 = 3_600_000_000;

/// How many rows of one type and service were stored for one hour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// The hour of the events' own time, in hours since 1970-01-01 UTC.
    pub hour: i64,
    /// Their type.
    pub event_type: String,
    /// Their service.
    pub service: String,
    /// How many.
    pub events: u64,
}

/// The hour of a moment: both in UTC since 1970-01-01, the moment in microseconds.
#[must_use]
pub fn hour_of(micros: i64) -> i64 {
    micros.div_euclid(HOUR_MICROS)
}

/// The moment at which an hour begins.
#[must_use]
pub fn begin_of(hour: i64) -> DateTime<Utc> {
    // Every hour comes from an event's time, which is inside of what chrono can hold.
    DateTime::from_timestamp_micros(hour.saturating_mul(HOUR_MICROS)).unwrap_or_default()
}

/// Counts the rows, sorted by hour, type and service.
#[must_use]
pub fn count(batch: &Batch, rows: &[&Row]) -> Vec<Count> {
    count_parts(rows.iter().map(|row| (row.timestamp_micros, batch.event_type(row), batch.service(row))))
}

fn count_parts<'a>(parts: impl Iterator<Item = (i64, &'a str, &'a str)>) -> Vec<Count> {
    let mut cells: HashMap<(i64, &str, &str), u64> = HashMap::new();
    for (micros, event_type, service) in parts {
        *cells.entry((hour_of(micros), event_type, service)).or_default() += 1;
    }
    let mut counts: Vec<Count> = cells
        .into_iter()
        .map(|((hour, event_type, service), events)| Count {
            hour,
            event_type: event_type.to_owned(),
            service: service.to_owned(),
            events,
        })
        .collect();
    counts.sort_unstable();
    counts
}

/// Sums the counts by event type.
#[must_use]
pub fn by_event_type(counts: &[Count]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for count in counts {
        *sums.entry(count.event_type.clone()).or_default() += count.events;
    }
    sums
}

/// Which users were seen in which hour, each pair once, sorted: everybody who writes pairs writes them in this order,
/// so that two transactions never wait for each other in a circle.
#[must_use]
pub fn user_hours(rows: &[&Row]) -> BTreeSet<(i64, Uuid)> {
    rows.iter().map(|row| (hour_of(row.timestamp_micros), Uuid::from_bytes(row.user_id))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_begins_at_its_first_microsecond_before_1970_too() {
        for (micros, hour) in [
            (0, 0),
            (HOUR_MICROS - 1, 0),
            (HOUR_MICROS, 1),
            (-1, -1),
            (-HOUR_MICROS, -1),
            (-HOUR_MICROS - 1, -2),
            (1_731_148_200_123_456, 480_874),
        ] {
            assert_eq!(hour_of(micros), hour, "{micros}");
            assert!((0..HOUR_MICROS).contains(&(micros - begin_of(hour).timestamp_micros())), "{micros}");
        }
    }

    #[test]
    fn rows_are_counted_by_hour_type_and_service() {
        let parts = [
            (HOUR_MICROS, "login", "web"),
            (5, "login", "web"),
            (7, "login", "web"),
            (5, "login", "app"),
            (5, "search", "web"),
        ];
        let count = |hour, event_type: &str, service: &str, events| Count {
            hour,
            event_type: event_type.to_owned(),
            service: service.to_owned(),
            events,
        };
        let counts = count_parts(parts.into_iter());
        let expected = [
            count(0, "login", "app", 1),
            count(0, "login", "web", 2),
            count(0, "search", "web", 1),
            count(1, "login", "web", 1),
        ];
        assert_eq!(counts, expected);
        let sums = BTreeMap::from([("login".to_owned(), 4), ("search".to_owned(), 1)]);
        assert_eq!(by_event_type(&counts), sums);
        assert!(count_parts(std::iter::empty()).is_empty());
    }
}
