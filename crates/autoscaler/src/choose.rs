//! The ladder of rules from what is known to a number. The first rule that applies decides.

use crate::bounds::Bounds;
use crate::demand::Demand;
use crate::gate::{self, Gate};
use crate::offsets::Readings;
use crate::plan::Plant;
use crate::{Limit, Observation, OnUnknown, Policy, Reason, State, shadow, sink};

/// A smaller number that is due within this share of the window is waited for.
const NEARLY_SHARE: f64 = 0.5;

/// Saving this share of the replicas takes one window; the less is saved, the longer it must have been certain:
/// half of the saving, four times the window, …
const CERTAIN_SHARE: f64 = 0.5;
/// … up to so many windows.
const MOST_CERTAIN: f64 = 5.0;

/// So many windows lie between a growth that arrivals called for and the next scale-down.
const GROWN_WINDOWS: f64 = 2.0;
/// So many windows lie between two scale-downs.
const FALLING_WINDOWS: f64 = 3.0;

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
}

impl Choice {
    fn new(desired: u32, needed: u32, limited_by: Limit, reason: Reason) -> Self {
        Self { desired, needed, limited_by, reason, next_eligible: None }
    }
}

/// Applies the rules in order.
pub(crate) fn choose(view: &View<'_>) -> Choice {
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
    fn spec(&self) -> u32 {
        self.observation.replicas.spec
    }

    fn now(&self) -> f64 {
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
    fn needed(&self) -> u32 {
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
        return Some(view.hold(Limit::Unknown, Reason::Learning));
    }
    let candidates = view.candidates();
    let least = candidates.first().copied().unwrap_or(1).min(view.bounds.cap);
    let size = |candidates: &[u32]| view.plant.and_then(|plant| plant.size(candidates)).unwrap_or(least);
    let (desired, needed) = (size(&candidates), size(&view.bounds.levels));
    let limited_by = if needed > desired { view.bounds.cap_by } else { Limit::None };
    Some(Choice::new(desired.max(least), needed, limited_by, Reason::Wake))
}

/// The first reading with events says that they came, not how fast they come: it caught an unknown part of the
/// interval. Where one replica might not do, the second reading is awaited, to wake with the right number.
fn may_measure_once_more(view: &View<'_>) -> bool {
    let (Some(plant), Some(last)) = (view.plant, view.before.time) else {
        return false;
    };
    let span = view.now() - last;
    let first = view.before.idle_since.is_some() && view.state.idle_since.is_none();
    first && span <= 6.0 && view.demand.lag as f64 / span.max(1.0) > 0.2 * plant.capacity
}

/// Pods, rollout or group move: wait. The exception is an emergency that is not the doing of the last change
/// (a rollout, a crash): objective lost before things can have settled, and far more replicas needed.
fn settling(view: &View<'_>) -> Option<Choice> {
    if view.gate() != Gate::Settling {
        return None;
    }
    let own = view.state.scaling.last.is_some_and(|last| last.settling);
    let emergency = view.plant.filter(|plant| !own && plant.is_emergency());
    let desired = emergency.and_then(|plant| plant.growth(&view.candidates()));
    match desired {
        Some(desired)
            if view.readings.complete() && !view.demand.all_stalled() && desired * 2 >= view.spec() * 3 =>
        {
            Some(Choice::new(desired, desired, Limit::None, Reason::LagAboveTarget))
        }
        _ => Some(view.hold(Limit::Converging, Reason::Converging)),
    }
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

/// Nothing has arrived for long enough: to the floor, which may be zero.
fn idle(view: &View<'_>) -> Option<Choice> {
    let since = view.state.idle_since?;
    if view.bounds.floor > 0 || view.gate() == Gate::Stuck {
        return None;
    }
    let eligible = since + view.policy.idle_seconds.max(0.0);
    if view.now() >= eligible {
        return Some(Choice::new(0, 0, Limit::None, Reason::Idle));
    }
    let choice = Choice::new(view.spec(), 0, Limit::Stabilization, Reason::Waiting);
    Some(Choice { next_eligible: Some(eligible), ..choice })
}

/// What a replica can do is not known yet.
fn not_measured(view: &View<'_>) -> Option<Choice> {
    view.plant.is_none().then(|| view.hold(Limit::Unknown, Reason::Learning))
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

/// A dump calls for another number than a step; with the next reading one jump does.
fn undecided(view: &View<'_>) -> Option<Choice> {
    let calls = view.demand.undecided && grown(view).is_some();
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

/// Fewer would do: once they would have done for long enough, and the budget of changes allows it.
fn surplus(view: &View<'_>) -> Option<Choice> {
    let (spec, now) = (view.spec(), view.now());
    let eligible = surplus_candidates(view);
    let (candidate, due) = *eligible.iter().find(|(_, due)| *due <= now).or(eligible.first())?;
    let needed = view.needed();
    let window = view.policy.stabilization_seconds;
    // A still smaller number that is nearly due is waited for: one change instead of two.
    let nearly = |(smaller, soon): &&(u32, f64)| *smaller < candidate && *soon - now <= window * NEARLY_SHARE;
    let wait = if due > now {
        eligible.iter().map(|(_, due)| *due).reduce(f64::min)
    } else if now - due < window {
        eligible.iter().find(nearly).map(|(_, soon)| *soon)
    } else {
        None
    };
    if let Some(wait) = wait {
        let choice = Choice::new(spec, needed, Limit::Stabilization, Reason::Waiting);
        return Some(Choice { next_eligible: Some(wait), ..choice });
    }
    if view.state.scaling.changes.len() >= view.policy.changes_per_hour as usize {
        return Some(Choice::new(spec, needed, Limit::Budget, Reason::Waiting));
    }
    let limited_by = match needed.cmp(&candidate) {
        std::cmp::Ordering::Less if candidate == view.bounds.floor => view.bounds.floor_by,
        std::cmp::Ordering::Less => Limit::Stabilization,
        _ => Limit::None,
    };
    Some(Choice::new(candidate, needed, limited_by, surplus_reason(view, candidate)))
}

/// The smaller numbers that would do at this moment, ascending, and when each has done so for long enough.
fn surplus_candidates(view: &View<'_>) -> Vec<(u32, f64)> {
    let Some(plant) = view.plant else {
        return Vec::new();
    };
    let scaling = &view.state.scaling;
    if view.demand.is_rising() {
        return Vec::new();
    }
    let window = gate::window(scaling, view.policy);
    let changed = scaling.last.map_or(f64::NEG_INFINITY, |last| last.time) + view.policy.cooldown_seconds;
    let grown = scaling.grown.unwrap_or(f64::NEG_INFINITY);
    // A falling load is followed in few steps.
    let lowered = scaling.lowered.unwrap_or(f64::NEG_INFINITY) + FALLING_WINDOWS * window;
    let candidates = view.bounds.candidates().into_iter();
    candidates
        .filter(|candidate| *candidate < view.spec())
        .filter_map(|candidate| {
            let since = would_suffice_since(view, plant, candidate)?;
            let saved = 1.0 - f64::from(candidate) / f64::from(view.spec());
            let certainty = (CERTAIN_SHARE / saved).powi(2).clamp(1.0, MOST_CERTAIN);
            // What arrived, not a backlog, called for the growth: it may well come again.
            let again = if since > grown && grown.is_finite() { GROWN_WINDOWS } else { 1.0 };
            let hold = (grown + window * again).max(changed).max(lowered);
            Some((candidate, (since.max(grown) + window * certainty).max(hold)))
        })
        .collect()
}

/// Since when a smaller number would have sufficed; `None` if it would not now.
fn would_suffice_since(view: &View<'_>, plant: &Plant, candidate: u32) -> Option<f64> {
    if plant.suffices(candidate) {
        return shadow::sufficed_since(view.state, view.bounds.level_of(candidate));
    }
    // What a replica can do is only known to be no less; that nothing waits says that half of them may do.
    let half = candidate * 2 >= view.spec();
    view.state.quiet_since.filter(|_| half && view.state.capacity.bound)
}

/// If the number has always sufficed for the arrivals, the replicas were there for a backlog.
fn surplus_reason(view: &View<'_>, candidate: u32) -> Reason {
    let since = shadow::sufficed_since(view.state, view.bounds.level_of(candidate));
    match view.state.scaling.grown.zip(since) {
        Some((growth, since)) if since < growth => Reason::Drained,
        _ => Reason::Surplus,
    }
}

/// The replicas suffice and fewer would not, or may not be.
fn steady(view: &View<'_>) -> Choice {
    let needed = view.needed();
    let at_floor = needed < view.spec() && view.spec() == view.bounds.floor;
    let limited_by = if at_floor { view.bounds.floor_by } else { Limit::None };
    Choice::new(view.spec(), needed, limited_by, Reason::Steady)
}
