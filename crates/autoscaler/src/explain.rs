//! A decision in the words of a person.

use std::borrow::Cow;

use crate::{Condition, Decision, Estimates, Limit, Observation, Policy, Reason};

/// One or two sentences: what was decided, from which figures, and what stands in the way.
pub(crate) fn sentence(decision: &Decision, observation: &Observation, policy: &Policy) -> String {
    let what = action(decision, observation.replicas.spec);
    let why = because(decision, observation, policy);
    let limit = limited(decision, policy);
    format!("{what}: {why}{limit}.")
}

/// Renders a decision for a person: what was seen, what is needed, what limits it, when it can change.
///
/// Several lines of plain text without a trailing newline; the same text for the same input.
#[must_use]
pub fn explain(decision: &Decision, observation: &Observation, policy: &Policy) -> String {
    let replicas = &observation.replicas;
    let estimates = &decision.estimates;
    let mut lines = vec![
        decision.explanation.clone(),
        format!(
            "  seen:     {} of {} replicas ready, {} in the group; {}",
            replicas.ready,
            replicas.spec,
            replicas.group_members.map_or("unknown number".to_owned(), |members| members.to_string()),
            lag(estimates),
        ),
        format!("  rates:    {}", rates(estimates)),
        format!(
            "  needed:   {} to keep every event under {}",
            count(decision.needed, "replica"),
            seconds(policy.target_lag_seconds)
        ),
        format!("  limited:  {}", limit_phrase(decision.limited_by, policy).unwrap_or("by nothing".into())),
    ];
    if let Some(drain) = estimates.predicted_drain_seconds.filter(|drain| *drain >= 1.0) {
        lines.push(format!("  expected: the backlog is gone in {}", seconds(drain)));
    }
    if let Some(eligible) = decision.next_eligible {
        lines.push(format!(
            "  changes:  fewer replicas in {} at the earliest",
            seconds(eligible - observation.time)
        ));
    }
    lines.extend(decision.conditions.iter().map(|condition| format!("  note:     {}", describe(condition))));
    lines.join("\n")
}

/// A condition as a sentence that says what to do about it.
#[must_use]
pub fn describe(condition: &Condition) -> String {
    match condition {
        Condition::LagUnknown { partitions } if partitions.is_empty() => {
            "the topic's partitions could not be read; replicas are kept".to_owned()
        }
        Condition::LagUnknown { partitions } => {
            format!("the lag of {} could not be told; replicas are not lowered", list(partitions))
        }
        Condition::Stalled { partitions, seconds: since } => format!(
            "commits on {} have stood still for {} although consumers are alive; look at the consumers' log, more of them would not help",
            list(partitions),
            seconds(*since)
        ),
        Condition::HotPartition { partition, rate: arrives, capacity } => format!(
            "partition {partition} receives {}, one replica handles {}; spread its keys over more partitions, more replicas would not help",
            rate(*arrives),
            rate(*capacity)
        ),
        Condition::SinkSaturated { throughput, replicas } => format!(
            "the database stores {} with any number of replicas from {replicas}; it is the limit, not the consumers",
            rate(*throughput)
        ),
        Condition::AtMaximum { maximum } => {
            format!(
                "the load calls for more than the {} allowed; raise maxReplicas or the connection budget",
                count(*maximum, "replica")
            )
        }
        Condition::AtPartitionCount { partitions } => {
            format!(
                "the load calls for more replicas than there are partitions ({partitions}); add partitions"
            )
        }
    }
}

fn action(decision: &Decision, spec: u32) -> String {
    match decision.desired.cmp(&spec) {
        std::cmp::Ordering::Greater => {
            format!("Growing from {spec} to {}", count(decision.desired, "replica"))
        }
        std::cmp::Ordering::Less => {
            format!("Shrinking from {spec} to {}", count(decision.desired, "replica"))
        }
        std::cmp::Ordering::Equal => format!("Keeping {}", count(spec, "replica")),
    }
}

