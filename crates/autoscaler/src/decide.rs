//! The decision: offsets are read, memory learns, the rules choose, the answer is put together.

use crate::bounds::bounds;
use crate::choose::{Choice, View, choose};
use crate::conditions::conditions;
use crate::demand::{Demand, estimates};
use crate::learn::{INTERVAL_SECONDS, LOOK_AGAIN_SECONDS, learn};
use crate::offsets::read;
use crate::plan::{AHEAD_SECONDS, Plant, gone_age};
use crate::shape::Shape;
use crate::state::Asked;
use crate::{
    Decision, DrainOutcome, Estimates, Limit, Observation, Policy, Reason, State, explain, gate, shadow, sink,
};

/// Growing again within so many seconds means that the load is rising.
const RISING_SECONDS: f64 = 1200.0;
/// A rise of less than this share is not told from chance, …
const LEAST_RISE: f64 = 0.1;
/// … and one of more than this is not believed.
const MOST_RISE: f64 = 3.0;
/// A clock that goes back by more than this was wrong before, or is another one.
const CLOCK_BACK_SECONDS: f64 = 60.0;
/// A drain that takes longer than this is not compared with its prediction any more.
const LONGEST_DRAIN_SECONDS: f64 = 3600.0;

/// Decides how many replicas there should be.
///
/// Give the returned state back with the next observation; an empty state is right for a pipeline never seen.
/// Nothing is taken for carried out: a change counts when a later observation shows it, so that a caller may
/// just as well only report decisions (dry run), or somebody else may set the replicas.
///
/// Call it every few seconds. It looks at time only through [`Observation::time`]; where that goes back by more than a minute
/// (a controller on another machine, a clock that was set), all that has a time is begun anew, and what was measured stays.
#[must_use]
pub fn decide(state: &State, observation: &Observation, policy: &Policy) -> (State, Decision) {
    let ahead = state.time.map_or(f64::NEG_INFINITY, |last| last - observation.time);
    let restarted = (ahead > CLOCK_BACK_SECONDS).then(|| state.restarted());
    let state = restarted.as_ref().unwrap_or(state);
    // Also when that is not a number.
    if !observation.time.is_finite() || state.time.is_some_and(|last| observation.time <= last) {
        return (state.clone(), out_of_order(observation));
    }
    let now = observation.time;
    let readings = read(state, observation, policy);
    let (mut next, demand) = learn(state, observation, policy, &readings);
    let plant = plant(&next, &demand, observation, policy);
    if let Some(plant) = &plant {
        let settled = next.scaling.settled_since.map(|since| now - since);
        next.sink =
            sink::follow(&next.sink, &next.capacity, plant.is_urgent(), next.scaling.last, settled, now);
    }
    let bounds = bounds(policy, next.partition_count);
    let all = next.partition_count.unwrap_or(0);
    let outrun = plant.as_ref().is_some_and(|plant| plant.overloads(all));
    next.outrun_since = outrun.then(|| next.outrun_since.unwrap_or(now));
    let choice = choose(&View {
        state: &next,
        before: state,
        observation,
        policy,
        readings: &readings,
        demand: &demand,
        bounds: &bounds,
        plant: plant.as_ref(),
    });
    let mut decision = Decision {
        desired: choice.desired,
        needed: choice.needed,
        limited_by: choice.limited_by,
        reason: choice.reason,
        explanation: String::new(),
        next_eligible: choice.next_eligible,
        look_again_seconds: choice.look_again.then_some(LOOK_AGAIN_SECONDS),
        estimates: estimates(&next, &demand, &readings, now),
        conditions: conditions(&next, &readings, &demand, &choice, now),
        drain_outcome: drain_outcome(&mut next, oldest(&demand), policy, now),
    };
    if let Some(plant) = &plant {
        decision.estimates.utilization = Some(plant.utilization()).filter(|share| share.is_finite());
        decision.estimates.predicted_drain_seconds =
            Some(plant.drain_seconds(choice.desired)).filter(|seconds| seconds.is_finite());
    }
    decision.explanation = explain::sentence(&decision, observation, policy);
    let since = shadow::sufficed_since(&next, bounds.level_of(choice.desired));
    let outrun = plant.as_ref().is_some_and(Plant::is_outrun);
    next.scaling.asked = asked(&choice, &decision.estimates, observation, outrun, since);
    (next, decision)
}

