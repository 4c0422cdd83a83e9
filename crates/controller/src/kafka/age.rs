//! How long the oldest event that waits has waited: what had arrived by when is remembered while something waits, and the
//! committed offset is looked up in it. Lag divided by the rate of arrivals would say the same of a steady stream only: of a dump of
//! an hour's events it says "an hour" at once.

use autoscaler::{CommittedOffset, PartitionObservation};

use super::Quiet;
use super::ends::FRESH;

/// Most points that are remembered of a partition. Those that tell least are given up, so that they span hours.
const MOST_POINTS: usize = 24;

/// Until when the log ended where.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    time: f64,
    end: i64,
}

/// What arrived when, in the partitions of one topic in which something waits.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ages {
    /// When the log ends that were read last were last known to be where they were.
    still: f64,
    partitions: Vec<(i32, Vec<Point>)>,
}

impl Ages {
    /// Nothing has arrived until now since the last reading, by log ends that were read moments ago.
    pub(crate) fn still(&mut self, now: f64) {
        self.still = self.still.max(now - FRESH.as_secs_f64());
    }

    /// Takes a reading of `now`, and tells in it the ages that are known. `before` are the log ends of the reading before.
    pub(crate) fn tell(&mut self, before: Option<&Quiet>, partitions: &mut [PartitionObservation], now: f64) {
        let mut known = std::mem::take(&mut self.partitions);
        for seen in partitions.iter_mut() {
            let kept = known.iter().position(|(partition, _)| *partition == seen.partition);
            let mut points = kept.map(|place| known.swap_remove(place).1).unwrap_or_default();
            let Some(end) = seen.log_end else {
                keep(&mut self.partitions, seen.partition, points);
                continue;
            };
            if points.is_empty() {
                // Nothing waited before: what waits now has come since then.
                let end = before.and_then(|quiet| quiet.end(seen.partition));
                points.extend(end.map(|end| Point { time: self.still, end }));
            }
            note(&mut points, Point { time: now, end });
            match position(seen) {
                Some(position) if position < end => {
                    seen.lag_seconds = age(&points, position, now).map(tenths);
                    forget(&mut points, position);
                    thin(&mut points, now);
                }
                Some(_) => points.clear(),
                None => thin(&mut points, now),
            }
            keep(&mut self.partitions, seen.partition, points);
        }
        self.partitions.shrink_to_fit();
        self.still = now;
    }
}

impl Quiet {
    fn end(&self, partition: i32) -> Option<i64> {
        self.ends.iter().find(|(number, _)| *number == partition).map(|(_, end)| *end)
    }
}

fn keep(partitions: &mut Vec<(i32, Vec<Point>)>, partition: i32, points: Vec<Point>) {
    if !points.is_empty() {
        partitions.push((partition, points));
    }
}

// Where the group goes on; `None` if that is not known.
fn position(seen: &PartitionObservation) -> Option<i64> {
    match seen.committed {
        CommittedOffset::At(offset) => Some(offset),
        CommittedOffset::Never => seen.log_start,
        CommittedOffset::Unknown => None,
    }
}

fn note(points: &mut Vec<Point>, new: Point) {
    // A clock that was put back.
    points.retain(|point| point.time < new.time);
    if points.last().is_some_and(|last| new.end < last.end) {
        // Another log: the topic was made anew.
        points.clear();
    }
    match points.as_mut_slice() {
        // When it ended there for the first time, and when it still did.
        [.., first, last] if first.end == new.end && last.end == new.end => last.time = new.time,
        _ => points.push(new),
    }
}

/// How long ago the event at `position` arrived, as far as can be told: between two points as if arrivals had been even. Of what
/// arrived before the first point nothing is told (the rate of arrivals has to do), unless that says less than is certain.
fn age(points: &[Point], position: i64, now: f64) -> Option<f64> {
    let after = points.partition_point(|point| point.end <= position);
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (Some(before), Some(after)) => {
            // Each event in the middle of the time that it would have to itself.
            let share = ((position - before.end) as f64 + 0.5) / (after.end - before.end) as f64;
            let arrived = before.time + share * (after.time - before.time);
            Some((now - arrived).max(0.0))
        }
        (None, Some(first)) => {
            let certain = now - first.time;
            let [.., older, newer] = points else { return None };
            let rate = (newer.end - older.end) as f64 / (newer.time - older.time);
            (certain > 0.0 && certain * rate > newer.end.abs_diff(position) as f64).then_some(certain)
        }
        _ => None,
    }
}

