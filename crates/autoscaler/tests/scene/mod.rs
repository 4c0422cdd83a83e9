//! A pipeline of equal partitions, driven by hand: offsets follow from loads, five seconds at a time, or less where a decision
//! asks for another look.

use std::sync::Arc;

use autoscaler::{
    CommittedOffset, ConsumerObservation, Decision, DrainOutcome, GroupState, Observation,
    PartitionObservation, Policy, ReplicaObservation, State, decide,
};

/// Usual seconds between two looks.
pub const INTERVAL: f64 = 5.0;
/// Seconds until new replicas consume.
const START: f64 = 10.0;

/// The objective of the tests: a minute.
pub fn policy() -> Policy {
    Policy { target_lag_seconds: 60.0, ..Policy::default() }
}

/// Names of a decision's conditions.
pub fn names(decision: &Decision) -> Vec<&'static str> {
    decision.conditions.iter().map(autoscaler::Condition::name).collect()
}

/// The pipeline and what is the matter with it.
pub struct Scene {
    pub time: f64,
    pub capacity: f64,
    /// Replicas' worth of events that arrive.
    load: f64,
    /// Share of the load by partition; 1 each.
    pub weights: Vec<f64>,
    ends: Vec<f64>,
    positions: Vec<f64>,
    state: State,
    pub replicas: u32,
    settled_at: f64,
    pub ready: u32,
    pub members: Option<u32>,
    pub group: GroupState,
    pub rollout: bool,
    /// `ready` stays what it is.
    pub frozen_pods: bool,
    pub blind: bool,
    pub missing: Option<usize>,
    pub stuck: Vec<usize>,
    pub never_committed: bool,
    pub control_records: i64,
    /// By how much consumers are busier than their share of their capacity, up to always.
    pub busy_gain: f64,
    pub sink: Option<f64>,
    pub dry_run: bool,
    pub drains: Vec<DrainOutcome>,
    /// The oldest that an event was seen to be.
    pub oldest: f64,
    busy: f64,
    processed: f64,
    /// Seconds between the last two looks.
    span: f64,
    /// Seconds until the next one.
    pause: f64,
}

impl Scene {
    /// A pipeline that has been running with this load for two minutes.
    pub fn steady(partitions: usize, load: f64, replicas: u32) -> Self {
        let mut scene = Self {
            time: 1_700_000_000.0,
            capacity: 100.0,
            load,
            weights: vec![1.0; partitions],
            ends: vec![0.0; partitions],
            positions: vec![0.0; partitions],
            state: State::default(),
            replicas,
            settled_at: 0.0,
            ready: replicas,
            members: Some(replicas),
            group: GroupState::Stable,
            rollout: false,
            frozen_pods: false,
            blind: false,
            missing: None,
            stuck: Vec::new(),
            never_committed: false,
            control_records: 0,
            busy_gain: 1.0,
            sink: None,
            dry_run: true,
            drains: Vec::new(),
            oldest: 0.0,
            busy: 0.0,
            processed: 0.0,
            span: INTERVAL,
            pause: INTERVAL,
        };
        scene.drive(load, 120.0, &policy());
        scene.dry_run = false;
        scene
    }

    /// Forgets everything and watches the present load for two minutes.
    pub fn settle(&mut self, policy: &Policy) {
        self.state = State::default();
        self.dry_run = true;
        self.drive(0.9, 120.0, policy);
        self.dry_run = false;
    }

    /// Lets `load` replicas' worth of events arrive from now on.
    pub fn arrive(&mut self, load: f64) {
        self.load = load;
    }

    /// How many replicas more the next number worth having is.
    pub fn gap(&self) -> u32 {
        let partitions = self.weights.len() as u32;
        let next = (self.replicas + 1..=partitions)
            .find(|n| partitions.div_ceil(*n) < partitions.div_ceil(self.replicas));
        next.unwrap_or(partitions) - self.replicas
    }

    pub fn add_lag(&mut self, events: f64) {
        let each = events / self.ends.len() as f64;
        self.ends.iter_mut().for_each(|end| *end += each);
    }

    pub fn add_lag_on(&mut self, partition: usize, events: f64) {
        self.ends[partition] += events;
    }

