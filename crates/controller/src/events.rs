//! Events: what a person wants to read in `kubectl describe`, on transitions only.

use autoscaler::Estimates;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};

use crate::conditions;

/// Conditions whose turning False is worth an Event.
const TELLING_WHEN_FALSE: [&str; 4] =
    [conditions::READY, conditions::RECONCILED, conditions::MIGRATED, conditions::LAG_AVAILABLE];
/// Conditions whose turning True is worth an Event.
const TELLING_WHEN_TRUE: [&str; 6] = [
    conditions::SUSPENDED,
    conditions::SCALING_LIMITED,
    conditions::SCALING_CONFLICT,
    conditions::STALLED,
    conditions::HOT_PARTITION,
    conditions::SINK_SATURATED,
];
/// Action of Events about the number of consumers.
const SCALE: &str = "Scale";
/// Longest note that the API server accepts.
const NOTE_BYTES: usize = 1024;

/// Events that tell how conditions changed. Nothing is told twice: when Ready turns False for the reason of another condition,
/// only that one speaks.
pub(crate) fn between(old: &[Condition], new: &[Condition]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for condition in new.iter().rev() {
        let before = old.iter().find(|before| before.type_ == condition.type_);
        if before.is_some_and(|before| before.status == condition.status && before.reason == condition.reason)
        {
            continue;
        }
        let Some(event) = told(before, condition) else { continue };
        if !events.iter().any(|earlier| earlier.reason == event.reason) {
            events.push(event);
        }
    }
    events
}

fn told(before: Option<&Condition>, condition: &Condition) -> Option<Event> {
    let name = condition.type_.as_str();
    let was_true = before.is_some_and(|before| before.status == "True");
    match condition.status.as_str() {
        "False" if TELLING_WHEN_FALSE.contains(&name) => {
            // Starting up and being stopped on purpose are no failures.
            let expected = [
                conditions::reasons::CONSUMERS_NOT_READY,
                conditions::reasons::MIGRATION_RUNNING,
                conditions::reasons::SUSPENDED,
            ];
            let quiet = expected.contains(&condition.reason.as_str());
            (!quiet).then(|| event(EventType::Warning, &condition.reason, "Reconcile", &condition.message))
        }
        "True" if TELLING_WHEN_TRUE.contains(&name) => {
            let type_ = if name == conditions::SUSPENDED { EventType::Normal } else { EventType::Warning };
            let reason = if name == conditions::SUSPENDED { "Suspended" } else { name };
            Some(event(type_, reason, "Reconcile", &condition.message))
        }
        "False" if name == conditions::SUSPENDED && was_true => {
            Some(event(EventType::Normal, "Resumed", "Reconcile", &condition.message))
        }
        "True" if name == conditions::READY => {
            Some(event(EventType::Normal, "Ready", "Reconcile", &condition.message))
        }
        _ => None,
    }
}

/// The Event that tells of a change of the number of consumers: why, what is the case before, and what is expected after.
pub(crate) fn scaled(from: i32, to: i32, explanation: &str, estimates: Option<&Estimates>) -> Event {
    let reason = match (from, to) {
        (_, 0) => "ScaledToZero",
        (0, _) => "ScaledFromZero",
        (from, to) if to > from => "ScaledUp",
        _ => "ScaledDown",
    };
    let figures = estimates.map(|estimates| figures(to, estimates)).unwrap_or_default();
    event(EventType::Normal, reason, SCALE, &format!("Consumers {from} -> {to}: {explanation}{figures}"))
}

fn figures(to: i32, estimates: &Estimates) -> String {
    let before = match (estimates.lag_events, estimates.lag_seconds) {
        (Some(0), _) => "nothing waits".to_owned(),
        (Some(events), Some(age)) => format!("{events} events wait, the oldest for {age:.0} s"),
        (Some(events), None) => format!("{events} events wait"),
        (None, _) => "lag is not known".to_owned(),
    };
    let mut after: Vec<String> = Vec::new();
    if let Some(drain) = estimates.predicted_drain_seconds.filter(|_| estimates.lag_events != Some(0)) {
        after.push(format!("nothing old waits in {drain:.0} s"));
    }
    // Their mean: how keys spread over partitions is not told in one figure.
    let capacity = estimates.capacity_per_replica.map(|capacity| capacity * f64::from(to));
    if let (Some(rate), Some(capacity)) = (estimates.arrival_rate, capacity.filter(|all| *all > 0.0)) {
        after.push(format!("{:.0} % of what the consumers can do arrives", 100.0 * rate / capacity));
    }
    let after =
        if after.is_empty() { String::new() } else { format!(" After (expected): {}.", after.join(", ")) };
    format!(" Before: {before}.{after}")
}