fn because(decision: &Decision, observation: &Observation, policy: &Policy) -> String {
    let estimates = &decision.estimates;
    let target = seconds(policy.target_lag_seconds);
    match decision.reason {
        Reason::Steady => format!("{}, within {target}", rates(estimates)),
        Reason::LagAboveTarget => {
            format!("events would wait longer than {target} ({}; {})", lag(estimates), rates(estimates))
        }
        Reason::Surplus => format!("so many would have sufficed for long enough ({})", rates(estimates)),
        Reason::Drained => format!("the backlog is worked off ({})", rates(estimates)),
        Reason::Idle => "nothing arrives and nothing is left to do".to_owned(),
        Reason::Wake => format!("events arrived ({})", lag(estimates)),
        Reason::Bounds => "the replica count lay outside the allowed bounds".to_owned(),
        Reason::Waiting => match decision.next_eligible {
            Some(eligible) => format!(
                "{} would do, in {} at the earliest",
                decision.needed,
                seconds(eligible - observation.time)
            ),
            None => format!("{} would do", decision.needed),
        },
        Reason::Converging => format!(
            "pods and consumer group are settling ({} of {} ready)",
            observation.replicas.ready, observation.replicas.spec
        ),
        Reason::LagUnknown => "the lag could not be read, and unknown is not zero".to_owned(),
        Reason::Learning if estimates.capacity_per_replica.is_none() => {
            format!("what one replica can do is being measured ({})", lag(estimates))
        }
        Reason::Learning => format!(
            "far more has just arrived; the next reading tells whether that goes on ({})",
            lag(estimates)
        ),
        Reason::Stalled => format!("commits stand still although consumers are alive ({})", lag(estimates)),
        Reason::SinkSaturated => "more replicas do not store more".to_owned(),
        Reason::AtLimit => format!("the load calls for more ({}; {})", lag(estimates), rates(estimates)),
    }
}

fn limited(decision: &Decision, policy: &Policy) -> String {
    match limit_phrase(decision.limited_by, policy) {
        Some(phrase) if decision.needed != decision.desired => {
            format!("; {} needed, limited {phrase}", decision.needed)
        }
        _ => String::new(),
    }
}

fn limit_phrase(limit: Limit, policy: &Policy) -> Option<Cow<'static, str>> {
    let phrase = match limit {
        Limit::None => return None,
        Limit::MinReplicas => "by minReplicas",
        Limit::Schedule => match &policy.schedule_name {
            Some(name) => return Some(format!("by the schedule `{name}`").into()),
            None => "by a scheduled floor",
        },
        Limit::MaxReplicas => "by maxReplicas",
        Limit::Partitions => "by the number of partitions",
        Limit::Connections => "by the database's connection budget",
        Limit::HotPartition => "by one partition that is faster than a replica",
        Limit::Sink => "by what the database can store",
        Limit::Stabilization => "by the time a smaller number must have sufficed",
        Limit::Budget => "by the budget of changes",
        Limit::Converging => "until pods and group have settled",
        Limit::Unknown => "by what is not known",
    };
    Some(phrase.into())
}

fn lag(estimates: &Estimates) -> String {
    match (estimates.lag_events, estimates.lag_seconds) {
        (Some(0), _) => "no lag".to_owned(),
        (Some(events), Some(age)) => format!("lag of {}, oldest {}", count64(events, "event"), seconds(age)),
        (Some(events), None) => format!("lag of {}", count64(events, "event")),
        (None, _) => "lag unknown".to_owned(),
    }
}

fn rates(estimates: &Estimates) -> String {
    let arriving = estimates
        .arrival_rate
        .map_or("arrivals unknown".to_owned(), |arrivals| format!("{} arrive", rate(arrivals)));
    let capacity =
        estimates.capacity_per_replica.map_or("capacity not measured yet".to_owned(), |capacity| {
            format!("one replica handles {}", rate(capacity))
        });
    format!("{arriving}, {capacity}")
}

fn rate(per_second: f64) -> String {
    format!("{}/s", figure(per_second))
}

fn seconds(duration: f64) -> String {
    match duration.max(0.0) {
        short if short < 120.0 => format!("{} s", figure(short)),
        medium if medium < 7200.0 => format!("{} min", figure(medium / 60.0)),
        long => format!("{} h", figure(long / 3600.0)),
    }
}

/// Three digits are enough for a person.
fn figure(value: f64) -> String {
    if value == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn count(number: u32, noun: &str) -> String {
    count64(u64::from(number), noun)
}

fn count64(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

fn list(partitions: &[i32]) -> String {
    let shown: Vec<String> = partitions.iter().take(8).map(ToString::to_string).collect();
    let more = partitions.len().saturating_sub(shown.len());
    let noun = if partitions.len() == 1 { "partition" } else { "partitions" };
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{noun} {}{rest}", shown.join(", "))
}
