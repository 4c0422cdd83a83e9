//! Events as a fleet of services would send them: seven types, few busy users and many quiet ones, some sent twice,
//! some broken. The same seed gives the same bytes, and it is known exactly what was made.
//!
//! Making records is pure (no clock, no I/O); [`produce`] sends them to Kafka, [`topic`] makes the place for them.

mod counts;
mod event;
mod malformed;
pub mod produce;
pub mod topic;

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

pub use counts::Counts;
pub use event::EVENT_TYPES;
pub use malformed::Malformation;

/// How many of the latest events a duplicate is chosen from. Producers repeat what they sent a moment ago, not last
/// week; it also bounds the memory.
const REPEATABLE: usize = 10_000;

/// What kind of traffic to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides every byte, together with the times given to [`Generator::next_record`].
    pub seed: u64,
    /// Partitions of the topic; a user's events all go to one.
    pub partitions: i32,
    /// Distinct users.
    pub users: usize,
    /// How much busier some users are than others: the exponent of Zipf's law. With 1 a few are very busy, and their partitions
    /// with them; with 0 all are alike.
    pub exponent: f64,
    /// Events are dated evenly over this long before the moment given; zero dates them at that moment.
    pub spread: Duration,
    /// Share of records that repeat an earlier one byte for byte, 0 to 1.
    pub duplicates: f64,
    /// Share of records that no consumer can store, 0 to 1.
    pub malformed: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            partitions: 8,
            users: 10_000,
            exponent: 1.0,
            spread: Duration::from_secs(24 * 3600),
            duplicates: 0.02,
            malformed: 0.005,
        }
    }
}

impl Options {
    /// Says what is wrong with them, if anything.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.partitions > 0, "partitions must be at least 1, not {}", self.partitions);
        anyhow::ensure!(self.users > 0, "users must be at least 1");
        anyhow::ensure!(
            self.exponent.is_finite() && self.exponent >= 0.0,
            "exponent must be 0 or more, not {}",
            self.exponent
        );
        for (name, share) in [("duplicates", self.duplicates), ("malformed", self.malformed)] {
            anyhow::ensure!((0.0..=1.0).contains(&share), "{name} is a share from 0 to 1, not {share}");
        }
        let sum = self.duplicates + self.malformed;
        anyhow::ensure!(
            sum < 1.0,
            "duplicates and malformed add up to {sum}: nothing is left for good events"
        );
        Ok(())
    }
}

/// What a record is, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event that was not there before.
    Distinct,
    /// The same bytes as an earlier event.
    Duplicate,
    /// Something that cannot be stored.
    Malformed(Malformation),
}

/// One record for Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Where it goes.
    pub partition: i32,
    /// The user's id as text.
    pub key: Vec<u8>,
    /// The JSON, or something that should have been; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
}

/// Makes records without end and counts them.
#[derive(Debug)]
pub struct Generator {
    options: Options,
    random: ChaCha8Rng,
    events: event::Events,
    /// The latest distinct events, oldest first.
    repeatable: VecDeque<Record>,
    counts: Counts,
}

impl Generator {
    /// # Errors
    /// When the options contradict themselves, see [`Options::check`].
    pub fn new(options: Options) -> anyhow::Result<Self> {
        options.check()?;
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        let events = event::Events::new(&mut random, options.seed, options.users, options.exponent)?;
        Ok(Self { options, random, events, repeatable: VecDeque::new(), counts: Counts::default() })
    }

    /// What was made so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The next record; `now` is the moment that events are dated back from.
    pub fn next_record(&mut self, now: DateTime<Utc>) -> Record {
        let record = self.choose(now);
        self.counts.add(&record);
        record
    }

    fn choose(&mut self, now: DateTime<Utc>) -> Record {
        let lot: f64 = self.random.random();
        if lot < self.options.malformed {
            return self.malformed(now);
        }
        if lot < self.options.malformed + self.options.duplicates && !self.repeatable.is_empty() {
            let index = self.random.random_range(0..self.repeatable.len());
            return Record { kind: Kind::Duplicate, ..self.repeatable[index].clone() };
        }
        let record = self.distinct(now);
        if self.options.duplicates > 0.0 {
            if self.repeatable.len() == REPEATABLE {
                self.repeatable.pop_front();
            }
            self.repeatable.push_back(record.clone());
        }
        record
    }

    fn distinct(&mut self, now: DateTime<Utc>) -> Record {
        let at = self.moment(now);
        let event = self.events.next(&mut self.random, at);
        let partition = self.partition_of(event.user_id);
        Record {
            kind: Kind::Distinct,
            partition,
            key: event.user_id.to_string().into_bytes(),
            payload: Some(event.to_json().into_bytes()),
        }
    }

    fn malformed(&mut self, now: DateTime<Utc>) -> Record {
        let at = self.moment(now);
        let event = self.events.next(&mut self.random, at);
        let partition = self.partition_of(event.user_id);
        // In turn rather than by lot, so that every kind occurs in a small run too.
        let turn = self.counts.malformed_total() as usize;
        let malformation = Malformation::ALL[turn % Malformation::ALL.len()];
        Record {
            kind: Kind::Malformed(malformation),
            partition,
            key: event.user_id.to_string().into_bytes(),
            payload: malformation.payload(&event, turn),
        }
    }

