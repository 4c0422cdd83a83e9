//! The ladder of rules from what is known to a number. The first rule that applies decides.

use crate::bounds::Bounds;
use crate::demand::Demand;
use crate::gate::{self, Gate};
use crate::offsets::Readings;
use crate::plan::Plant;
use crate::surplus::surplus;
use crate::{Limit, Observation, OnUnknown, Policy, Reason, State, sink};

/// A rollout is judged by what happened to the lag in so many seconds …
const DISTURBED_SECONDS: f64 = 45.0;
/// … and made up for with this much to spare.
const DISTURBED_FACTOR: f64 = 1.25;

/// Everything a rule may look at.
pub(crate) struct View<'a> {
    /// Memory with the observation taken in.
    pub(crate) state: &'a State,
    /// Memory before.
    pub(crate) before: &'a State,
    pub(crate) observation: &'a Observation,
    pub(crate) policy: &'a Policy,
    pub(crate) readings: &'a Readings,
    pub(crate) demand: &'a Demand,
    pub(crate) bounds: &'a Bounds,
    /// `None` while the capacity of a replica is not known.
    pub(crate) plant: Option<&'a Plant>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) desired: u32,
    pub(crate) needed: u32,
    pub(crate) limited_by: Limit,
    pub(crate) reason: Reason,
    pub(crate) next_eligible: Option<f64>,
    /// True if the next reading settles what this one leaves open, and is worth taking soon.
    pub(crate) look_again: bool,
}

impl Choice {
    pub(crate) fn new(desired: u32, needed: u32, limited_by: Limit, reason: Reason) -> Self {
        Self { desired, needed, limited_by, reason, next_eligible: None, look_again: false }
    }

    /// The same, to be settled by a reading that is worth taking soon.
    fn soon(self) -> Self {
        Self { look_again: true, ..self }
    }
}

/// Applies the rules in order.
pub(crate) fn choose(view: &View<'_>) -> Choice {
    let choice = apply(view);
    // Also while what has come calls for nothing yet: a step will, and every second until then is backlog.
    let tight = view.plant.is_some_and(Plant::is_tight);
    let open =
        view.demand.undecided && tight && view.gate() == Gate::Settled && choice.desired == view.spec();
    if open { choice.soon() } else { choice }
}

fn apply(view: &View<'_>) -> Choice {
    outside_bounds(view)
        .or_else(|| asleep(view))
        .or_else(|| settling(view))
        .or_else(|| unknown(view))
        .or_else(|| idle(view))
        .or_else(|| not_measured(view))
        .or_else(|| stalled(view))
        .or_else(|| sink_saturated(view))
        .or_else(|| undecided(view))
        .or_else(|| growth(view))
        .or_else(|| surplus(view))
        .unwrap_or_else(|| steady(view))
}

impl View<'_> {
    pub(crate) fn spec(&self) -> u32 {
        self.observation.replicas.spec
    }

    pub(crate) fn now(&self) -> f64 {
        self.observation.time
    }

    fn gate(&self) -> Gate {
        gate::gate(&self.state.scaling, self.now())
    }

    /// Candidates up to what the database is known to take.
    fn candidates(&self) -> Vec<u32> {
        let mut candidates = self.bounds.candidates();
        if let Some(most) = sink::most_useful(&self.state.sink, &self.state.capacity, &self.bounds.levels) {
            candidates.retain(|candidate| *candidate <= most);
        }
        candidates
    }

    /// The least number that would do at this moment, at most the present one.
    pub(crate) fn needed(&self) -> u32 {
        let spec = self.spec();
        if self.state.idle_since.is_some_and(|since| self.now() - since >= self.policy.idle_seconds) {
            return 0;
        }
        let enough = |level: &&u32| self.plant.is_some_and(|plant| plant.suffices(**level));
        self.bounds.levels.iter().find(enough).copied().unwrap_or(spec).min(spec)
    }

    fn hold(&self, limited_by: Limit, reason: Reason) -> Choice {
        Choice::new(self.spec(), self.spec(), limited_by, reason)
    }
}

/// A replica count outside the policy's bounds is brought to them whatever else is the case.
fn outside_bounds(view: &View<'_>) -> Option<Choice> {
    let (spec, bounds) = (view.spec(), view.bounds);
    if spec > bounds.cap {
        return Some(Choice::new(bounds.cap, view.needed(), bounds.cap_by, Reason::Bounds));
    }
    if spec >= bounds.floor {
        return None;
    }
    let more = if spec == 0 { asleep(view).map(|choice| choice.desired) } else { grown(view) };
    let desired = more.unwrap_or(0).max(bounds.floor);
    Some(Choice::new(desired, view.needed(), bounds.floor_by, Reason::Bounds))
}

