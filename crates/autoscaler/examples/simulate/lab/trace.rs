//! What happens to a pipeline over some hours, whoever scales it.

use autoscaler::Policy;

use super::random::Random;

/// A load, the consumers that meet it, and what goes wrong meanwhile.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Short name, unique in its set.
    pub name: String,
    /// Seed of everything random in the world that runs it.
    pub seed: u64,
    /// Events arriving, by partition and second.
    pub arrivals: Vec<Vec<f64>>,
    /// Events per second that one replica handles.
    pub capacity: f64,
    /// Factor of `capacity` from a second on, ascending.
    pub drift: Vec<(usize, f64)>,
    /// Events per second that the database stores from a second on, ascending; before the first: no limit.
    pub sink: Vec<(usize, f64)>,
    /// The objective: no event older than this many seconds.
    pub target: f64,
    /// Seconds from a pod's creation until it is ready.
    pub start_seconds: f64,
    /// By how much a consumer is busier than its share of its capacity, up to always: 1 for one whose batches
    /// cost in proportion, 40 and more for one that takes whatever is there at once.
    pub busy_gain: f64,
    /// Seconds between two commits of a consumer.
    pub commit_seconds: usize,
    /// What goes wrong.
    pub incidents: Vec<Incident>,
    /// Replicas there are at the beginning.
    pub initial: u32,
    /// The policy's bounds.
    pub min: u32,
    /// `None`: as many as there are partitions.
    pub max: Option<u32>,
    /// The policy's window for scale-downs, which only ours knows.
    pub stabilization_seconds: f64,
    /// The policy's least time from any change to a scale-down, which only ours knows.
    pub cooldown_seconds: f64,
    /// True if the caller can tell the age of the oldest event (else it is estimated from offsets).
    pub tells_age: bool,
    /// Conditions that are true for some time. Any other condition at any other time is a false alarm.
    pub truths: Vec<Truth>,
}

/// Something that happens at a second, or from one second to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Incident {
    /// A consumer is killed without leaving the group, and comes back.
    Crash { at: usize },
    /// The pods' template changes: one after another is replaced.
    Rollout { at: usize },
    /// No offset can be read.
    OffsetsUnknown { from: usize, to: usize },
    /// One partition is missing from the answers.
    PartitionUnknown { partition: usize, from: usize, to: usize },
    /// One partition cannot be consumed.
    Stuck { partition: usize, from: usize, to: usize },
    /// Consumers cannot be asked how busy they are.
    Unmeasured { from: usize, to: usize },
    /// The topic gets more partitions (those whose arrivals begin only then).
    Partitions { at: usize, count: usize },
    /// The topic is made anew: all offsets begin again at 0.
    Recreated { at: usize },
}

/// A condition that holds from one second to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// Name of the condition.
    pub condition: &'static str,
    /// When it becomes true.
    pub from: usize,
    /// When it is no longer true.
    pub to: usize,
    /// Seconds after `from` within which it must have been reported; `None`: it may be, it need not.
    pub within: Option<usize>,
}

impl Trace {
    /// A trace of `seconds` in which `load(second)` replicas' worth of events arrive, evenly over the
    /// partitions, with two kinds of noise: one common to all that lasts about half a minute, one of each
    /// partition and second; `noise` is the deviation of both as a share.
    pub fn even(
        name: &str,
        partitions: usize,
        seconds: usize,
        noise: f64,
        load: impl Fn(usize) -> f64,
    ) -> Self {
        let weights = vec![1.0 / partitions as f64; partitions];
        Self::weighted(name, &weights, seconds, noise, load)
    }