    fn moment(&mut self, now: DateTime<Utc>) -> DateTime<Utc> {
        let spread = i64::try_from(self.options.spread.as_millis()).unwrap_or(i64::MAX);
        let back = if spread == 0 { 0 } else { self.random.random_range(0..=spread) };
        chrono::TimeDelta::try_milliseconds(back).and_then(|back| now.checked_sub_signed(back)).unwrap_or(now)
    }

    fn partition_of(&self, user: Uuid) -> i32 {
        // Positive and below `partitions`, so it fits again.
        (user.as_u128() % self.options.partitions.unsigned_abs() as u128) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    fn now() -> DateTime<Utc> {
        "2024-11-09T10:30:00Z".parse().unwrap()
    }

    fn records(options: Options, count: usize) -> (Vec<Record>, Counts) {
        let mut generator = Generator::new(options).unwrap();
        let records = (0..count).map(|_| generator.next_record(now())).collect();
        (records, generator.counts().clone())
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_one_does_not() {
        let options = Options { malformed: 0.1, duplicates: 0.1, ..Options::default() };
        let (first, _) = records(options.clone(), 2_000);
        let (second, _) = records(options.clone(), 2_000);
        assert_eq!(first, second);
        let (other, _) = records(Options { seed: 2, ..options }, 2_000);
        assert_ne!(first, other);
    }

    #[test]
    fn the_counts_are_what_a_count_of_the_records_says() {
        let options = Options { malformed: 0.05, duplicates: 0.1, ..Options::default() };
        let (records, counts) = records(options, 20_000);
        let good = |record: &&Record| !matches!(record.kind, Kind::Malformed(_));
        let distinct: HashSet<_> = records.iter().filter(good).map(|record| &record.payload).collect();
        let duplicates = records.iter().filter(|record| record.kind == Kind::Duplicate).count();
        assert_eq!(counts.distinct, distinct.len() as u64);
        assert_eq!(counts.duplicates, duplicates as u64);
        assert_eq!(counts.produced(), 20_000);
        assert_eq!(counts.distinct + counts.duplicates + counts.malformed_total(), counts.produced());
        let per_partition: u64 = counts.partitions.values().sum();
        assert_eq!(per_partition, counts.produced());
    }

    #[test]
    fn the_shares_are_about_what_was_asked_for() {
        let options = Options { malformed: 0.05, duplicates: 0.1, ..Options::default() };
        let (_, counts) = records(options, 20_000);
        assert!((1_800..2_200).contains(&counts.duplicates), "{counts:?}");
        assert!((900..1_100).contains(&counts.malformed_total()), "{counts:?}");
    }

    #[test]
    fn every_type_and_every_malformation_occurs_with_its_like_share() {
        let (records, counts) = records(Options { malformed: 0.05, ..Options::default() }, 5_000);
        assert_eq!(counts.malformed.len(), Malformation::ALL.len());
        let mut types: BTreeMap<String, u64> = BTreeMap::new();
        for record in records.iter().filter(|record| record.kind == Kind::Distinct) {
            let event: serde_json::Value = serde_json::from_slice(record.payload.as_ref().unwrap()).unwrap();
            *types.entry(event["event_type"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert_eq!(types.len(), EVENT_TYPES.len());
        assert!(types["profile_viewed"] > types["user_deactivated"]);
    }

    #[test]
    fn a_user_has_one_partition_and_a_few_users_have_most_events() {
        let (records, counts) =
            records(Options { malformed: 0.0, duplicates: 0.0, ..Options::default() }, 20_000);
        let mut users: BTreeMap<&[u8], (i32, u64)> = BTreeMap::new();
        for record in &records {
            let user = users.entry(&record.key).or_insert((record.partition, 0));
            assert_eq!(user.0, record.partition);
            user.1 += 1;
        }
        assert_eq!(counts.partitions.len(), 8);
        let mut events: Vec<u64> = users.values().map(|user| user.1).collect();
        events.sort_unstable_by(|a, b| b.cmp(a));
        let busiest: u64 = events.iter().take(events.len() / 10).sum();
        assert!(busiest > 10_000, "the busiest tenth of the users have {busiest} of 20000 events");
    }

    #[test]
    fn payloads_have_about_250_bytes() {
        let (records, _) = records(Options { malformed: 0.0, ..Options::default() }, 5_000);
        let bytes: usize = records.iter().map(|record| record.payload.as_ref().unwrap().len()).sum();
        let mean = bytes / records.len();
        assert!((230..=270).contains(&mean), "{mean}");
    }

    #[test]
    fn events_are_dated_inside_the_spread() {
        for spread in [Duration::ZERO, Duration::from_secs(3600)] {
            let (records, _) = records(Options { malformed: 0.0, spread, ..Options::default() }, 500);
            for record in &records {
                let event: serde_json::Value =
                    serde_json::from_slice(record.payload.as_ref().unwrap()).unwrap();
                let at: DateTime<Utc> = event["timestamp"].as_str().unwrap().parse().unwrap();
                assert!(at <= now() && at >= now() - spread, "{at}");
            }
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let good = Options::default();
        let bad = [
            Options { partitions: 0, ..good.clone() },
            Options { users: 0, ..good.clone() },
            Options { exponent: f64::NAN, ..good.clone() },
            Options { duplicates: -0.1, ..good.clone() },
            Options { malformed: f64::NAN, ..good.clone() },
            Options { malformed: 0.6, duplicates: 0.5, ..good },
        ];
        for options in bad {
            assert!(Generator::new(options.clone()).is_err(), "{options:?}");
        }
    }
}
