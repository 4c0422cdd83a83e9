//! What decides: ours, and whatever it is compared with.

use autoscaler::{Decision, GroupState, Observation, Policy, ReplicaObservation, State, decide};

use super::group::Protocol;
use super::reading::EPOCH;
use super::trace::Trace;

/// Something that looks at readings and asks for replicas.
pub trait Scaler {
    /// Name for tables.
    fn name(&self) -> String;
    /// Seconds between two readings.
    fn interval(&self) -> usize;
    /// Seconds until the next reading after the one at `second`.
    fn pause(&self, _second: usize) -> usize {
        self.interval()
    }
    /// Replicas to ask for.
    fn replicas(&mut self, observation: &Observation) -> u32;
    /// The last decision, if it is one of ours.
    fn decision(&self) -> Option<&Decision> {
        None
    }
}

/// Never changes anything: one candidate of the oracle.
pub struct Fixed(pub u32);

impl Scaler for Fixed {
    fn name(&self) -> String {
        format!("fixed {}", self.0)
    }

    fn interval(&self) -> usize {
        3600
    }

    fn replicas(&mut self, _: &Observation) -> u32 {
        self.0
    }
}

/// Seconds between two of our readings, if the law does not wish to look again sooner.
pub const OUR_INTERVAL: usize = 5;

/// When the pods of a trace were started: long ago.
const STARTED: f64 = EPOCH + 86_400.0;

/// The function that the controller calls. In the beginning it knows how long the first pods took to start, which the controller
/// of every pipeline has seen, and nothing else. Its state goes through JSON after every decision, as it does in the controller.
pub struct Ours {
    policy: Policy,
    state: String,
    decision: Option<Decision>,
    /// Checksum of all decisions.
    pub digest: u64,
}

impl Ours {
    /// For a trace, with its policy.
    pub fn new(trace: &Trace, protocol: Protocol) -> Self {
        let policy = Policy {
            target_lag_seconds: trace.target,
            min_replicas: trace.min,
            max_replicas: trace.max,
            stabilization_seconds: trace.stabilization_seconds,
            cooldown_seconds: trace.cooldown_seconds,
            ..Policy::default()
        };
        let mut ours = Self { policy, state: "{}".to_owned(), decision: None, digest: 0 };
        ours.see_first_start(trace, protocol);
        ours
    }

    /// Lets it see how the pods that are there when the trace begins were started. The clock of the trace is behind that, and a
    /// clock that goes back makes the law forget everything but what it has measured.
    fn see_first_start(&mut self, trace: &Trace, protocol: Protocol) {
        let replicas = |spec, ready, group| ReplicaObservation {
            spec,
            ready,
            group_members: Some(ready),
            group,
            rollout_in_progress: false,
        };
        let seconds = trace.start_seconds + protocol.join_seconds();
        let readings = (seconds / OUR_INTERVAL as f64).ceil() as usize + 1;
        for reading in 0..=readings {
            let replicas = match reading {
                0 => replicas(0, 0, GroupState::Empty),
                _ if reading < readings => replicas(trace.initial, 0, GroupState::Empty),
                _ => replicas(trace.initial, trace.initial, GroupState::Stable),
            };
            let time = STARTED + (reading * OUR_INTERVAL) as f64;
            self.replicas(&Observation { time, replicas, ..Observation::default() });
        }
        (self.decision, self.digest) = (None, 0);
    }
}

impl Scaler for Ours {
    fn name(&self) -> String {
        "ours".to_owned()
    }

    fn interval(&self) -> usize {
        OUR_INTERVAL
    }

    fn pause(&self, _: usize) -> usize {
        let wish = self.decision.as_ref().and_then(|decision| decision.look_again_seconds);
        wish.map_or(OUR_INTERVAL, |seconds| (seconds.ceil() as usize).min(OUR_INTERVAL))
    }

    #[expect(
        clippy::expect_used,
        reason = "a state or decision that does not survive JSON is what this must find"
    )]
    fn replicas(&mut self, observation: &Observation) -> u32 {
        let state: State =
            serde_json::from_str(&self.state).expect("a state that was just written can be read");
        let (state, decision) = decide(&state, observation, &self.policy);
        self.state = serde_json::to_string(&state).expect("a state can be written");
        let written = serde_json::to_string(&decision).expect("a decision can be written");
        for byte in written.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        let desired = decision.desired;
        self.decision = Some(decision);
        desired
    }

    fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }
}

/// What most scalers look at: totals of a reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Seconds.
    pub time: f64,
    /// Replicas asked for, ready, and in the group.
    pub spec: f64,
    pub ready: f64,
    pub members: f64,
    /// Events not consumed, where it is known.
    pub lag: f64,
    /// Log ends added up.
    pub end: f64,
    /// Events processed per second, by all replicas.
    pub processed: f64,
    /// Mean and largest busy ratio.
    pub busy: f64,
    pub busiest: f64,
    /// Partitions of the topic.
    pub partitions: u32,
    /// False while no offset can be read.
    pub known: bool,
    /// Partitions with lag.
    pub lagging: u32,
    /// False while consumers cannot be asked.
    pub measured: bool,
}

/// Adds a reading up.
pub fn totals(observation: &Observation) -> Totals {
    let mut totals = Totals {
        time: observation.time,
        spec: f64::from(observation.replicas.spec),
        ready: f64::from(observation.replicas.ready),
        members: f64::from(observation.replicas.group_members.unwrap_or(0)),
        partitions: observation.partition_count.unwrap_or(0),
        known: observation.partition_count.is_some(),
        measured: !observation.consumers.is_empty(),
        ..Totals::default()
    };
    for partition in observation.partitions.iter() {
        let end = partition.log_end.unwrap_or(0);
        let committed = match partition.committed {
            autoscaler::CommittedOffset::At(offset) => offset,
            _ => end,
        };
        totals.end += end as f64;
        totals.lag += (end - committed).max(0) as f64;
        totals.lagging += u32::from(end > committed);
    }
    let count = observation.consumers.len().max(1) as f64;
    for consumer in &observation.consumers {
        let busy = consumer.busy.unwrap_or(0.0);
        totals.processed += consumer.processed_rate.unwrap_or(0.0);
        totals.busy += busy / count;
        totals.busiest = totals.busiest.max(busy);
    }
    totals
}
