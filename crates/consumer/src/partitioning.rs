//! Which partitions the events table has: a pure decision from the policy, the time and the partitions that are there.
//!
//! An event key begins with the event's time in milliseconds, so a span of time is a range of keys. The table is
//! partitioned by the key itself, and the unique index on it works partition by partition: equal keys meet in one.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, Utc};
use uuid::Uuid;

/// How much time one partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// A day.
    Day,
    /// A week, from Monday on (ISO 8601).
    Week,
    /// A calendar month.
    Month,
}

/// How the events table is partitioned. All times are UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How much time one partition holds.
    pub interval: Interval,
    /// Days after which a partition whose last moment has passed is dropped; `None` keeps all.
    pub retain_days: Option<u32>,
    /// How many partitions are made before the one of the present.
    pub ahead: u32,
}

/// More partitions than this are not made on demand: clocks that are wrong in all directions must not fill the catalogue.
pub const MOST_PARTITIONS: usize = 1000;

/// A range of event times in milliseconds since 1970, with its first and without its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first millisecond.
    pub begin: u64,
    /// The first millisecond after it.
    pub end: u64,
}

impl Range {
    /// Whether a moment lies in it.
    #[must_use]
    pub fn contains(self, millis: u64) -> bool {
        (self.begin..self.end).contains(&millis)
    }

    fn overlaps(self, other: Self) -> bool {
        self.begin < other.end && other.begin < self.end
    }
}

/// A partition that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The name of its table.
    pub name: String,
    /// What it holds; `None` for the default partition, which holds what no other does.
    pub range: Option<Range>,
}

/// The event time of a key in milliseconds since 1970.
#[must_use]
pub fn time_of(key: &[u8; 16]) -> u64 {
    key[..6].iter().fold(0, |time, byte| time << 8 | u64::from(*byte))
}

/// The smallest key of a moment, in milliseconds since 1970.
#[must_use]
pub fn key_at(millis: u64) -> Uuid {
    Uuid::from_u128(u128::from(millis.min((1 << 48) - 1)) << 80)
}

/// Reads a partition's bounds as PostgreSQL prints them: `DEFAULT` or `FOR VALUES FROM ('…') TO ('…')`. What is bounded in
/// another way counts as holding nothing.
#[must_use]
pub fn parse_bounds(text: &str) -> Option<Range> {
    let mut keys = text.split('\'').skip(1).step_by(2).map(Uuid::parse_str);
    let (Some(Ok(begin)), Some(Ok(end))) = (keys.next(), keys.next()) else { return None };
    // A bound within a millisecond cannot be ours; rounding it up keeps ranges apart.
    let time = |key: Uuid| time_of(key.as_bytes()) + u64::from(key.as_u128() << 48 != 0);
    Some(Range { begin: time(begin), end: time(end) })
}

impl Interval {
    /// The word by which PostgreSQL's `date_trunc` knows it.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    fn begin(self, day: NaiveDate) -> NaiveDate {
        match self {
            Self::Day => day,
            Self::Week => day - Days::new(u64::from(day.weekday().num_days_from_monday())),
            Self::Month => day - Days::new(u64::from(day.day0())),
        }
    }

    fn next(self, begin: NaiveDate) -> Option<NaiveDate> {
        match self {
            Self::Day => begin.checked_add_days(Days::new(1)),
            Self::Week => begin.checked_add_days(Days::new(7)),
            Self::Month => begin.checked_add_months(Months::new(1)),
        }
    }

    /// The range that holds a moment; `None` where time ends.
    #[must_use]
    pub fn range_at(self, millis: u64) -> Option<Range> {
        let day = DateTime::from_timestamp_millis(i64::try_from(millis).ok()?)?.date_naive();
        let begin = self.begin(day);
        let at =
            |day: NaiveDate| u64::try_from(day.and_time(NaiveTime::MIN).and_utc().timestamp_millis()).ok();
        // A week may begin before 1970, a key cannot.
        Some(Range { begin: at(begin).unwrap_or(0), end: at(self.next(begin)?)? })
    }

    /// What the partition of a range is called behind the table's name: `p20241109`, or `p202411` for a month.
    #[must_use]
    pub fn suffix(self, range: Range) -> String {
        let day =
            i64::try_from(range.begin).ok().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
        let format = if self == Self::Month { "p%Y%m" } else { "p%Y%m%d" };
        day.format(format).to_string()
    }
}

