//! Pipelines that rest. One that runs, with nothing to do, is looked at less often, and at once when something arrives. One
//! without consumers, for which nothing waits, is not even reconciled for a while: all else that could concern it comes by the
//! watches, so only decisions are due, and they are made here, of all such pipelines in a row.

use std::time::{Duration, Instant};

use super::observe::{self, still_good};
use super::prepared::Essence;
use super::scale::{self, Shown};
use crate::context::{Context, Memory};
use crate::kafka::Arrivals;
use crate::trace;

/// Usual pause between two decisions on a pipeline with nothing to do.
const LONGEST_REST: Duration = Duration::from_millis(8_500);
/// Usual pause between two reconciles of one that is only decided on; shorter than what was read last is believed.
const SLEEP: Duration = Duration::from_secs(54);
/// Longest pause after failures.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a pipeline rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It does not.
    #[default]
    Awake,
    /// It is reconciled less often, and when something arrives.
    Light,
    /// It is decided on at that time, and reconciled when something arrives, or the decision is another one.
    Deep(Instant),
}

impl Rest {
    /// How a pipeline rests after a reconcile; `told` if that found all to be as it was told before.
    pub(super) fn after(memory: &Memory, told: bool, interval: Duration) -> Self {
        let nobody = |told: &&Essence| told.fleet.gone() && told.migration.is_over();
        let asleep = memory.told.as_ref().filter(nobody);
        if asleep.is_some_and(|told| memory.quiet.is_some() && still_good(&told.fleet, memory).is_some()) {
            // Not this reconcile may have read and decided, but a decision just before it.
            let decided = memory.reading.as_ref().map_or_else(Instant::now, |(at, _)| *at);
            return Self::Deep(decided + pause(interval));
        }
        if told { Self::Light } else { Self::Awake }
    }

    /// The usual time until the next reconcile, or a shorter one that the last decision asks for.
    pub(super) fn interval(self, interval: Duration, asked: Option<Duration>) -> Duration {
        let usual = match self {
            Self::Awake => interval,
            Self::Light => pause(interval),
            Self::Deep(_) => pause(interval).max(SLEEP),
        };
        asked.map_or(usual, |asked| asked.min(usual))
    }
}

// As long as decisions and windows of time bear it.
fn pause(interval: Duration) -> Duration {
    interval.max(LONGEST_REST.min(2 * interval))
}

/// The interval, longer after failures, and different by up to a tenth for each pipeline, so that they do not all come at once.
pub(super) fn spread(interval: Duration, failures: u32, uid: &str) -> Duration {
    let pause = interval.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE.max(interval));
    let share = f64::from(u32::from(blake3::hash(uid.as_bytes()).as_bytes()[0])) / 255.0;
    pause.mul_f64(0.9 + 0.2 * share)
}

/// Looks at a pipeline if it rests, decides on it if that is due, and says whether it has to be reconciled.
pub(crate) fn wakes(memory: &mut Memory, context: &Context) -> bool {
    let (Some(quiet), false) = (&memory.quiet, memory.rest == Rest::Awake) else { return false };
    let arrivals = context.kafka.arrivals(quiet);
    let decide = |memory: &mut Memory| unless_it_panics(|| decide(memory, context));
    let wakes = is_woken(memory, arrivals, Instant::now(), context.settings.poll_interval(), decide);
    if wakes {
        memory.rest = Rest::Awake;
    }
    wakes
}

fn is_woken(
    memory: &mut Memory,
    arrivals: Arrivals,
    now: Instant,
    interval: Duration,
    decide: impl FnOnce(&mut Memory) -> bool,
) -> bool {
    if arrivals == Arrivals::Some {
        // What was read a moment ago is not what is the case.
        memory.reading = None;
        return true;
    }
    match memory.rest {
        Rest::Deep(due) if due <= now => {
            memory.rest = Rest::Deep(now + pause(interval));
            arrivals == Arrivals::Unknown || !decide(memory)
        }
        _ => false,
    }
}

// One pipeline's trouble must not end what wakes all of them; its reconcile will meet the same, and tell.
fn unless_it_panics(decide: impl FnOnce() -> bool) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decide)).unwrap_or(false)
}