    /// The same, shared over the partitions by weight.
    pub fn weighted(
        name: &str,
        weights: &[f64],
        seconds: usize,
        noise: f64,
        load: impl Fn(usize) -> f64,
    ) -> Self {
        let capacity = 100.0;
        let usual = Policy::default();
        let seed =
            name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(131).wrapping_add(u64::from(byte)));
        let mut random = Random::new(seed);
        let mut arrivals = vec![Vec::with_capacity(seconds); weights.len()];
        let mut common = 0.0;
        for second in 0..seconds {
            // First-order autoregression with a time constant of 30 s and deviation `noise`.
            common = 0.967 * common + 0.255 * noise * random.bell();
            let total = capacity * load(second) * (1.0 + common);
            for (partition, weight) in weights.iter().enumerate() {
                let own = 1.0 + noise * random.bell();
                arrivals[partition].push((total * weight * own).max(0.0));
            }
        }
        Self {
            name: name.to_owned(),
            seed,
            arrivals,
            capacity,
            drift: Vec::new(),
            sink: Vec::new(),
            target: 60.0,
            start_seconds: 10.0,
            busy_gain: 1.0,
            commit_seconds: 1,
            incidents: Vec::new(),
            initial: 1,
            min: 1,
            max: None,
            stabilization_seconds: usual.stabilization_seconds,
            cooldown_seconds: usual.cooldown_seconds,
            tells_age: false,
            truths: Vec::new(),
        }
        .starting_at(load(0))
    }

    /// Begins with the least replicas that suit so many replicas' worth of load: where a good scaler left off.
    fn starting_at(mut self, load: f64) -> Self {
        let partitions = self.arrivals.len() as u32;
        let asked = ((load / 0.96).ceil() as u32).clamp(1, partitions);
        let worth_having = |replicas: &u32| partitions.div_ceil(partitions.div_ceil(*replicas)) == *replicas;
        self.initial = (asked..=partitions).find(worth_having).unwrap_or(partitions);
        self
    }

    /// Adds `events` at once to each of the given partitions.
    pub fn dump(mut self, second: usize, partitions: impl IntoIterator<Item = usize>, events: f64) -> Self {
        for partition in partitions {
            self.arrivals[partition][second] += events;
        }
        self
    }

    /// The same trace for replicas that handle `factor` times as much, of `factor` times as many events.
    pub fn scaled(mut self, factor: f64) -> Self {
        self.capacity *= factor;
        self.arrivals.iter_mut().flatten().for_each(|events| *events *= factor);
        self.sink.iter_mut().for_each(|(_, limit)| *limit *= factor);
        self
    }

    /// True if all partitions get about the same.
    pub fn is_even(&self) -> bool {
        let totals: Vec<f64> = self.arrivals.iter().map(|events| events.iter().sum()).collect();
        let (least, most) =
            totals.iter().fold((f64::INFINITY, 0.0_f64), |(l, m), total| (l.min(*total), m.max(*total)));
        most <= 1.2 * least
    }

    /// Length in seconds.
    pub fn seconds(&self) -> usize {
        self.arrivals.first().map_or(0, Vec::len)
    }

    /// Events per second that one replica handles at a second.
    pub fn capacity_at(&self, second: usize) -> f64 {
        self.capacity * value_at(&self.drift, second).unwrap_or(1.0)
    }

    /// Events per second that the database stores at a second.
    pub fn sink_at(&self, second: usize) -> f64 {
        value_at(&self.sink, second).unwrap_or(f64::INFINITY)
    }

    /// True if more than so many replicas could do more at a second, and somebody could know it.
    pub fn more_would_help(&self, second: usize, replicas: u32) -> bool {
        let hidden = self.incidents.iter().any(|incident| match incident {
            Incident::OffsetsUnknown { from, to } | Incident::Stuck { from, to, .. } => {
                (*from..*to).contains(&second)
            }
            _ => false,
        });
        !hidden && self.sink_at(second) > 1.05 * f64::from(replicas) * self.capacity_at(second)
    }

    /// Partitions there are at a second.
    pub fn partitions_at(&self, second: usize) -> usize {
        let mut count = self.arrivals.len();
        for incident in &self.incidents {
            if let Incident::Partitions { at, count: after } = incident {
                count = if second < *at { count - after } else { count };
            }
        }
        count
    }
}

fn value_at(steps: &[(usize, f64)], second: usize) -> Option<f64> {
    steps.iter().take_while(|(from, _)| *from <= second).last().map(|(_, value)| *value)
}