fn out_of_order(observation: &Observation) -> Decision {
    let spec = observation.replicas.spec;
    Decision {
        desired: spec,
        needed: spec,
        limited_by: Limit::Unknown,
        reason: Reason::LagUnknown,
        explanation: "This observation is not later than the last one; nothing is concluded from it."
            .to_owned(),
        next_eligible: None,
        look_again_seconds: None,
        estimates: Estimates::default(),
        conditions: Vec::new(),
        drain_outcome: None,
    }
}

/// The plan's view of the pipeline; `None` while the capacity of a replica is not known.
fn plant(state: &State, demand: &Demand, observation: &Observation, policy: &Policy) -> Option<Plant> {
    let measured = state.capacity.rate.filter(|_| !state.capacity.tentative).map(f64::from);
    let capacity =
        measured.or(policy.capacity_hint).filter(|capacity| *capacity > 0.0 && capacity.is_finite())?;
    let (now, replicas) = (observation.time, observation.replicas.spec);
    let mut loads = demand.loads.clone();
    if shadow::outlasts_bursts(state, replicas, now) {
        loads.values_mut().for_each(|load| load.rate = load.rate.min(load.calm));
    }
    Some(Plant {
        loads,
        owned: owned(demand, observation),
        shape: Shape::of(state),
        replicas,
        capacity,
        target: policy.target_lag_seconds.max(1.0),
        delay: gate::converge_seconds(&state.scaling),
        pause: gate::pause_seconds(&state.scaling),
        interval: state.interval.map_or(INTERVAL_SECONDS, f64::from),
        rise: rise(demand),
        roughness: f64::from(state.roughness),
        rising: is_rising(state, now),
    })
}

/// True if the pipeline has grown not long ago. What fell and comes again after that is no rise that goes on.
fn is_rising(state: &State, now: f64) -> bool {
    let lowered = state.scaling.lowered.unwrap_or(f64::NEG_INFINITY);
    state.scaling.grown.is_some_and(|grown| now - grown < RISING_SECONDS && lowered < grown)
}

/// By which share of itself the load will have risen when a growth has paid off.
fn rise(demand: &Demand) -> f64 {
    let rate: f64 = demand.loads.values().map(|load| load.rate).sum();
    let share = if rate > 0.0 { (demand.slope * AHEAD_SECONDS / rate).min(MOST_RISE) } else { 0.0 };
    if share > LEAST_RISE { share } else { 0.0 }
}

/// Who has which partitions, if every replica has told; else empty.
fn owned(demand: &Demand, observation: &Observation) -> Vec<Vec<i32>> {
    let told: Vec<Vec<i32>> =
        observation.consumers.iter().filter_map(|consumer| consumer.partitions.clone()).collect();
    if told.len() != observation.replicas.spec as usize {
        return Vec::new();
    }
    let mut all: Vec<i32> = told.iter().flatten().copied().collect();
    all.sort_unstable();
    let once = all.windows(2).all(|pair| pair[0] != pair[1]);
    if !once || demand.loads.keys().any(|partition| all.binary_search(partition).is_err()) {
        return Vec::new();
    }
    told
}

fn oldest(demand: &Demand) -> f64 {
    demand.loads.values().map(|load| load.age).fold(0.0, f64::max)
}

/// Compares prediction and fact when the backlog of the last growth is gone.
fn drain_outcome(state: &mut State, age: f64, policy: &Policy, now: f64) -> Option<DrainOutcome> {
    let drain = state.scaling.drain?;
    let actual_seconds = now - drain.since;
    let gone = age <= gone_age(policy.target_lag_seconds);
    let settled = state.scaling.settled_since.is_some_and(|since| since > drain.since);
    if gone && settled {
        state.scaling.drain = None;
        return Some(DrainOutcome { predicted_seconds: drain.predicted_seconds, actual_seconds });
    }
    if actual_seconds > LONGEST_DRAIN_SECONDS {
        state.scaling.drain = None;
    }
    None
}

fn asked(
    choice: &Choice,
    estimates: &Estimates,
    observation: &Observation,
    outrun: bool,
    since: Option<f64>,
) -> Option<Asked> {
    (choice.desired != observation.replicas.spec).then_some(Asked {
        time: observation.time,
        desired: choice.desired,
        urgent: choice.reason == Reason::LagAboveTarget,
        outrun: choice.reason == Reason::LagAboveTarget && outrun,
        drain_seconds: estimates.predicted_drain_seconds,
        spare_since: since.filter(|_| choice.desired < observation.replicas.spec),
    })
}
