//! From one observation into memory.

use crate::arrival::Trend;
use crate::capacity::{self, Sample};
use crate::demand::{self, Demand};
use crate::offsets::{self, Reading, Readings};
use crate::shape::{self, Load, together};
use crate::{GroupState, Observation, Policy, State, arrival, gate, shadow, sink, slope};

/// A lag of so few events that never moves while the consumers idle is not events (transactions leave control
/// records, which are counted by offsets and never delivered).
const MOST_CONTROL_RECORDS: u64 = 3;
/// For so long it must not have moved.
const CONTROL_RECORD_SECONDS: f64 = 30.0;
/// Consumers that are less busy than this have nothing to do.
const IDLE_BUSY: f64 = 0.1;
/// What only the next reading settles is worth a look after so many seconds: long enough that events that are committed once
/// a second and sent in batches are counted, and no longer.
pub(crate) const LOOK_AGAIN_SECONDS: f64 = 2.5;
/// What a replica can do is known well enough to call a partition too fast for one. Replicas that have a hot partition are busy, the
/// others are not: on average less than half.
const CERTAIN_QUALITY: f32 = 0.4;
/// Another reading is awaited only if it comes within this share of the objective.
const UNDECIDED_SHARE: f64 = 0.2;
/// Time constant with which past waits fade.
const ROUGHNESS_SECONDS: f64 = 900.0;
/// A wait of no more than this share of the objective is none.
const QUIET_SHARE: f64 = 0.15;
/// Assumed until two observations have been made.
pub(crate) const INTERVAL_SECONDS: f64 = 5.0;

/// Takes an observation into memory and says what is asked of the consumers.
pub(crate) fn learn(
    before: &State,
    observation: &Observation,
    policy: &Policy,
    readings: &Readings,
) -> (State, Demand) {
    let now = observation.time;
    let span = before.time.map_or(0.0, |time| now - time);
    let mut state = before.clone();
    state.time = Some(now);
    if span > 0.0 {
        let known = before.interval.map_or(span, f64::from);
        state.interval = Some((known + 0.2 * (span.min(300.0) - known)) as f32);
    }
    state.partition_count = readings.count.or(before.partition_count);
    state.scaling = gate::learn(&before.scaling, observation, policy);
    let attended = attended(&state, before.time, observation);
    let trend = arrival::trend(&before.partitions, &readings.known, now);
    learn_partitions(&mut state, before, observation, readings, attended, trend);
    learn_slope(&mut state, before, trend, span);
    learn_capacity(&mut state, before, observation, readings, span, attended);
    if !readings.complete() {
        state.unknown_since.get_or_insert(now);
    } else {
        state.unknown_since = None;
    }
    state.idle_since = is_idle(&state, before, readings).then(|| state.idle_since.unwrap_or(now));
    let certain = !sink::in_doubt(&state.sink)
        && state.sink.doubt.is_none()
        && state.capacity.quality >= CERTAIN_QUALITY;
    demand::note_hot(&mut state, now, certain);
    let mut demand = demand::demand(&state, readings, now);
    let total = together(demand.loads.values().copied());
    demand.slope = slope::slope(state.slow, total.rate, total.calm);
    demand.undecided = trend == Trend::Undecided
        && LOOK_AGAIN_SECONDS.min(span) <= UNDECIDED_SHARE * policy.target_lag_seconds;
    let owned: Vec<&Vec<i32>> =
        observation.consumers.iter().filter_map(|consumer| consumer.partitions.as_ref()).collect();
    if attended && owned.len() == observation.replicas.spec as usize {
        state.pattern = shape::recognize(&owned, state.partition_count.unwrap_or(0), state.pattern);
    }
    let oldest = demand.loads.values().map(|load| load.age).fold(0.0, f64::max);
    if state.scaling.unsettled_since == Some(now) {
        state.scaling.unsettled_age = oldest as f32;
    }
    let faded = f64::from(before.roughness) * (-span / ROUGHNESS_SECONDS).exp();
    // What waits until consumers have come is what their coming costs, and nothing that the load does again.
    let waited = if attended { oldest.min(policy.target_lag_seconds) } else { 0.0 };
    state.roughness = faded.max(waited) as f32;
    let quiet = demand.loads.values().all(|load| load.age <= QUIET_SHARE * policy.target_lag_seconds);
    let busy = state.capacity.busy.is_some_and(|busy| f64::from(busy) >= capacity::ALWAYS_BUSY);
    let quiet = quiet && busy && readings.complete() && attended;
    state.quiet_since = quiet.then(|| state.quiet_since.unwrap_or(now));
    let arrived = arrived(before, readings, &demand, span);
    shadow::learn(&mut state, &demand.loads, arrived, now, span, policy.target_lag_seconds.max(1.0));
    (state, demand)
}

/// Events that arrived since the last observation; where that was not seen, as many as usual.
fn arrived(before: &State, readings: &Readings, demand: &Demand, span: f64) -> f64 {
    let one = |(partition, load): (&i32, &Load)| {
        let reading = readings.known.iter().find(|reading| reading.partition == *partition);
        let seen = reading
            .zip(before.partitions.get(partition))
            .filter(|(_, memory)| before.time == Some(memory.time));
        seen.map_or(load.rate * span, |(reading, memory)| (reading.end - memory.end).max(0) as f64)
    };
    demand.loads.iter().map(one).sum()
}

/// True if every replica has had its partitions since the last observation.
fn attended(state: &State, last: Option<f64>, observation: &Observation) -> bool {
    let settled = state.scaling.settled_since.zip(last).is_some_and(|(since, last)| since <= last);
    settled && observation.replicas.spec > 0 && observation.replicas.group_members != Some(0)
}

