//! The world that a scaler acts on: pods that start slowly, a group that rebalances, partitions with a log,
//! a database with a limit, and a reading of all that as a controller would get it. One tick is one second.

use autoscaler::GroupState;

use super::group::{self, Protocol};
use super::log::Log;
use super::random::Random;
use super::trace::{Incident, Trace};

/// A consumer killed without leaving is a member for so long.
const SESSION_SECONDS: f64 = 10.0;
/// A consumer's speed differs from the others' by this deviation, from second to second.
const SPEED_NOISE: f64 = 0.03;

/// One pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub id: u64,
    /// When it is (again) ready.
    ready_at: f64,
    /// When a killed one drops out of the group.
    session_ends: Option<f64>,
    pub member: bool,
    pub partitions: Vec<usize>,
    /// Since the last reading: seconds busy, events processed.
    pub busy: f64,
    pub processed: f64,
    /// Belongs to the template before the rollout.
    outdated: bool,
    /// Is one more than asked for, while a rollout replaces another.
    surge: bool,
}

impl Pod {
    /// True if the pod is one more than asked for, for the time of a rollout.
    pub fn is_surge(&self) -> bool {
        self.surge
    }
}

/// The state of the world at a second.
#[derive(Debug)]
pub struct World<'a> {
    pub trace: &'a Trace,
    protocol: Protocol,
    random: Random,
    pub second: usize,
    pub spec: u32,
    pub pods: Vec<Pod>,
    next_id: u64,
    pub logs: Vec<Log>,
    /// When the rebalance under way ends.
    rebalance_ends: Option<f64>,
    /// Partitions that are between two consumers, and until when.
    moving: Vec<(usize, f64)>,
    /// Partitions that changed hands so far.
    pub moves: u64,
    pub rebalances: u64,
    pub rolling: bool,
}

impl<'a> World<'a> {
    /// The world at the beginning of a trace, with replicas that have all joined.
    pub fn new(trace: &'a Trace, protocol: Protocol, replicas: u32) -> Self {
        let mut world = Self {
            trace,
            protocol,
            random: Random::new(trace.seed ^ 0x5EED),
            second: 0,
            spec: 0,
            pods: Vec::new(),
            next_id: 0,
            logs: trace.arrivals.iter().map(|_| Log::default()).collect(),
            rebalance_ends: None,
            moving: Vec::new(),
            moves: 0,
            rebalances: 0,
            rolling: false,
        };
        world.set_replicas(replicas);
        for pod in &mut world.pods {
            (pod.ready_at, pod.member) = (0.0, true);
        }
        world.assign();
        (world.moves, world.moving) = (0, Vec::new());
        world
    }

    fn now(&self) -> f64 {
        self.second as f64
    }

    pub fn partitions(&self) -> usize {
        self.trace.partitions_at(self.second)
    }

    /// True if the pod serves.
    pub fn is_ready(&self, pod: &Pod) -> bool {
        pod.ready_at <= self.now()
    }

    pub fn group(&self) -> GroupState {
        if self.rebalance_ends.is_some() || !self.moving.is_empty() {
            GroupState::Rebalancing
        } else if self.pods.iter().any(|pod| pod.member) {
            GroupState::Stable
        } else {
            GroupState::Empty
        }
    }

    /// Asks for so many pods; the newest go first.
    pub fn set_replicas(&mut self, replicas: u32) {
        self.spec = replicas;
        while self.pods.iter().filter(|pod| !pod.surge).count() < replicas as usize {
            self.create(false);
        }
        while self.pods.iter().filter(|pod| !pod.surge).count() > replicas as usize {
            let Some(newest) = self.pods.iter().rposition(|pod| !pod.surge) else {
                break;
            };
            self.remove(newest);
        }
    }

    fn create(&mut self, surge: bool) {
        let delay = self.trace.start_seconds * self.random.between(0.9, 1.2);
        self.pods.push(Pod {
            id: self.next_id,
            ready_at: self.now() + delay,
            session_ends: None,
            member: false,
            partitions: Vec::new(),
            busy: 0.0,
            processed: 0.0,
            outdated: false,
            surge,
        });
        self.next_id += 1;
    }

    /// A pod ends as it should: it commits, leaves the group and is gone.
    fn remove(&mut self, index: usize) {
        let pod = self.pods.remove(index);
        pod.partitions.iter().for_each(|partition| self.logs[*partition].commit());
        if pod.member {
            self.begin_rebalance();
        }
    }

    fn begin_rebalance(&mut self) {
        self.rebalances += 1;
        self.rebalance_ends = Some(self.now() + self.protocol.join_seconds());
    }

    /// One second passes.
    pub fn tick(&mut self) {
        self.incidents();
        self.roll();
        self.memberships();
        self.arrive();
        self.consume();
        self.second += 1;
        self.logs.iter_mut().for_each(Log::forget);
    }

    fn incidents(&mut self) {
        for incident in &self.trace.incidents {
            match incident {
                Incident::Crash { at } if *at == self.second => {
                    let now = self.second as f64;
                    let start = self.trace.start_seconds;
                    if let Some(pod) = self.pods.iter_mut().find(|pod| pod.member) {
                        (pod.session_ends, pod.ready_at) =
                            (Some(now + SESSION_SECONDS), now + SESSION_SECONDS.max(start));
                    }
                }
                Incident::Rollout { at } if *at == self.second => {
                    self.pods.iter_mut().for_each(|pod| pod.outdated = true);
                    self.rolling = true;
                }
                Incident::Partitions { at, .. } if *at == self.second => {
                    self.rebalance_ends = Some(self.second as f64 + self.protocol.join_seconds());
                }
                Incident::Recreated { at } if *at == self.second => {
                    self.logs.iter_mut().for_each(Log::restart);
                }
                _ => {}
            }
        }
    }

