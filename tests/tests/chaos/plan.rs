//! How a run is set up: drawn from its seed, so that over many runs the product's choices meet each other.

use std::fmt;

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use testbed::ConsumerOptions;

/// Runs of at least so many seconds have several brokers, so that they meet every fault.
const LONG_SECONDS: u64 = 300;

/// The setup of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seconds: u64,
    pub(crate) brokers: u16,
    pub(crate) partitions: i32,
    /// Dead letters go to a topic instead of a table.
    pub(crate) letters_in_topic: bool,
    /// The events table is partitioned by day.
    pub(crate) by_day: bool,
    /// The group is led by the broker (KIP-848).
    pub(crate) led_by_broker: bool,
    /// Distinct users are counted, too.
    pub(crate) users: bool,
    pub(crate) sizes: Sizes,
    pub(crate) batch_events: u32,
    pub(crate) batch_bytes: u32,
    /// A consumer that is frozen for longer than the session has overstepped max.poll.interval.ms as well.
    pub(crate) short_poll: bool,
}

/// How large events are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// About 250 bytes.
    Small,
    /// One in ten has 1 to 20 KB.
    Mixed,
    /// Each has 1 to 20 KB; there are fewer of them.
    Large,
}

impl Sizes {
    /// Share of events with 1 to 20 KB.
    pub(crate) fn large_share(self) -> f64 {
        match self {
            Self::Small => 0.0,
            Self::Mixed => 0.1,
            Self::Large => 1.0,
        }
    }

    /// What a rate of small events comes to, so that servers have about as much to do.
    pub(crate) fn rate(self, small: f64) -> f64 {
        match self {
            Self::Small => small,
            Self::Mixed => small / 1.5,
            Self::Large => small / 6.0,
        }
    }
}

impl Plan {
    /// Draws everything that is not given.
    pub(crate) fn draw(random: &mut ChaCha8Rng, seconds: u64) -> Self {
        let several = random.random_bool(0.35);
        Self {
            seconds,
            brokers: if several || seconds >= LONG_SECONDS { 3 } else { 1 },
            partitions: random.random_range(4..=10),
            letters_in_topic: random.random_bool(0.5),
            by_day: random.random_bool(0.5),
            led_by_broker: random.random_bool(0.4),
            users: random.random_bool(0.5),
            sizes: *[Sizes::Small, Sizes::Mixed, Sizes::Large].choose(random).unwrap_or(&Sizes::Small),
            batch_events: *[300, 10_000].choose(random).unwrap_or(&10_000),
            // The smaller ones are full by their bytes as soon as the database stands still.
            batch_bytes: *[65_536, 262_144, 4_194_304].choose(random).unwrap_or(&4_194_304),
            short_poll: random.random_bool(0.5),
        }
    }

    pub(crate) fn is_long(&self) -> bool {
        self.seconds >= LONG_SECONDS
    }

    /// The consumers' settings, beside those that say where everything is.
    pub(crate) fn settings(&self, options: ConsumerOptions, letter_topic: &str) -> ConsumerOptions {
        // Added partitions are seen soon: the default of 15 s would be a good part of a short run.
        let mut properties = vec!["topic.metadata.refresh.interval.ms=5000"];
        if self.short_poll {
            properties.push("max.poll.interval.ms=6000");
        }
        let options = options
            .with("KAFKA_PROPERTIES", properties.join(";"))
            .with("KAFKA_GROUP_PROTOCOL", if self.led_by_broker { "consumer" } else { "classic" })
            .with("DATABASE_PARTITIONING", if self.by_day { "day" } else { "none" })
            .with("ROLLUP_USERS", if self.users { "enabled" } else { "disabled" })
            .with("BATCH_MAX_EVENTS", self.batch_events)
            .with("BATCH_MAX_BYTES", self.batch_bytes);
        if self.letters_in_topic { options.with("DEAD_LETTER_TOPIC", letter_topic) } else { options }
    }

    /// Properties of the brokers.
    pub(crate) fn broker_properties() -> Vec<(String, String)> {
        let properties = [
            // A killed broker may come back only when its former session is over: 9 s by default, most of a short run.
            ("broker.session.timeout.ms", "2000"),
            ("broker.heartbeat.interval.ms", "500"),
            // In a group that the broker leads, a silent member keeps its partitions for at least 45 s by default.
            ("group.consumer.min.session.timeout.ms", "3000"),
            ("group.consumer.session.timeout.ms", "6000"),
            ("group.consumer.min.heartbeat.interval.ms", "500"),
            ("group.consumer.heartbeat.interval.ms", "1000"),
        ];
        properties.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
    }

    /// Settings of the topic: records of producers with wrong clocks are taken, and kept whatever their times say.
    pub(crate) fn topic_settings() -> [(&'static str, &'static str); 3] {
        [
            ("retention.ms", "-1"),
            ("segment.ms", "9223372036854775807"),
            ("message.timestamp.after.max.ms", "9223372036854775807"),
        ]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let either = |choice, yes, no| if choice { yes } else { no };
        write!(
            out,
            "{} broker(s), {} partitions, group led by {}, dead letters in a {}, events partitioned by {}, users {}, \
             {:?} events, batches of at most {} events and {} bytes, max.poll.interval {}",
            self.brokers,
            self.partitions,
            either(self.led_by_broker, "the broker", "a member"),
            either(self.letters_in_topic, "topic", "table"),
            either(self.by_day, "day", "nothing"),
            either(self.users, "counted", "not counted"),
            self.sizes,
            self.batch_events,
            self.batch_bytes,
            either(self.short_poll, "6 s", "default"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::HashSet;

    #[test]
    fn the_same_seed_draws_the_same_plan_and_many_seeds_draw_all_choices() {
        let draw = |seed| Plan::draw(&mut ChaCha8Rng::seed_from_u64(seed), 120);
        assert_eq!(draw(7), draw(7));
        let plans: Vec<Plan> = (0..200).map(draw).collect();
        let distinct = |choice: fn(&Plan) -> String| plans.iter().map(choice).collect::<HashSet<_>>().len();
        assert_eq!(distinct(|plan| format!("{:?} {}", plan.sizes, plan.batch_bytes)), 9);
        assert_eq!(distinct(|plan| format!("{} {}", plan.brokers, plan.letters_in_topic)), 4);
        assert_eq!(distinct(|plan| format!("{} {} {}", plan.led_by_broker, plan.by_day, plan.users)), 8);
        assert_eq!(Plan::draw(&mut ChaCha8Rng::seed_from_u64(1), 600).brokers, 3);
    }
}