impl Policy {
    /// The first moment that is kept.
    #[must_use]
    pub fn keeps_from(&self, now: DateTime<Utc>) -> Option<u64> {
        let day = now.checked_sub_days(Days::new(u64::from(self.retain_days?)))?;
        Some(u64::try_from(day.timestamp_millis()).unwrap_or(0))
    }

    /// The present range and those after it that are made ahead of need.
    fn ahead_of(&self, now: DateTime<Utc>) -> Vec<Range> {
        let mut ranges = Vec::new();
        let mut at = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        for _ in 0..=self.ahead {
            let Some(range) = self.interval.range_at(at) else { break };
            at = range.end;
            ranges.push(range);
        }
        ranges
    }

    /// Ranges that are to be made for `times` (milliseconds since 1970) and for what comes soon, where no partition is
    /// yet: none that is over by the policy, none too far ahead, none that would overlap another, not too many.
    #[must_use]
    pub fn missing(
        &self,
        now: DateTime<Utc>,
        times: impl Iterator<Item = u64>,
        there: &[Partition],
    ) -> Vec<Range> {
        let soon = self.ahead_of(now);
        let last = soon.last().map_or(0, |range| range.end);
        let kept = self.keeps_from(now).unwrap_or(0);
        let mut ranges: Vec<Range> = times
            .filter(|time| *time < last)
            .filter_map(|time| self.interval.range_at(time))
            .filter(|range| range.end > kept)
            .chain(soon)
            .collect();
        ranges.sort_unstable();
        ranges.dedup();
        let free = |range: &Range| {
            !there.iter().filter_map(|partition| partition.range).any(|other| other.overlaps(*range))
        };
        ranges.retain(free);
        ranges.truncate(MOST_PARTITIONS.saturating_sub(there.len()));
        ranges
    }

