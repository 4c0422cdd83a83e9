//! When fewer replicas are taken: once they would have sufficed for long enough, in few steps, and not when the load
//! seems to come again.
//!
//! Every change is a rebalance, so one that saves less than half of the replicas has to earn it: each change of late
//! doubles its time, and counts half after an hour (as routers damp routes that flap, RFC 2439). What saves half or
//! more goes after the window in any case.

use crate::choose::{Choice, View};
use crate::plan::{AHEAD_SECONDS, Plant};
use crate::state::ScalingMemory;
use crate::{Limit, Reason, gate, shadow};

/// A smaller number that is due within this share of the window is waited for.
const NEARLY_SHARE: f64 = 0.5;

/// Saving this share of the replicas takes one window; the less is saved, the longer it must have been certain:
/// half of the saving, four times the window, …
const CERTAIN_SHARE: f64 = 0.5;
/// … up to so many windows.
const MOST_CERTAIN: f64 = 5.0;

/// What the objective called for within so many seconds is not tried without, and what arrivals, not a backlog, called
/// for in that time may well be called for again: …
const OUTGROWN_SECONDS: f64 = 3600.0;
/// … fewer must have sufficed for so many times longer.
const GROWN_WINDOWS: f64 = 1.4;
/// A load that will be smaller in ten minutes by this share of what the replicas can do is falling.
const FALLING_SHARE: f64 = 0.25;
/// So many windows lie between two scale-downs.
const FALLING_WINDOWS: f64 = 3.0;
/// Of the first change half is free: it is what the load called for.
const FREE_CHANGES: f64 = 0.5;
/// Enough to find a moment within hours to a millisecond.
const HALVINGS: usize = 32;

/// A smaller number that would do at this moment.
#[derive(Clone, Copy)]
struct Candidate {
    replicas: u32,
    /// When it will have done so for long enough.
    due: f64,
    /// True if only the changes of late make it wait.
    dear: bool,
}