/// Nobody consumes: wake for any lag, at once with the right number; else sleep on.
fn asleep(view: &View<'_>) -> Option<Choice> {
    if view.spec() > 0 {
        return None;
    }
    let unpinned = view.readings.known.iter().any(|reading| !reading.pinned);
    if view.demand.lag == 0 && !unpinned {
        let unknown = !view.readings.complete();
        return Some(if unknown { on_unknown(view) } else { view.hold(Limit::None, Reason::Idle) });
    }
    if may_measure_once_more(view) {
        return Some(view.hold(Limit::Unknown, Reason::Learning).soon());
    }
    let candidates = view.candidates();
    let least = candidates.first().copied().unwrap_or(1).min(view.bounds.cap);
    let size = |candidates: &[u32]| view.plant.and_then(|plant| plant.size(candidates)).unwrap_or(least);
    let (desired, needed) = (size(&candidates), size(&view.bounds.levels));
    let limited_by = if needed > desired { view.bounds.cap_by } else { Limit::None };
    Some(Choice::new(desired.max(least), needed, limited_by, Reason::Wake))
}

/// The first reading with events says that they came, not how fast they come: it caught an unknown part of the
/// interval, which is a long one where little has happened. Where one replica might not do, the second reading is awaited, to wake
/// with the right number.
fn may_measure_once_more(view: &View<'_>) -> bool {
    let (Some(plant), Some(last)) = (view.plant, view.before.time) else {
        return false;
    };
    let span = view.now() - last;
    let first = view.before.idle_since.is_some() && view.state.idle_since.is_none();
    first && view.demand.lag as f64 / span.max(1.0) > 0.2 * plant.capacity
}

/// Pods, rollout or group move: wait. The exception is an emergency that is not the doing of the last change
/// (a rollout, a crash): objective lost before things can have settled, and far more replicas needed.
fn settling(view: &View<'_>) -> Option<Choice> {
    if view.gate() != Gate::Settling {
        return None;
    }
    let own = view.state.scaling.last.is_some_and(|last| last.settling);
    let emergency = view.plant.filter(|plant| !own && plant.is_emergency());
    let desired = emergency
        .and_then(|plant| plant.growth(&view.candidates()))
        .or_else(|| if own { None } else { disturbed(view) });
    match desired {
        Some(desired)
            if view.readings.complete() && !view.demand.all_stalled() && desired * 2 >= view.spec() * 3 =>
        {
            Some(Choice::new(desired, desired, Limit::None, Reason::LagAboveTarget))
        }
        _ => Some(view.hold(Limit::Converging, Reason::Converging)),
    }
}

/// A rollout costs capacity for as long as it lasts. If events have grown older all the while, at a pace that will
/// lose the objective, so many more replicas are needed as make up for what it costs.
fn disturbed(view: &View<'_>) -> Option<u32> {
    let (plant, scaling) = (view.plant?, &view.state.scaling);
    let lasts = scaling.unsettled_since.map_or(0.0, |since| view.now() - since);
    if !view.observation.replicas.rollout_in_progress || lasts < DISTURBED_SECONDS {
        return None;
    }
    let pace = plant.pace(f64::from(scaling.unsettled_age), lasts)?;
    let wanted = f64::from(view.spec()) * DISTURBED_FACTOR / (1.0 - pace).max(0.25);
    let larger: Vec<u32> =
        view.candidates().into_iter().filter(|candidate| *candidate > view.spec()).collect();
    larger.iter().copied().find(|candidate| f64::from(*candidate) >= wanted).or(larger.last().copied())
}

/// Some lag cannot be told: what is known may call for more, nothing may call for less.
fn unknown(view: &View<'_>) -> Option<Choice> {
    if view.readings.complete() {
        return None;
    }
    let held = on_unknown(view);
    match grown(view) {
        Some(desired) if desired > held.desired && !view.demand.all_stalled() => {
            Some(Choice::new(desired, desired, Limit::Unknown, Reason::LagAboveTarget))
        }
        _ => Some(held),
    }
}

fn on_unknown(view: &View<'_>) -> Choice {
    let spec = view.spec();
    let since = view.state.unknown_since.unwrap_or(view.now());
    let floor = match view.policy.on_unknown {
        OnUnknown::Floor(floor) if view.now() - since >= view.policy.unknown_seconds => floor,
        OnUnknown::Floor(_) | OnUnknown::Hold => 0,
    };
    let desired = spec.max(floor.min(view.bounds.cap));
    Choice::new(desired, desired, Limit::Unknown, Reason::LagUnknown)
}