/// True if an Event of the same reason, minutes before, says something else.
pub(crate) fn stands_alone(event: &Event) -> bool {
    event.action == SCALE
}

/// The Event that tells of an object that somebody else had changed or deleted.
pub(crate) fn put_right(objects: &[String]) -> Event {
    let note = format!("Changed or deleted by someone else, and as described again: {}", objects.join(", "));
    event(EventType::Warning, "PutRight", "Apply", &note)
}

fn event(type_: EventType, reason: &str, action: &str, note: &str) -> Event {
    let end = note.floor_char_boundary(NOTE_BYTES);
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note[..end].to_owned()),
        action: action.to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::conditions::{Verdict, follow, reasons};

    fn conditions(verdicts: &[Verdict]) -> Vec<Condition> {
        follow(&[], verdicts, 1, &Time(jiff::Timestamp::UNIX_EPOCH))
    }

    fn reasons_of(old: &[Verdict], new: &[Verdict]) -> Vec<String> {
        between(&conditions(old), &conditions(new)).into_iter().map(|event| event.reason).collect()
    }

    #[test]
    fn only_transitions_are_told_and_each_once() {
        let bad = [
            Verdict::no(conditions::READY, reasons::SECRET_NOT_FOUND, "x"),
            Verdict::no(conditions::RECONCILED, reasons::SECRET_NOT_FOUND, "x"),
        ];
        let good = [
            Verdict::yes(conditions::READY, reasons::CONSUMERS_READY, "y"),
            Verdict::yes(conditions::RECONCILED, reasons::AS_EXPECTED, "y"),
        ];
        assert_eq!(reasons_of(&[], &bad), ["SecretNotFound"]);
        assert_eq!(reasons_of(&bad, &bad), [""; 0]);
        assert_eq!(reasons_of(&bad, &good), ["Ready"]);
    }

    #[test]
    fn suspending_and_resuming_are_told_and_are_no_failures() {
        let running = [Verdict::no(conditions::SUSPENDED, reasons::NOT_SUSPENDED, "x")];
        let stopped = [
            Verdict::yes(conditions::SUSPENDED, reasons::SUSPENDED, "x"),
            Verdict::no(conditions::READY, reasons::SUSPENDED, "x"),
        ];
        assert_eq!(reasons_of(&[], &running), [""; 0]);
        assert_eq!(reasons_of(&running, &stopped), ["Suspended"]);
        assert_eq!(reasons_of(&stopped, &running), ["Resumed"]);
    }

    #[test]
    fn a_change_of_scale_says_from_where_to_where() {
        let table =
            [(0, 4, "ScaledFromZero"), (4, 8, "ScaledUp"), (8, 4, "ScaledDown"), (4, 0, "ScaledToZero")];
        for (from, to, reason) in table {
            let event = scaled(from, to, "because.", None);
            assert_eq!(event.reason, reason);
            assert!(stands_alone(&event));
            assert_eq!(event.note.unwrap(), format!("Consumers {from} -> {to}: because."));
        }
    }

    #[test]
    fn a_change_of_scale_says_how_it_is_and_how_it_will_be() {
        let backlog = Estimates {
            lag_events: Some(9_000),
            lag_seconds: Some(45.2),
            arrival_rate: Some(300.0),
            capacity_per_replica: Some(200.0),
            predicted_drain_seconds: Some(17.6),
            ..Estimates::default()
        };
        let quiet = Estimates { lag_events: Some(0), lag_seconds: None, ..backlog };
        let unmeasured = Estimates { lag_events: Some(7), ..Estimates::default() };
        let table = [
            (
                3,
                &backlog,
                " Before: 9000 events wait, the oldest for 45 s. After (expected): nothing old waits in 18 s, 50 % of what the consumers can do arrives.",
            ),
            (
                2,
                &quiet,
                " Before: nothing waits. After (expected): 75 % of what the consumers can do arrives.",
            ),
            (0, &quiet, " Before: nothing waits."),
            (1, &unmeasured, " Before: 7 events wait."),
            (1, &Estimates::default(), " Before: lag is not known."),
        ];
        for (to, estimates, expected) in table {
            assert_eq!(figures(to, estimates), expected);
        }
    }

    #[test]
    fn a_long_message_is_cut_to_what_the_api_server_accepts() {
        assert_eq!(scaled(1, 2, &"ü".repeat(2000), None).note.unwrap().len(), 1024);
    }
}