// Decides as a reconcile would, and says whether it comes to the same as what is told.
fn decide(memory: &mut Memory, context: &Context) -> bool {
    let (Some(prepared), Some(told)) = (memory.prepared.clone(), memory.told.take()) else { return false };
    let Some(seen) = observe::again(&told.fleet, memory) else { return false };
    memory.reading = Some((Instant::now(), seen.reading.clone()));
    let scale = scale::run(&prepared.valid, &told.fleet, &seen, memory, &context.decisions);
    let same = Shown::of(&scale) == told.scale;
    if !same {
        // The reconcile that follows takes this decision as it is.
        let (namespace, name) = &memory.name;
        let span = trace::reconcile(namespace, name, None);
        span.in_scope(|| trace::decided(told.fleet.spec, scale.replicas, scale.decision.as_ref()));
    }
    memory.told = Some(told);
    same
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use autoscaler::{Estimates, GroupState};

    use super::*;
    use crate::kafka::{Quiet, Reading};
    use crate::pipeline::fixtures;
    use crate::pipeline::migrate::Migration;
    use crate::pipeline::observe::Fleet;
    use crate::pipeline::scale::Scale;

    const INTERVAL: Duration = Duration::from_secs(5);

    /// As it is remembered after a reconcile that found nothing to do.
    fn memory(fleet: Fleet, lag_events: u64, migration: Migration) -> Memory {
        let (_, decision) = autoscaler::decide(&Default::default(), &Default::default(), &Default::default());
        let estimates = Estimates { lag_events: Some(lag_events), ..decision.estimates };
        let decision = autoscaler::Decision { estimates, conditions: Vec::new(), ..decision };
        let reading = Reading { partition_count: 1, group: GroupState::Empty, ..Reading::default() };
        Memory {
            quiet: Quiet::new(&fixtures::valid("{}").kafka, &reading),
            reading: Some((Instant::now(), Ok(reading))),
            decision: Some(decision),
            asked: Some((Instant::now(), fleet.clone())),
            told: Some(Essence { version: None, fleet, migration, scale: Shown::of(&Scale::default()) }),
            ..Memory::default()
        }
    }

    #[test]
    fn only_a_pipeline_without_consumers_for_which_nothing_waits_rests_deeply() {
        let none = Fleet { exists: true, ..Fleet::default() };
        let one = Fleet { exists: true, spec: 1, existing: 1, ready: 1, pods: 1, ..Fleet::default() };
        let stops = Fleet { pods: 1, ..none.clone() };
        let table = [
            ("asleep", memory(none.clone(), 0, Migration::Done), Some(true)),
            ("suspended", memory(none.clone(), 0, Migration::NotWanted), Some(true)),
            ("something waits", memory(none.clone(), 1, Migration::Done), Some(false)),
            ("the schema is not ready", memory(none.clone(), 0, Migration::Running), Some(false)),
            ("a consumer runs", memory(one, 0, Migration::Done), Some(false)),
            ("a consumer has not stopped yet", memory(stops, 0, Migration::Done), Some(false)),
            ("not everything is told", Memory { told: None, ..memory(none, 0, Migration::Done) }, None),
        ];
        for (what, memory, deep) in table {
            let rest = |told| Rest::after(&memory, told, INTERVAL);
            assert_eq!(matches!(rest(true), Rest::Deep(_)), deep == Some(true), "{what}");
            assert_eq!(rest(false) == Rest::Awake, deep != Some(true), "{what}");
        }
    }

    #[test]
    fn what_arrives_wakes_and_so_does_another_decision_or_none() {
        let now = Instant::now();
        let (due, later) = (Rest::Deep(now), Rest::Deep(now + INTERVAL));
        // How it rests, what has arrived, whether the decision is the same; whether it is decided on, and woken.
        let table = [
            (Rest::Light, Arrivals::None, true, false, false),
            (Rest::Light, Arrivals::Unknown, true, false, false),
            (Rest::Light, Arrivals::Some, true, false, true),
            (later, Arrivals::None, true, false, false),
            (later, Arrivals::Unknown, true, false, false),
            (later, Arrivals::Some, true, false, true),
            (due, Arrivals::None, true, true, false),
            (due, Arrivals::None, false, true, true),
            (due, Arrivals::Unknown, true, false, true),
            (due, Arrivals::Some, true, false, true),
        ];
        for (rest, arrivals, same, decided, woken) in table {
            let mut memory = Memory { rest, ..memory(Fleet::default(), 0, Migration::Done) };
            let asked = Cell::new(false);
            let decide = |_: &mut Memory| {
                asked.set(true);
                same
            };
            let outcome = is_woken(&mut memory, arrivals, now, INTERVAL, decide);
            let case = format!("{rest:?} {arrivals:?} {same}");
            assert_eq!((asked.get(), outcome), (decided, woken), "{case}");
            // A reading of a moment ago would hide what has arrived since.
            assert_eq!(memory.reading.is_none(), arrivals == Arrivals::Some, "{case}");
            if rest == due && !woken {
                assert_eq!(memory.rest, Rest::Deep(now + pause(INTERVAL)), "{case}");
            }
        }
    }

    #[test]
    fn a_decision_that_panics_wakes_its_pipeline_only() {
        let now = Instant::now();
        let mut memory = Memory { rest: Rest::Deep(now), ..memory(Fleet::default(), 0, Migration::Done) };
        let decide = |_: &mut Memory| unless_it_panics(|| panic!("a mistake"));
        assert!(is_woken(&mut memory, Arrivals::None, now, INTERVAL, decide));
    }

    #[test]
    fn a_pipeline_is_decided_on_every_ten_seconds_unless_asked_to_less_often() {
        for (interval, expected) in [(1_000, 2_000), (5_000, 8_500), (30_000, 30_000)] {
            let interval = Duration::from_millis(interval);
            assert_eq!(pause(interval), Duration::from_millis(expected), "{interval:?}");
            let longest = spread(Rest::Light.interval(interval, None), 0, "uid");
            assert!(interval > INTERVAL || longest < Duration::from_secs(10), "{longest:?}");
        }
    }

    #[test]
    fn a_decision_that_leaves_something_open_is_followed_by_another_soon() {
        let asked = Duration::from_millis(2_500);
        let slow = Duration::from_secs(1);
        for (rest, interval, asked, expected) in [
            (Rest::Awake, INTERVAL, None, INTERVAL),
            (Rest::Awake, INTERVAL, Some(asked), asked),
            (Rest::Awake, slow, Some(asked), slow),
            (Rest::Light, INTERVAL, Some(asked), asked),
        ] {
            assert_eq!(rest.interval(interval, asked), expected, "{rest:?} {interval:?} {asked:?}");
        }
        // Else the next reconcile would not look, and decide nothing.
        assert!(asked.mul_f64(0.9) > observe::FRESH);
    }

    #[test]
    fn pauses_grow_with_failures_and_are_bounded() {
        let seconds = |failures| spread(INTERVAL, failures, "uid").as_secs_f64();
        assert!((4.5..=5.5).contains(&seconds(0)), "{}", seconds(0));
        assert!(seconds(1) > 1.5 * seconds(0));
        assert!(seconds(100) <= 66.0);
        assert_ne!(spread(INTERVAL, 0, "a"), spread(INTERVAL, 0, "b"), "not all at once");
    }
}
