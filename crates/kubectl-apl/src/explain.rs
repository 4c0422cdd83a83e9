//! `kubectl apl explain`: the last decision in sentences.

use analytics_api::{AnalyticsPipeline, AnalyticsPipelineStatus, OnUnknown, Scaling, ScalingMode};

use crate::table::grouped;

/// What is seen, what is wanted, what was decided, what stands in the way.
pub(crate) fn render(pipeline: &AnalyticsPipeline) -> String {
    let status = pipeline.status.clone().unwrap_or_default();
    let scaling = &pipeline.spec.scaling;
    let mut sentences = vec![goal(scaling), seen(&status), decided(&status)];
    if pipeline.spec.suspend {
        sentences.push("It is paused (`spec.suspend`), so no consumer runs whatever is decided.".to_owned());
    }
    if scaling.dry_run && scaling.mode == ScalingMode::Lag {
        sentences.push("It only decides and reports (`scaling.dryRun`); nothing is changed.".to_owned());
    }
    sentences.extend(next(&status));
    sentences.extend(troubles(&status));
    sentences.push(String::new());
    sentences.join("\n")
}

fn goal(scaling: &Scaling) -> String {
    match scaling.mode {
        ScalingMode::Lag => {
            let most =
                scaling.max_replicas.map_or("one for each partition".to_owned(), |most| most.to_string());
            let unknown = match scaling.on_unknown {
                OnUnknown::Hold => "the number stays as it is".to_owned(),
                OnUnknown::Floor => format!(
                    "there are at least {}",
                    scaling.unknown_floor_replicas.unwrap_or(scaling.min_replicas)
                ),
            };
            format!(
                "Wanted: no event waits longer than {} s, with {} to {most} consumers. While lag cannot be read, {unknown}.",
                scaling.target_lag_seconds, scaling.min_replicas
            )
        }
        ScalingMode::Fixed => format!(
            "Wanted: {} consumers, as written in `scaling.replicas`.",
            scaling.replicas.unwrap_or_default()
        ),
        ScalingMode::External => format!(
            "Wanted: {} consumers, as another autoscaler wrote through the scale subresource.",
            scaling.replicas.unwrap_or_default()
        ),
    }
}

fn seen(status: &AnalyticsPipelineStatus) -> String {
    let Some(lag) = &status.lag else { return "Seen: lag is not known at the moment.".to_owned() };
    let mut text = format!("Seen: {} events wait in {} partitions", grouped(lag.events), lag.partitions);
    if let Some(seconds) = lag.seconds {
        text.push_str(&format!(", the oldest for {seconds} s"));
    }
    let rates = status.rates.clone().unwrap_or_default();
    for (rate, what) in [
        (rates.arrivals, "arrive"),
        (rates.processed, "are stored"),
        (rates.capacity_per_replica, "are what one consumer can store"),
    ] {
        if let Some(rate) = rate {
            text.push_str(&format!("; {} per second {what}", grouped(rate)));
        }
    }
    text.push('.');
    text
}

fn decided(status: &AnalyticsPipelineStatus) -> String {
    let Some(scaling) = &status.scaling else { return "Decided: nothing yet.".to_owned() };
    let mut text = format!("Decided: {} consumers", scaling.desired);
    if let Some(reason) = &scaling.reason {
        text.push_str(&format!(", because: {reason}"));
    }
    let needed = scaling.needed.map(|needed| format!("\nNeeded: {needed} consumers, whatever the limits."));
    text.push_str(&needed.unwrap_or_default());
    if let Some(by) = &scaling.limited_by {
        text.push_str(&format!("\nLimited by: {by}."));
    }
    if let Some(schedule) = &scaling.schedule {
        text.push_str(&format!("\nThe window of the schedule `{schedule}` is open."));
    }
    text
}

fn next(status: &AnalyticsPipelineStatus) -> Option<String> {
    let scaling = status.scaling.as_ref()?;
    let last =
        scaling.last_scale_time.as_ref().map(|time| format!("The number was last changed at {}.", time.0));
    let next = scaling.next_eligible.as_ref().map(|time| format!("It can change again at {}.", time.0));
    let sentences: Vec<String> = last.into_iter().chain(next).collect();
    (!sentences.is_empty()).then(|| sentences.join(" "))
}

/// Conditions in which a person has something to do.
fn troubles(status: &AnalyticsPipelineStatus) -> Vec<String> {
    let bad_when_true = ["ScalingLimited", "ScalingConflict", "Stalled", "HotPartition", "SinkSaturated"];
    let bad_when_false = ["Ready", "Reconciled", "Migrated", "LagAvailable"];
    let speaks = |type_: &str, status: &str| {
        (status == "True" && bad_when_true.contains(&type_))
            || (status == "False" && bad_when_false.contains(&type_))
    };
    let troubles = status.conditions.iter().filter(|condition| speaks(&condition.type_, &condition.status));
    troubles.map(|one| format!("{} ({}): {}", one.type_, one.reason, one.message)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn explained(scaling: &Value, status: &Value) -> String {
        render(
            &serde_json::from_value(json!({
                "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline", "metadata": {"name": "clicks"},
                "spec": {
                    "source": {"bootstrapServers": "kafka:9092", "topic": "clicks"},
                    "sink": {"urlSecretRef": {"name": "db"}},
                    "scaling": scaling,
                },
                "status": status,
            }))
            .unwrap(),
        )
    }

    #[test]
    fn a_decision_is_told_with_what_was_seen_and_what_limits_it() {
        let text = explained(
            &json!({"minReplicas": 0, "maxReplicas": 4, "targetLagSeconds": 10}),
            &json!({
                "lag": {"events": 90000, "seconds": 45, "partitions": 8},
                "rates": {"arrivals": 2000, "processed": 1500, "capacityPerReplica": 900},
                "scaling": {"desired": 4, "needed": 5, "schedule": "day", "limitedBy": "MaxReplicas", "reason": "5 would be needed",
                    "lastScaleTime": "2026-01-15T10:30:00Z", "nextEligible": "2026-01-15T10:31:00Z"},
                "conditions": [
                    {"type": "Ready", "status": "True", "reason": "R", "message": "fine", "lastTransitionTime": "2026-01-15T10:30:00Z"},
                    {"type": "ScalingLimited", "status": "True", "reason": "AtMaximum", "message": "raise maxReplicas",
                        "lastTransitionTime": "2026-01-15T10:30:00Z"},
                ],
            }),
        );
        let expected = "Wanted: no event waits longer than 10 s, with 0 to 4 consumers. While lag cannot be read, the number stays as it is.
Seen: 90,000 events wait in 8 partitions, the oldest for 45 s; 2,000 per second arrive; 1,500 per second are stored; 900 per second are what one consumer can store.
Decided: 4 consumers, because: 5 would be needed
Needed: 5 consumers, whatever the limits.
Limited by: MaxReplicas.
The window of the schedule `day` is open.
The number was last changed at 2026-01-15T10:30:00Z. It can change again at 2026-01-15T10:31:00Z.
ScalingLimited (AtMaximum): raise maxReplicas
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_nobody_decides_is_said_too() {
        let text = explained(&json!({"mode": "Fixed", "replicas": 3}), &json!({}));
        assert!(text.contains("3 consumers, as written in `scaling.replicas`"), "{text}");
        assert!(text.contains("lag is not known") && text.contains("Decided: nothing yet."), "{text}");
    }
}