/// True if the group has members, and they have their partitions: somebody could consume, ready or not. A consumer that waits
/// for its database or for a person says that it is not ready.
fn group_stands(observation: &Observation) -> bool {
    let replicas = &observation.replicas;
    replicas.spec > 0
        && replicas.group == GroupState::Stable
        && replicas.group_members.is_some_and(|members| members > 0)
}

fn learn_partitions(
    state: &mut State,
    before: &State,
    observation: &Observation,
    readings: &Readings,
    attended: bool,
    trend: Trend,
) {
    let now = observation.time;
    if let Some(count) = readings.count {
        state.partitions.retain(|partition, _| u32::try_from(*partition).is_ok_and(|id| id < count));
    }
    for partition in offsets::restarted(before, observation) {
        let observed = observation.partitions.iter().find(|observed| observed.partition == partition);
        if let (Some(memory), Some(end)) =
            (state.partitions.get_mut(&partition), observed.and_then(|observed| observed.log_end))
        {
            (memory.end, memory.time, memory.moved, memory.drained) = (end, now, now, None);
        }
    }
    for reading in &readings.known {
        let known = before.partitions.get(&reading.partition);
        let mut memory = arrival::learn(known, reading, now, attended, trend);
        let kept = known.is_some_and(|known| known.position == reading.position);
        let stands = kept && reading.lag() > memory.residue && group_stands(observation);
        memory.still = stands.then(|| memory.still.unwrap_or(now));
        state.partitions.insert(reading.partition, memory);
    }
}

fn learn_slope(state: &mut State, before: &State, trend: Trend, span: f64) {
    let total = |state: &State| -> f64 {
        state.partitions.values().filter_map(|memory| memory.rate).map(f64::from).sum()
    };
    let (was, rate) = (total(before), total(state));
    let step = if trend == Trend::Stepped { rate - was } else { 0.0 };
    if rate > 0.0 {
        state.slow = Some(slope::learn(before.slow, rate, step, span));
    }
}

fn learn_capacity(
    state: &mut State,
    before: &State,
    observation: &Observation,
    readings: &Readings,
    span: f64,
    attended: bool,
) {
    let now = observation.time;
    let replicas = observation.replicas.spec;
    if let Some(change) =
        state.scaling.last.filter(|last| Some(*last) != before.scaling.last && last.settling)
    {
        let outrun = state.scaling.outgrown == Some(change.time);
        state.sink = sink::begin(&before.sink, &before.capacity, change, outrun);
    }
    let lag_before =
        before.partitions.values().map(|memory| memory.end.saturating_sub(memory.position) as f64).sum();
    let lags = readings.known.iter().map(|reading| (reading.partition, reading.lag() as f64)).collect();
    let seen = if attended {
        capacity::sample(&observation.consumers, replicas, lag_before, &lags)
            .or_else(|| backlogged(state, readings, replicas))
    } else {
        None
    };
    let may_fall = !sink::in_doubt(&state.sink);
    state.capacity = capacity::learn(&before.capacity, seen, span, may_fall);
    let changed = state.scaling.last.map_or(f64::NEG_INFINITY, |last| last.time);
    let settled = state.scaling.settled_since.map(|since| now - since.max(changed));
    let partitions = state.partition_count.unwrap_or(0);
    let (judged, restored) = sink::judge(&state.sink, &state.capacity, partitions, settled, now);
    state.sink = judged;
    if restored.is_some() {
        state.capacity.rate = restored;
        state.capacity.samples.clear();
    }
    for reading in &readings.known {
        note_control_records(state, before, reading, now);
    }
}

/// Without word from the consumers: what they do while every partition has a backlog is what they can do.
fn backlogged(state: &State, readings: &Readings, replicas: u32) -> Option<Sample> {
    let mut throughput = 0.0;
    for reading in &readings.known {
        let memory = state.partitions.get(&reading.partition)?;
        let (rate, served) = (f64::from(memory.rate?), f64::from(memory.served?));
        if (reading.lag() as f64) < 5.0 * rate.max(served) {
            return None;
        }
        throughput += served;
    }
    let capacity = throughput / f64::from(replicas.max(1));
    (capacity > 0.0 && readings.complete()).then_some(Sample {
        throughput,
        busy: 1.0,
        quotient: Some((capacity, 1.0)),
        overloaded: None,
        done: capacity,
        saturated: true,
        everywhere: true,
        pressed: true,
    })
}

fn note_control_records(state: &mut State, before: &State, reading: &Reading, now: f64) {
    let consumers_idle = state.capacity.busy.is_some_and(|busy| f64::from(busy) < IDLE_BUSY);
    let ended = before.partitions.get(&reading.partition).is_some_and(|memory| memory.end == reading.end);
    let Some(memory) = state.partitions.get_mut(&reading.partition) else {
        return;
    };
    let few = (1..=MOST_CONTROL_RECORDS).contains(&reading.lag());
    if consumers_idle && ended && few && now - memory.moved >= CONTROL_RECORD_SECONDS {
        memory.residue = reading.lag();
    }
}

/// True if nothing arrived since the last observation, nothing is left, and the group's place is kept everywhere.
fn is_idle(state: &State, before: &State, readings: &Readings) -> bool {
    let idle = |reading: &Reading| {
        let still = before.partitions.get(&reading.partition).is_some_and(|memory| memory.end == reading.end);
        let residue = state.partitions.get(&reading.partition).map_or(0, |memory| memory.residue);
        still && reading.pinned && reading.lag() <= residue
    };
    readings.complete() && readings.known.iter().all(idle)
}