/// Fewer would do: once they would have done for long enough, and the budget of changes allows it.
pub(crate) fn surplus(view: &View<'_>) -> Option<Choice> {
    let (spec, now) = (view.spec(), view.now());
    let eligible = surplus_candidates(view);
    let Candidate { replicas: candidate, due, .. } =
        *eligible.iter().find(|each| each.due <= now).or(eligible.first())?;
    let needed = view.needed();
    let window = view.policy.stabilization_seconds;
    // A still smaller number that is nearly due is waited for: one change instead of two.
    let nearly = |each: &&Candidate| each.replicas < candidate && each.due - now <= window * NEARLY_SHARE;
    let wait = if due > now {
        eligible.iter().min_by(|one, other| one.due.total_cmp(&other.due))
    } else if now - due < window {
        eligible.iter().find(nearly)
    } else {
        None
    };
    if let Some(wait) = wait {
        let limited_by = if wait.dear { Limit::Budget } else { Limit::Stabilization };
        let choice = Choice::new(spec, needed, limited_by, Reason::Waiting);
        return Some(Choice { next_eligible: Some(wait.due), ..choice });
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
fn surplus_candidates(view: &View<'_>) -> Vec<Candidate> {
    let Some(plant) = view.plant else {
        return Vec::new();
    };
    let (scaling, now) = (&view.state.scaling, view.now());
    // A hot partition gets what the others on its replica leave it; fewer replicas would leave it less.
    if view.demand.is_rising() || !view.demand.hot.is_empty() {
        return Vec::new();
    }
    // One change at the end of a fall instead of several on the way, if the end is not far.
    let falling =
        view.demand.slope * AHEAD_SECONDS < -FALLING_SHARE * f64::from(view.spec()) * plant.capacity;
    let outgrown = scaling.outgrown.is_some_and(|time| now - time < OUTGROWN_SECONDS);
    // After a regret every smaller number is doubted; after a backlog only those that gave rise to it.
    let doubted = scaling.last.filter(|_| !outgrown).map_or(u32::MAX, |last| last.from);
    let window = |candidate: u32| {
        if candidate <= doubted {
            gate::window(scaling, view.policy)
        } else {
            view.policy.stabilization_seconds.max(0.0)
        }
    };
    let changed = scaling.last.map_or(f64::NEG_INFINITY, |last| last.time) + view.policy.cooldown_seconds;
    let grown = scaling.grown.unwrap_or(f64::NEG_INFINITY);
    // A falling load is followed in few steps. What was lowered before a growth was another fall.
    let falls_on = scaling.last.is_some_and(|last| last.to < last.from);
    let lowered = scaling.lowered.filter(|_| falls_on).unwrap_or(f64::NEG_INFINITY);
    let candidates = view.bounds.candidates().into_iter();
    candidates
        .filter(|candidate| *candidate < view.spec())
        .filter_map(|candidate| {
            let since = would_suffice_since(view, plant, candidate)?;
            let saved = 1.0 - f64::from(candidate) / f64::from(view.spec());
            let certainty = (CERTAIN_SHARE / saved).powi(2).clamp(1.0, MOST_CERTAIN);
            let certainty = if outgrown { GROWN_WINDOWS * certainty } else { certainty };
            if in_vain(view, candidate) {
                let due = changed + view.policy.cooldown_seconds;
                return Some(Candidate { replicas: candidate, due, dear: false });
            }
            let window = window(candidate);
            // What a burst or a backlog called for is not waited for.
            let lull = if since > grown { gate::lull_seconds(scaling) } else { 0.0 };
            let due = |price: f64| {
                let due = (since.max(grown) + (window * certainty * price).max(lull))
                    .max(changed)
                    .max(lowered + FALLING_WINDOWS * window);
                if falling { due + window } else { due }
            };
            let paid = if saved < CERTAIN_SHARE { paid_at(scaling, due) } else { due(1.0) };
            Some(Candidate { replicas: candidate, due: paid, dear: due(1.0) <= now && paid > now })
        })
        .collect()
}

/// When a scale-down that saves little has earned what it costs: each change of late doubles the time. The debt falls
/// while it is waited for, so that is the moment at which the two meet; `due` tells when it is so many times as long.
fn paid_at(scaling: &ScalingMemory, due: impl Fn(f64) -> f64) -> f64 {
    let asked = |time: f64| due((gate::debt(scaling, time) - FREE_CHANGES).max(0.0).exp2());
    let (mut early, mut late) = (due(1.0), asked(f64::NEG_INFINITY));
    if asked(early) <= early {
        return early;
    }
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(early, late);
        *(if asked(middle) > middle { &mut early } else { &mut late }) = middle;
    }
    late
}

/// True if the last growth was for a burst that the number before it has outlasted after all.
fn in_vain(view: &View<'_>, candidate: u32) -> bool {
    let grown = view.state.scaling.last.filter(|last| last.to > last.from && candidate == last.from);
    grown
        .is_some_and(|grown| shadow::outlasted_since(view.state, view.bounds.level_of(candidate), grown.time))
}

/// Since when a smaller number would have sufficed; `None` if it would not now.
fn would_suffice_since(view: &View<'_>, plant: &Plant, candidate: u32) -> Option<f64> {
    if plant.suffices(candidate) {
        return shadow::sufficed_since(view.state, view.bounds.level_of(candidate));
    }
    // What a replica can do is only known to be no less; that nothing waits says that half of them may do.
    let half = candidate * 2 >= view.spec();
    // What the objective called for within the hour is no matter for trials: another one would end like the last.
    let grown = view.state.scaling.grown.is_some_and(|grown| view.now() - grown < OUTGROWN_SECONDS);
    view.state.quiet_since.filter(|_| half && view.state.capacity.bound && !grown)
}

/// If the number has always sufficed for the arrivals, the replicas were there for a backlog.
fn surplus_reason(view: &View<'_>, candidate: u32) -> Reason {
    let since = shadow::sufficed_since(view.state, view.bounds.level_of(candidate));
    match view.state.scaling.grown.zip(since) {
        Some((growth, since)) if since < growth => Reason::Drained,
        _ => Reason::Surplus,
    }
}