    /// A rollout: one more pod than asked for; when it is in the group, an outdated one goes.
    fn roll(&mut self) {
        if !self.rolling || self.rebalance_ends.is_some() {
            return;
        }
        if let Some(surge) = self.pods.iter().position(|pod| pod.surge) {
            if self.pods[surge].member {
                self.pods[surge].surge = false;
                if let Some(outdated) = self.pods.iter().position(|pod| pod.outdated) {
                    self.remove(outdated);
                }
            }
        } else if self.pods.iter().any(|pod| pod.outdated) {
            self.create(true);
        } else {
            self.rolling = false;
        }
    }

    fn memberships(&mut self) {
        let now = self.now();
        let mut changed = false;
        for pod in &mut self.pods {
            if pod.session_ends.is_some_and(|ends| ends <= now) {
                (pod.session_ends, pod.member) = (None, false);
                pod.partitions.clear();
                changed = true;
            }
            if !pod.member && pod.ready_at <= now {
                pod.member = true;
                changed = true;
            }
        }
        if changed {
            self.begin_rebalance();
        }
        if self.rebalance_ends.is_some_and(|ends| ends <= now) {
            self.rebalance_ends = None;
            self.assign();
        }
        self.moving.retain(|(_, until)| *until > now);
    }

    fn assign(&mut self) {
        let partitions = self.partitions();
        let members: Vec<usize> = (0..self.pods.len()).filter(|index| self.pods[*index].member).collect();
        let before: Vec<Vec<usize>> =
            members.iter().map(|index| self.pods[*index].partitions.clone()).collect();
        let after = group::assign(self.protocol, &before, partitions, &mut self.random);
        let now = self.now();
        for ((index, old), new) in members.iter().zip(&before).zip(after) {
            for partition in new.iter().filter(|partition| !old.contains(partition)) {
                self.moves += 1;
                self.logs[*partition].commit();
                if self.protocol.move_seconds() > 0.0 {
                    self.moving.push((*partition, now + self.protocol.move_seconds()));
                }
            }
            self.pods[*index].partitions = new;
        }
    }

    fn arrive(&mut self) {
        for (partition, log) in self.logs.iter_mut().enumerate() {
            log.append(self.trace.arrivals[partition][self.second]);
        }
    }

    fn consume(&mut self) {
        let stopped = self.protocol.stops_the_world() && self.rebalance_ends.is_some();
        let now = self.now();
        let mut plans = Vec::new();
        for (index, pod) in self.pods.iter().enumerate() {
            if !pod.member || pod.ready_at > now || stopped {
                continue;
            }
            let (open, stuck): (Vec<usize>, Vec<usize>) = pod
                .partitions
                .iter()
                .copied()
                .filter(|partition| self.moving.iter().all(|(moving, _)| moving != partition))
                .partition(|partition| !self.is_stuck(*partition));
            let backlogs: Vec<f64> = open.iter().map(|partition| self.logs[*partition].backlog()).collect();
            let speed = 1.0 + SPEED_NOISE * self.random.bell();
            let budget = self.trace.capacity_at(self.second) * speed;
            let wanted: f64 = backlogs.iter().sum();
            let waits = stuck.iter().any(|partition| self.logs[*partition].backlog() >= 1.0);
            plans.push((index, open, backlogs, budget, wanted, waits));
        }
        let total: f64 = plans.iter().map(|(_, _, _, budget, wanted, _)| budget.min(*wanted)).sum();
        let share = (self.trace.sink_at(self.second) / total.max(1e-9)).min(1.0);
        for (index, open, backlogs, budget, wanted, waits) in plans {
            // At its limit the database serves everyone's wish in part.
            let budget = if share < 1.0 { budget.min(wanted) * share } else { budget };
            let taken = group::share_out(&backlogs, budget);
            for (partition, events) in open.iter().zip(&taken) {
                self.logs[*partition].consume(*events);
            }
            let pod = &mut self.pods[index];
            pod.processed += taken.iter().sum::<f64>();
            let used = if budget > 0.0 { (wanted / budget).min(1.0) } else { f64::from(wanted > 0.0) };
            // Small batches cost more each: a consumer with little to do is busier than its throughput says,
            // and one that batches by nature hardly ever waits.
            let busy = (used * self.trace.busy_gain).max(used * (1.0 + 0.15 * (1.0 - used)));
            pod.busy += if waits { busy.max(0.9) } else { busy }.min(1.0);
            for partition in pod
                .partitions
                .iter()
                .filter(|partition| (self.second + *partition).is_multiple_of(self.trace.commit_seconds))
            {
                self.logs[*partition].commit();
            }
        }
    }

    fn is_stuck(&self, partition: usize) -> bool {
        self.trace.incidents.iter().any(|incident| {
            matches!(incident, Incident::Stuck { partition: stuck, from, to }
                if *stuck == partition && (*from..*to).contains(&self.second))
        })
    }

    /// Age of the oldest event that is not consumed, over all partitions, in seconds.
    pub fn age(&self) -> f64 {
        self.logs.iter().map(|log| log.age(self.second)).fold(0.0, f64::max)
    }

    /// Some noise for a reading.
    pub fn jitter(&mut self) -> f64 {
        self.random.bell()
    }
}