    /// Names of partitions of which every moment is over by the policy.
    #[must_use]
    pub fn expired<'a>(&self, now: DateTime<Utc>, there: &'a [Partition]) -> Vec<&'a str> {
        let Some(kept) = self.keeps_from(now) else { return Vec::new() };
        let is_over = |partition: &&Partition| partition.range.is_some_and(|range| range.end <= kept);
        there.iter().filter(is_over).map(|partition| partition.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn millis(text: &str) -> u64 {
        u64::try_from(at(text).timestamp_millis()).expect("after 1970")
    }

    fn range(begin: &str, end: &str) -> Range {
        Range { begin: millis(&format!("{begin}T00:00:00Z")), end: millis(&format!("{end}T00:00:00Z")) }
    }

    fn partition(name: &str, range: Option<Range>) -> Partition {
        Partition { name: name.to_owned(), range }
    }

    #[test]
    fn a_moment_lies_in_the_day_the_iso_week_and_the_month_of_the_calendar() {
        let table = [
            (Interval::Day, "2024-11-09T23:59:59.999Z", "2024-11-09", "2024-11-10", "p20241109"),
            (Interval::Day, "2024-02-29T00:00:00Z", "2024-02-29", "2024-03-01", "p20240229"),
            (Interval::Week, "2024-11-10T10:00:00Z", "2024-11-04", "2024-11-11", "p20241104"),
            (Interval::Week, "2025-01-01T00:00:00Z", "2024-12-30", "2025-01-06", "p20241230"),
            (Interval::Month, "2024-12-31T23:00:00Z", "2024-12-01", "2025-01-01", "p202412"),
        ];
        for (interval, moment, begin, end, suffix) in table {
            let found = interval.range_at(millis(moment)).expect("in time");
            assert_eq!(found, range(begin, end), "{interval:?} {moment}");
            assert_eq!(interval.suffix(found), suffix);
        }
        // 1970 began on a Thursday.
        assert_eq!(Interval::Week.range_at(5).map(|range| range.begin), Some(0));
        assert!(Interval::Day.range_at(u64::MAX).is_none());
    }

    #[test]
    fn keys_and_bounds_are_two_ways_to_say_a_time() {
        let time = millis("2024-11-09T00:00:00Z");
        let key = key_at(time);
        assert_eq!(time_of(key.as_bytes()), time);
        let bounds = format!("FOR VALUES FROM ('{key}') TO ('{}')", key_at(time + 5));
        assert_eq!(parse_bounds(&bounds), Some(Range { begin: time, end: time + 5 }));
        let odd =
            format!("FOR VALUES FROM ('{}') TO ('{}')", Uuid::from_u128(key.as_u128() + 1), key_at(time + 5));
        assert_eq!(parse_bounds(&odd).map(|range| range.begin), Some(time + 1));
        for other in
            ["DEFAULT", "FOR VALUES FROM (MINVALUE) TO ('0192fae5-8c00-0000-0000-000000000000')", "", "'"]
        {
            assert_eq!(parse_bounds(other), None, "{other}");
        }
    }

    const DAILY: Policy = Policy { interval: Interval::Day, retain_days: Some(7), ahead: 2 };

    #[test]
    fn partitions_are_made_for_the_present_ahead_of_need_and_where_events_are() {
        let now = at("2024-11-09T12:00:00Z");
        let soon = [("2024-11-09", "2024-11-10"), ("2024-11-10", "2024-11-11"), ("2024-11-11", "2024-11-12")];
        let soon: Vec<Range> = soon.iter().map(|(begin, end)| range(begin, end)).collect();
        let missing = |times: &[&str], there: &[Partition]| {
            DAILY.missing(now, times.iter().map(|time| millis(time)), there)
        };
        assert_eq!(missing(&[], &[]), soon);
        assert_eq!(missing(&["2024-11-10T01:00:00Z"], &[]), soon, "ahead of need already");
        let there: Vec<_> = soon.iter().map(|range| partition("x", Some(*range))).collect();
        assert!(missing(&["2024-11-10T01:00:00Z"], &there).is_empty());
        // Late ones, twice the same day; one that is over; one of the far future.
        let times =
            ["2024-11-05T01:00:00Z", "2024-11-05T02:00:00Z", "2024-10-01T00:00:00Z", "2031-01-01T00:00:00Z"];
        assert_eq!(missing(&times, &there), [range("2024-11-05", "2024-11-06")]);
        // A partition of another interval stands in the way of those that it overlaps, and of no others.
        let month = [partition("november", Some(range("2024-11-01", "2024-11-11"))), partition("rest", None)];
        assert_eq!(missing(&times, &month), [range("2024-11-11", "2024-11-12")]);
    }

    #[test]
    fn wrong_clocks_cannot_fill_the_catalogue() {
        let policy = Policy { retain_days: None, ..DAILY };
        let days = (0..5000).map(|day| day * 86_400_000);
        let now = at("2024-11-09T12:00:00Z");
        assert_eq!(policy.missing(now, days.clone(), &[]).len(), MOST_PARTITIONS);
        let full: Vec<_> = (0..MOST_PARTITIONS).map(|_| partition("x", None)).collect();
        assert!(policy.missing(now, days, &full).is_empty());
    }

    #[test]
    fn a_partition_expires_when_its_last_moment_does() {
        let there = [
            partition("old", Some(range("2024-11-01", "2024-11-02"))),
            partition("just", Some(range("2024-11-02", "2024-11-03"))),
            partition("new", Some(range("2024-11-09", "2024-11-10"))),
            partition("rest", None),
        ];
        assert_eq!(DAILY.expired(at("2024-11-09T23:00:00Z"), &there), ["old"]);
        assert_eq!(DAILY.expired(at("2024-11-10T00:00:00Z"), &there), ["old", "just"]);
        let forever = Policy { retain_days: None, ..DAILY };
        assert!(forever.expired(at("2034-11-09T23:00:00Z"), &there).is_empty());
    }
}