/// Nothing has arrived for long enough: to zero, or to a higher floor if it is not even known what a replica can do (else
/// that is a matter of load like any other).
fn idle(view: &View<'_>) -> Option<Choice> {
    let since = view.state.idle_since?;
    let floor = view.bounds.floor;
    let unmeasured = view.plant.is_none() && view.spec() > floor;
    if (floor > 0 && !unmeasured) || view.gate() == Gate::Stuck {
        return None;
    }
    let eligible = since + view.policy.idle_seconds.max(0.0);
    if view.now() >= eligible {
        let limited_by = if floor > 0 { view.bounds.floor_by } else { Limit::None };
        return Some(Choice::new(floor, 0, limited_by, Reason::Idle));
    }
    let choice = Choice::new(view.spec(), 0, Limit::Stabilization, Reason::Waiting);
    Some(Choice { next_eligible: Some(eligible), ..choice })
}

/// What a replica can do is not known yet.
fn not_measured(view: &View<'_>) -> Option<Choice> {
    let learning = view.plant.is_none().then(|| view.hold(Limit::Unknown, Reason::Learning))?;
    // One sample more makes it known.
    let nearly = view.demand.lag > 0 && view.state.capacity.tentative;
    Some(if nearly { learning.soon() } else { learning })
}

/// Everything with lag stands still although consumers are there: more of them would stand still too.
fn stalled(view: &View<'_>) -> Option<Choice> {
    view.demand.all_stalled().then(|| view.hold(Limit::None, Reason::Stalled))
}

/// The database's limit binds: no more replicas than store as much as it takes.
fn sink_saturated(view: &View<'_>) -> Option<Choice> {
    let ceiling = view.state.sink.ceiling.as_ref().filter(|ceiling| ceiling.active)?;
    let enough = ceiling.replicas.clamp(view.bounds.floor.max(1), view.bounds.cap);
    let needed = view.plant.and_then(|plant| plant.growth(&view.bounds.levels)).unwrap_or(view.needed());
    let spec = view.spec();
    if spec < enough {
        return None;
    }
    let last = view.state.scaling.last.map_or(f64::NEG_INFINITY, |last| last.time);
    let too_soon = view.now() - last < view.policy.cooldown_seconds;
    if spec == enough && needed < spec {
        return None;
    }
    let desired = if too_soon { spec } else { enough };
    Some(Choice::new(desired, needed, Limit::Sink, Reason::SinkSaturated))
}

/// A dump calls for another number than a step; with the next reading one jump does, unless it calls for all.
fn undecided(view: &View<'_>) -> Option<Choice> {
    let most = view.candidates().last().copied();
    let calls = view.demand.undecided && grown(view).is_some_and(|desired| Some(desired) != most);
    calls.then(|| view.hold(Limit::Unknown, Reason::Learning))
}

/// The number to grow to, if growing makes a violation shorter.
fn grown(view: &View<'_>) -> Option<u32> {
    let last = view.state.scaling.last.map_or(f64::NEG_INFINITY, |last| last.time);
    let patience = gate::stuck_seconds(&view.state.scaling);
    match view.gate() {
        Gate::Settling => None,
        // What never settles is given one replica count per patience, not one per reading.
        Gate::Stuck if view.now() - last < patience => None,
        Gate::Stuck | Gate::Settled => view.plant?.growth(&view.candidates()),
    }
}

/// Events would wait too long: one jump to what is needed.
fn growth(view: &View<'_>) -> Option<Choice> {
    let spec = view.spec();
    let plant = view.plant?;
    let unbounded = plant.growth(&view.bounds.levels);
    if let Some(desired) = grown(view) {
        let allowed = |recalled: &u32| view.candidates().last().is_some_and(|most| recalled <= most);
        let desired = gate::recalled(&view.state.scaling, desired, view.now())
            .filter(|recalled| plant.is_outrun() && allowed(recalled))
            .unwrap_or(desired);
        let needed = unbounded.unwrap_or(desired).max(desired);
        let limited_by = if needed > desired { view.bounds.cap_by } else { Limit::None };
        return Some(Choice::new(desired, needed, limited_by, Reason::LagAboveTarget));
    }
    let stuck = view.gate() == Gate::Stuck;
    match unbounded {
        Some(needed) if stuck => Some(Choice::new(spec, needed, Limit::Converging, Reason::Converging)),
        Some(needed) => Some(Choice::new(spec, needed, view.bounds.cap_by, Reason::AtLimit)),
        None if stuck => Some(view.hold(Limit::Converging, Reason::Converging)),
        None if !plant.is_urgent() => None,
        None if view.bounds.level_of(spec) == view.bounds.levels.last().copied().unwrap_or(0) => {
            Some(Choice::new(spec, spec, Limit::Partitions, Reason::AtLimit))
        }
        None => None,
    }
}

/// The replicas suffice and fewer would not, or may not be.
fn steady(view: &View<'_>) -> Choice {
    let needed = view.needed();
    let limited_by = if !view.demand.hot.is_empty() {
        Limit::HotPartition
    } else if needed < view.spec() && view.spec() == view.bounds.floor {
        view.bounds.floor_by
    } else {
        Limit::None
    };
    Choice::new(view.spec(), needed, limited_by, Reason::Steady)
}
