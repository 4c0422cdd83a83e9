//! Log ends of many topics, read together: whether anything has arrived is asked of all quiet pipelines of a cluster at once,
//! so that each of them can be asked about often.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// They are read again after this time: this much later at most is an arrival noticed.
const AGAIN: Duration = Duration::from_secs(2);
/// They are believed for so long.
pub(super) const FRESH: Duration = Duration::from_secs(4);
/// Whether a topic has been given more partitions is asked again after this time: nobody asks for the ends of those.
const GROWN: Duration = Duration::from_secs(10);
/// A topic that nobody has asked about for so long is left out.
const USED: Duration = Duration::from_secs(30);
/// Pause after an attempt that failed; meanwhile every pipeline is looked at by itself.
const PAUSE: Duration = Duration::from_secs(15);

/// Partitions with their log ends, in the order of the partitions.
type ByPartition = Vec<(i32, i64)>;

/// Log ends of the topics that somebody asks about.
#[derive(Default)]
pub(super) struct Ends {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// When they were last read.
    at: Option<Instant>,
    /// When to read them again; `None` while that is under way, and at the beginning.
    again: Option<Instant>,
    reading: bool,
    /// When to ask for the numbers of partitions again.
    count_again: Option<Instant>,
    topics: HashMap<String, Topic>,
}

struct Topic {
    partitions: Vec<i32>,
    used: Instant,
    ends: ByPartition,
    /// It has been given more partitions.
    grown: bool,
}

/// What has become of log ends that were seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// All are where they were, moments ago.
    None,
    /// One has moved.
    Some,
    /// It is not known.
    Unknown,
}

impl Ends {
    /// Compares the log ends of a topic with those that were seen before. From now on they are read together with the others'.
    pub(super) fn compare(&self, topic: &str, seen: &[(i32, i64)], now: Instant) -> Arrivals {
        let mut known = self.lock();
        let fresh = known.at.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        let same = |topic: &Topic| topic.partitions.iter().eq(seen.iter().map(|(partition, _)| partition));
        match known.topics.get_mut(topic) {
            Some(topic) if same(topic) => {
                topic.used = now;
                if topic.grown {
                    return Arrivals::Some;
                }
                match topic.ends.len() == seen.len() && fresh {
                    false => Arrivals::Unknown,
                    true if topic.ends == seen => Arrivals::None,
                    true => Arrivals::Some,
                }
            }
            _ => {
                let partitions = seen.iter().map(|(partition, _)| *partition).collect();
                let new = Topic { partitions, used: now, ends: ByPartition::new(), grown: false };
                known.topics.insert(topic.to_owned(), new);
                Arrivals::Unknown
            }
        }
    }

    /// The partitions to be read now, each at its end; `None` if there are none, or it is too early. What comes of it has to be
    /// given to [`Ends::take`].
    pub(super) fn due(&self, now: Instant) -> Option<TopicPartitionList> {
        let mut known = self.lock();
        if known.reading || known.again.is_some_and(|again| now < again) {
            return None;
        }
        known.topics.retain(|_, topic| now.saturating_duration_since(topic.used) < USED);
        let mut list = TopicPartitionList::new();
        for (name, topic) in &known.topics {
            for partition in &topic.partitions {
                // `Offset::End` is always accepted.
                let _ = list.add_partition_offset(name, *partition, Offset::End);
            }
        }
        known.reading = list.count() > 0;
        known.reading.then_some(list)
    }

    /// The topics whose partitions are to be counted now; none if it is too early.
    pub(super) fn to_be_counted(&self, now: Instant) -> Vec<String> {
        let mut known = self.lock();
        if known.topics.is_empty() || known.count_again.is_some_and(|again| now < again) {
            return Vec::new();
        }
        known.count_again = Some(now + GROWN);
        known.topics.keys().cloned().collect()
    }

    /// Takes numbers of partitions, and gives back those that are larger than they were.
    pub(super) fn take_counts(&self, counts: HashMap<String, usize>) -> Vec<(String, usize)> {
        let mut known = self.lock();
        let mut grown = counts;
        grown.retain(|name, count| {
            let topic = known.topics.get_mut(name).filter(|topic| *count > topic.partitions.len());
            topic.map(|topic| topic.grown = true).is_some()
        });
        grown.into_iter().collect()
    }