    /// Lets `load` replicas' worth of events arrive for some seconds, and gives the changes with their times.
    pub fn drive(&mut self, load: f64, seconds: f64, policy: &Policy) -> Vec<(f64, u32)> {
        let (until, begin) = (self.time + seconds, self.time);
        self.load = load;
        let mut changes = Vec::new();
        while self.time < until {
            self.pass(load);
            let decision = self.decide(policy);
            self.drains.extend(decision.drain_outcome);
            self.oldest = self.oldest.max(decision.estimates.lag_seconds.unwrap_or(0.0));
            if decision.desired != self.replicas && !self.dry_run {
                changes.push((self.time - begin, decision.desired));
                let grows = decision.desired > self.replicas;
                self.replicas = decision.desired;
                self.settled_at = self.time + if grows { START } else { 0.0 };
            }
        }
        changes
    }

    /// Some seconds of arrivals and consumption, until the next look.
    fn pass(&mut self, load: f64) {
        self.span = self.pause;
        self.time += self.span;
        let total: f64 = self.weights.iter().sum();
        let arriving = load * self.capacity * self.span;
        for (end, weight) in self.ends.iter_mut().zip(&self.weights) {
            *end += arriving * weight / total;
        }
        let settled = self.time >= self.settled_at;
        if !self.frozen_pods && settled {
            (self.ready, self.members) = (self.replicas, Some(self.replicas));
        }
        let consuming = if settled { self.replicas } else { self.ready.min(self.replicas) };
        (self.busy, self.processed) = (0.0, 0.0);
        let share = self.sink.map_or(1.0, |sink| (sink / (f64::from(consuming) * self.capacity)).min(1.0));
        for replica in 0..consuming as usize {
            self.consume(replica, consuming as usize, self.capacity * share * self.span);
        }
    }

    fn consume(&mut self, replica: usize, replicas: usize, budget: f64) {
        let open: Vec<usize> =
            (replica..self.ends.len()).step_by(replicas).filter(|id| !self.stuck.contains(id)).collect();
        let mut left = budget;
        // Everyone the same, and what is left over to those that have more.
        for turn in (1..=open.len()).rev() {
            let mut by_backlog: Vec<usize> = open.clone();
            by_backlog.sort_by(|one, other| self.backlog(*one).total_cmp(&self.backlog(*other)));
            let partition = by_backlog[open.len() - turn];
            let taken = self.backlog(partition).min(left / turn as f64);
            self.positions[partition] += taken;
            left -= taken;
            self.processed += taken;
        }
        self.busy += (budget - left) / budget;
    }

    fn backlog(&self, partition: usize) -> f64 {
        self.ends[partition] - self.positions[partition]
    }

    /// More seconds of the same load, one look and its decision, which is not carried out.
    pub fn look(&mut self, policy: &Policy) -> Decision {
        self.pass(self.load);
        self.decide(policy)
    }

    /// The same after so many seconds.
    pub fn look_after(&mut self, seconds: f64, policy: &Policy) -> Decision {
        self.pause = seconds;
        self.look(policy)
    }

    fn decide(&mut self, policy: &Policy) -> Decision {
        let (state, decision) = decide(&self.state, &self.observation(), policy);
        self.state = state;
        self.pause = decision.look_again_seconds.unwrap_or(INTERVAL);
        decision
    }

    fn observation(&self) -> Observation {
        let partition = |id: usize| {
            let committed = if self.never_committed {
                CommittedOffset::Never
            } else {
                CommittedOffset::At(self.positions[id].round() as i64)
            };
            PartitionObservation {
                partition: id as i32,
                log_start: Some(0),
                log_end: Some(self.ends[id].round() as i64 + self.control_records),
                committed,
                lag_seconds: None,
            }
        };
        let known = (0..self.ends.len()).filter(|id| Some(*id) != self.missing);
        let count = f64::from(self.replicas.max(1));
        let consumer = |index: u32| ConsumerObservation {
            name: format!("pod-{index}"),
            busy: Some((self.busy_gain * self.busy / count).min(1.0)),
            processed_rate: Some(self.processed / count / self.span),
            partitions: None,
        };
        Observation {
            time: self.time,
            replicas: ReplicaObservation {
                spec: self.replicas,
                ready: self.ready,
                group_members: self.members,
                group: if self.replicas == 0 { GroupState::Empty } else { self.group },
                rollout_in_progress: self.rollout,
            },
            partition_count: (!self.blind).then_some(self.ends.len() as u32),
            partitions: if self.blind { Arc::default() } else { known.map(partition).collect() },
            consumers: (0..self.replicas).map(consumer).collect(),
        }
    }
}