// What has been consumed is not asked about again.
fn forget(points: &mut Vec<Point>, position: i64) {
    let after = points.partition_point(|point| point.end <= position);
    points.drain(..after.saturating_sub(1));
}

/// Gives up the point without which the ages of today change least, measured by how old they are: the first and the last stay.
fn thin(points: &mut Vec<Point>, now: f64) {
    while points.len() > MOST_POINTS {
        let loss = |three: &[Point]| -> f64 {
            let [before, point, after] = three else { return f64::INFINITY };
            let share = (point.end - before.end) as f64 / ((after.end - before.end) as f64).max(1.0);
            let moved = (before.time + share * (after.time - before.time) - point.time).abs();
            // Of points that all lie on one line, those that lie closest together.
            (moved + 0.01 * (after.time - before.time)) / (now - point.time).max(1.0)
        };
        let losses = points.windows(3).map(loss).enumerate();
        let least = losses.min_by(|one, other| one.1.total_cmp(&other.1));
        points.remove(least.map_or(0, |(index, _)| index + 1));
    }
}

// As exact as it can be, and short in recordings.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Connection, Reading};
    use super::*;
    use CommittedOffset::{At, Never, Unknown};

    /// One partition, as it was read again and again.
    struct Course {
        ages: Ages,
        quiet: Option<Quiet>,
    }

    impl Course {
        fn new() -> Self {
            Self { ages: Ages::default(), quiet: None }
        }

        fn read(&mut self, now: f64, committed: CommittedOffset, log_end: Option<i64>) -> Option<f64> {
            let seen = PartitionObservation {
                partition: 0,
                log_start: Some(0),
                log_end,
                committed,
                lag_seconds: None,
            };
            let mut partitions = vec![seen];
            self.ages.tell(self.quiet.as_ref(), &mut partitions, now);
            let age = partitions[0].lag_seconds;
            let connection = Connection {
                brokers: "a:1".into(),
                topic: "t".into(),
                group: "g".into(),
                settings: BTreeMap::new(),
            };
            let reading = Reading { partition_count: 1, partitions: partitions.into(), ..Reading::default() };
            self.quiet = Quiet::new(&connection, &reading);
            age
        }

        fn points(&self) -> usize {
            self.ages.partitions.iter().map(|(_, points)| points.len()).sum()
        }
    }

    #[test]
    fn ages_are_read_between_the_points_and_never_before_the_first() {
        let points =
            [(100.0, 0), (110.0, 100), (120.0, 100), (130.0, 1_100)].map(|(time, end)| Point { time, end });
        let table = [
            (0, Some(29.95), "the first of the first hundred"),
            (50, Some(24.95), "in their middle"),
            (99, Some(20.05), "the last of them"),
            (100, Some(9.995), "nothing came for ten seconds"),
            (1_099, Some(0.005), "the last of all"),
            (1_100, None, "nothing waits"),
            (-10, Some(30.0), "from before the first point, at the pace of the last ones younger than that"),
        ];
        for (position, expected, what) in table {
            let age = age(&points, position, 130.0);
            let close = match (age, expected) {
                (Some(age), Some(expected)) => f64::abs(age - expected) < 1e-9,
                (age, expected) => age == expected,
            };
            assert!(close, "{what}: {age:?}");
        }
    }

    /// A quarter of a million events at once are seconds old, whatever the usual rate.
    #[test]
    fn a_dump_is_as_old_as_it_is() {
        let mut course = Course::new();
        let mut end = 0;
        for turn in 0..20 {
            end += 500;
            // A steady stream of a hundred per second; ten wait each time, so that it is never seen empty.
            course.read(f64::from(turn) * 5.0, At(end - 10), Some(end));
        }
        end += 250_000;
        let age = course.read(100.0, At(end - 250_000), Some(end)).unwrap();
        assert!(age <= 5.0, "{age}");
        let age = course.read(105.0, At(end - 200_000), Some(end + 500)).unwrap();
        assert!((8.0..=10.0).contains(&age), "{age}");
        assert_eq!(course.read(160.0, At(end + 500), Some(end + 500)), None);
        assert_eq!(course.points(), 0, "nothing is kept where nothing waits");
    }

    #[test]
    fn what_arrives_in_an_idle_partition_has_come_since_that_was_known() {
        let mut course = Course::new();
        course.read(0.0, At(7), Some(7));
        assert_eq!(course.points(), 0);
        course.ages.still(1_000.0);
        assert_eq!(course.read(1_004.0, At(7), Some(8)), Some(4.0));
        assert_eq!(course.read(1_009.0, At(7), Some(8)), Some(9.0));
        assert_eq!(course.read(1_014.0, At(8), Some(9)), Some(2.5), "the next one");
    }

    #[test]
    fn what_cannot_be_told_is_not_told() {
        // Readings of time, offset and end, and what is told of the last.
        type Looks = &'static [(f64, CommittedOffset, Option<i64>)];
        let table: [(&str, Looks, Option<f64>); 9] = [
            ("lag of unknown age", &[(0.0, At(0), Some(1_000))], None),
            ("it may be far older", &[(0.0, At(0), Some(1_000)), (10.0, At(0), Some(1_010))], None),
            (
                "at least as old as what was seen, though far more arrives",
                &[(0.0, At(0), Some(1_000)), (90.0, At(0), Some(1_010)), (100.0, At(0), Some(9_000))],
                Some(100.0),
            ),
            (
                "the group goes back",
                &[(0.0, At(50), Some(50)), (10.0, At(50), Some(60)), (20.0, At(10), Some(60))],
                None,
            ),
            (
                "the topic was made anew",
                &[(0.0, At(50), Some(50)), (10.0, At(50), Some(60)), (20.0, At(0), Some(5))],
                None,
            ),
            (
                "made anew, and seen empty",
                &[(0.0, At(50), Some(60)), (10.0, Never, Some(0)), (20.0, Never, Some(10))],
                Some(9.5),
            ),
            (
                "the offset was not read, but the end was",
                &[(0.0, At(0), Some(0)), (10.0, Unknown, Some(10)), (20.0, At(10), Some(20))],
                Some(9.5),
            ),
            (
                "the end was not read",
                &[
                    (0.0, At(0), Some(0)),
                    (10.0, At(0), Some(10)),
                    (20.0, At(0), None),
                    (30.0, At(5), Some(10)),
                ],
                Some(24.5),
            ),
            (
                "the clock was put back",
                &[(1_000.0, At(0), Some(0)), (1_010.0, At(0), Some(10)), (20.0, At(0), Some(10))],
                None,
            ),
        ];
        for (what, readings, expected) in table {
            let mut course = Course::new();
            let last = readings.iter().map(|(now, at, end)| course.read(*now, *at, *end)).last().flatten();
            assert_eq!(last, expected, "{what}");
        }
    }

    /// However long nobody consumes: the room is bounded, and ages stay right to a few hundredths.
    #[test]
    fn a_few_points_span_hours() {
        let (mut course, mut end, mut truth) = (Course::new(), 0_i64, vec![(0.0, 0_i64)]);
        course.read(0.0, At(0), Some(0));
        for turn in 1..=4_000_u32 {
            // Waves, with a dump every now and then, and hours without anything.
            let now = f64::from(turn) * 5.0;
            let wave = 300.0 + 250.0 * (now / 700.0).sin();
            let quiet = (2_000..2_800).contains(&turn);
            end += if quiet {
                0
            } else if turn % 900 == 0 {
                100_000
            } else {
                wave as i64
            };
            truth.push((now, end));
            course.read(now, At(0), Some(end));
            assert!(course.points() <= MOST_POINTS, "{turn}");
        }
        let now = 20_000.0;
        let points = &course.ages.partitions[0].1;
        for part in 0..200 {
            let position = end * part / 200;
            let told = age(points, position, now).unwrap();
            let true_age = now - truth[truth.partition_point(|(_, end)| *end <= position)].0;
            let off = (told - true_age).abs() / true_age.max(30.0);
            assert!(off < 0.12, "{position}: {told} instead of {true_age}");
        }
    }
}