    /// Takes what was read at `now`, or `None` if that failed.
    pub(super) fn take(&self, read: Option<&TopicPartitionList>, now: Instant) {
        let mut known = self.lock();
        known.reading = false;
        known.at = read.is_some().then_some(now);
        known.again = Some(now + if read.is_some() { AGAIN } else { PAUSE });
        for topic in known.topics.values_mut() {
            topic.ends.clear();
        }
        for element in read.map(TopicPartitionList::elements).unwrap_or_default() {
            if let (Ok(()), Offset::Offset(end)) = (element.error(), element.offset())
                && let Some(topic) = known.topics.get_mut(element.topic())
            {
                topic.ends.push((element.partition(), end));
            }
        }
        for topic in known.topics.values_mut() {
            topic.ends.sort_unstable();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ends: &[(&str, i32, i64)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, partition, end) in ends {
            list.add_partition_offset(topic, *partition, Offset::Offset(*end)).unwrap();
        }
        list
    }

    #[test]
    fn one_reading_answers_for_all_topics_while_it_is_fresh() {
        let (ends, start) = (Ends::default(), Instant::now());
        assert!(ends.due(start).is_none(), "nobody has asked");
        assert_eq!(ends.compare("clicks", &[(0, 5), (1, 7)], start), Arrivals::Unknown);
        assert_eq!(ends.compare("views", &[(0, 9)], start), Arrivals::Unknown);
        assert_eq!(ends.due(start).unwrap().count(), 3);
        assert!(ends.due(start).is_none(), "it is under way");
        ends.take(Some(&read(&[("clicks", 0, 5), ("clicks", 1, 7), ("views", 0, 9)])), start);
        let table = [
            ("clicks", vec![(0, 5), (1, 7)], Arrivals::None),
            ("clicks", vec![(0, 5), (1, 6)], Arrivals::Some),
            ("views", vec![(0, 9)], Arrivals::None),
            ("new", vec![(0, 9)], Arrivals::Unknown),
        ];
        for (topic, seen, expected) in table {
            assert_eq!(ends.compare(topic, &seen, start), expected, "{topic} {seen:?}");
        }
        assert!(ends.due(start + AGAIN / 2).is_none(), "they were read just now");
        assert_eq!(ends.due(start + AGAIN).unwrap().count(), 4);
        assert_eq!(ends.compare("views", &[(0, 9)], start + FRESH), Arrivals::Unknown, "no answer for long");
    }

    /// Unknown must not pass for "nothing has arrived".
    #[test]
    fn what_was_not_read_or_not_whole_is_unknown() {
        let (ends, start) = (Ends::default(), Instant::now());
        let seen = [(0, 5), (1, 5)];
        ends.compare("clicks", &seen, start);
        ends.take(Some(&read(&[("clicks", 0, 5)])), start);
        assert_eq!(ends.compare("clicks", &seen, start), Arrivals::Unknown, "one partition is missing");
        ends.take(Some(&read(&[("clicks", 0, 5), ("clicks", 1, 5)])), start);
        assert_eq!(ends.compare("clicks", &seen, start), Arrivals::None);
        assert_eq!(ends.compare("clicks", &[(0, 5), (1, 5), (2, 0)], start), Arrivals::Unknown, "one is new");
        ends.compare("clicks", &seen, start);
        ends.take(None, start);
        assert_eq!(ends.compare("clicks", &seen, start), Arrivals::Unknown, "the request failed");
        assert!(ends.due(start + AGAIN).is_none(), "nobody tries at once");
        assert!(ends.due(start + PAUSE).is_some());
    }

    /// Records of a partition that nobody knows of wake nobody.
    #[test]
    fn a_topic_with_more_partitions_than_it_had_is_news() {
        let (ends, start) = (Ends::default(), Instant::now());
        assert_eq!(ends.to_be_counted(start), [""; 0]);
        ends.compare("clicks", &[(0, 5)], start);
        ends.compare("views", &[(0, 5)], start);
        let mut asked = ends.to_be_counted(start);
        asked.sort();
        assert_eq!(asked, ["clicks", "views"]);
        assert_eq!(ends.to_be_counted(start + GROWN / 2), [""; 0], "that was asked just now");
        assert_eq!(ends.to_be_counted(start + GROWN).len(), 2);
        let counts = [("clicks".to_owned(), 2), ("views".to_owned(), 1), ("other".to_owned(), 9)];
        assert_eq!(ends.take_counts(counts.into()), [("clicks".to_owned(), 2)]);
        ends.take(Some(&read(&[("clicks", 0, 5), ("views", 0, 5)])), start);
        assert_eq!(ends.compare("clicks", &[(0, 5)], start), Arrivals::Some);
        assert_eq!(ends.compare("views", &[(0, 5)], start), Arrivals::None);
        ends.compare("clicks", &[(0, 5), (1, 0)], start);
        ends.take(Some(&read(&[("clicks", 0, 5), ("clicks", 1, 0)])), start);
        assert_eq!(ends.compare("clicks", &[(0, 5), (1, 0)], start), Arrivals::None, "it is looked at whole");
    }

    #[test]
    fn topics_that_nobody_asks_about_are_left_out() {
        let (ends, start) = (Ends::default(), Instant::now());
        ends.compare("clicks", &[(0, 1), (1, 1)], start);
        ends.compare("views", &[(0, 1)], start + USED / 2);
        assert_eq!(ends.due(start + USED).unwrap().count(), 1);
    }
}
