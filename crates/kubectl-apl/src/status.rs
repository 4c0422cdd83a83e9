//! `kubectl apl status`: everything about one pipeline on one screen.

use std::collections::BTreeMap;

use analytics_api::{AnalyticsPipeline, AnalyticsPipelineStatus};
use kube::ResourceExt;

use crate::cluster::Consumer;
use crate::table::{self, grouped};

/// The whole screen.
pub(crate) fn render(pipeline: &AnalyticsPipeline, consumers: &[Consumer]) -> String {
    let status = pipeline.status.clone().unwrap_or_default();
    let mut text = head(pipeline, &status);
    for (title, part) in [
        ("Conditions", conditions(&status)),
        ("Consumers", pods(consumers)),
        ("Lag by partition", lag(consumers)),
        ("Dead letters since the consumers started", dead_letters(consumers)),
    ] {
        if !part.is_empty() {
            text.push_str(&format!("\n{title}\n{part}"));
        }
    }
    if status.conditions.is_empty() {
        text.push_str(
            "\nThe operator has not said anything yet: does it run, and does it watch this namespace?\n",
        );
    }
    text
}

fn head(pipeline: &AnalyticsPipeline, status: &AnalyticsPipelineStatus) -> String {
    let (source, sink) = (&pipeline.spec.source, &pipeline.spec.sink);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let verdict = match ready {
        Some(ready) if ready.status == "True" => "ready",
        Some(_) => "NOT READY",
        None => "unknown",
    };
    let mut lines = vec![
        format!("{}/{}: {verdict}", pipeline.namespace().unwrap_or_default(), pipeline.name_any()),
        format!(
            "  from    topic {}, group {}, at {}",
            source.topic, source.group_id, source.bootstrap_servers
        ),
        format!("  to      table {}, by Secret {}", sink.table, sink.url_secret_ref.name),
        format!("  runs    {}", replicas(pipeline, status)),
    ];
    lines.extend(waiting(status));
    lines.push(format!("  decided {}", decided(status)));
    lines.push(String::new());
    lines.join("\n")
}

fn replicas(pipeline: &AnalyticsPipeline, status: &AnalyticsPipelineStatus) -> String {
    let (ready, all) = (status.ready_replicas.unwrap_or_default(), status.replicas.unwrap_or_default());
    let paused = if pipeline.spec.suspend { " (paused)" } else { "" };
    format!("{ready} of {all} consumers ready{paused}")
}

fn waiting(status: &AnalyticsPipelineStatus) -> Option<String> {
    let Some(lag) = &status.lag else { return Some("  waits   not known".to_owned()) };
    let seconds = lag.seconds.map(|seconds| format!(" (the oldest for {seconds} s)")).unwrap_or_default();
    let rate = |rate: Option<i64>| rate.map_or_else(|| "?".to_owned(), grouped);
    let rates = status.rates.as_ref();
    Some(format!(
        "  waits   {} events{seconds} in {} partitions; {} arrive and {} are stored per second",
        grouped(lag.events),
        lag.partitions,
        rate(rates.and_then(|rates| rates.arrivals)),
        rate(rates.and_then(|rates| rates.processed)),
    ))
}

fn decided(status: &AnalyticsPipelineStatus) -> String {
    let Some(scaling) = &status.scaling else { return "nothing yet".to_owned() };
    let reason = scaling.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let limited = scaling.limited_by.as_ref().map(|by| format!("limited by {by}"));
    let words: Vec<String> = scaling.reason_code.clone().into_iter().chain(limited).collect();
    let words = if words.is_empty() { String::new() } else { format!(" [{}]", words.join(", ")) };
    format!("{} consumers{words}{reason}", scaling.desired)
}

fn conditions(status: &AnalyticsPipelineStatus) -> String {
    let mut rows = vec![["  TYPE", "STATUS", "REASON", "MESSAGE"].map(str::to_owned).to_vec()];
    rows.extend(status.conditions.iter().map(|condition| {
        vec![
            format!("  {}", condition.type_),
            condition.status.clone(),
            condition.reason.clone(),
            condition.message.replace('\n', " "),
        ]
    }));
    table::render(&rows)
}

fn pods(consumers: &[Consumer]) -> String {
    let mut rows = vec![
        ["  POD", "READY", "RESTARTS", "PARTITIONS", "PROCESSED", "DUPLICATES"].map(str::to_owned).to_vec(),
    ];
    rows.extend(consumers.iter().map(|consumer| {
        let number =
            |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| grouped(value.cast_signed()));
        let metrics = consumer.metrics.as_ref();
        vec![
            format!("  {}", consumer.name),
            if consumer.ready { "yes" } else { "no" }.to_owned(),
            consumer.restarts.to_string(),
            metrics.map_or_else(|| "?".to_owned(), |metrics| metrics.lag.len().to_string()),
            number(metrics.map(|metrics| metrics.processed)),
            number(metrics.map(|metrics| metrics.duplicates)),
        ]
    }));
    table::render(&rows)
}

fn lag(consumers: &[Consumer]) -> String {
    let mut rows = vec![["  PARTITION", "LAG", "CONSUMER"].map(str::to_owned).to_vec()];
    let mut partitions = BTreeMap::new();
    for consumer in consumers {
        for (partition, lag) in consumer.metrics.iter().flat_map(|metrics| &metrics.lag) {
            partitions.insert(*partition, (*lag, &consumer.name));
        }
    }
    rows.extend(
        partitions.into_iter().map(|(partition, (lag, consumer))| {
            vec![format!("  {partition}"), grouped(lag), consumer.clone()]
        }),
    );
    table::render(&rows)
}

fn dead_letters(consumers: &[Consumer]) -> String {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in
        consumers.iter().filter_map(|consumer| consumer.metrics.as_ref()).flat_map(|m| &m.dead_letters)
    {
        *sums.entry(reason).or_default() += count;
    }
    let mut rows = vec![["  REASON", "COUNT"].map(str::to_owned).to_vec()];
    let some = sums.into_iter().filter(|(_, count)| *count > 0);
    rows.extend(some.map(|(reason, count)| vec![format!("  {reason}"), grouped(count.cast_signed())]));
    table::render(&rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metrics::Metrics;

    fn pipeline(status: &serde_json::Value) -> AnalyticsPipeline {
        serde_json::from_value(json!({
            "apiVersion": "analyticspipeline.dev/v1alpha1", "kind": "AnalyticsPipeline",
            "metadata": {"name": "clicks", "namespace": "shop"},
            "spec": {"source": {"bootstrapServers": "kafka:9092", "topic": "clicks"}, "sink": {"urlSecretRef": {"name": "db"}}},
            "status": status,
        }))
        .unwrap()
    }

    fn consumer(name: &str, metrics: &str) -> Consumer {
        Consumer { name: name.to_owned(), ready: true, restarts: 0, metrics: Some(Metrics::parse(metrics)) }
    }

    #[test]
    fn one_screen_tells_it_all() {
        let pipeline = pipeline(&json!({
            "replicas": 2, "readyReplicas": 1,
            "conditions": [{"type": "Ready", "status": "True", "reason": "ConsumersReady", "message": "1 of 2",
                "lastTransitionTime": "2026-01-15T10:30:00Z"}],
            "lag": {"events": 1200, "seconds": 3, "partitions": 2},
            "rates": {"arrivals": 400},
            "scaling": {"desired": 2, "limitedBy": "MaxReplicas", "reasonCode": "AtLimit", "reason": "1,200 events wait"},
        }));
        let consumers = [
            consumer(
                "clicks-1",
                "kafka_consumer_lag{partition=\"1\"} 1000\ndead_letters_total{reason=\"json\"} 2\n",
            ),
            consumer("clicks-2", "kafka_consumer_lag{partition=\"0\"} 200\nevents_processed_total 7000\n"),
        ];
        let expected = "shop/clicks: ready
  from    topic clicks, group analytics-service, at kafka:9092
  to      table events, by Secret db
  runs    1 of 2 consumers ready
  waits   1,200 events (the oldest for 3 s) in 2 partitions; 400 arrive and ? are stored per second
  decided 2 consumers [AtLimit, limited by MaxReplicas]: 1,200 events wait

Conditions
  TYPE   STATUS  REASON          MESSAGE
  Ready  True    ConsumersReady  1 of 2

Consumers
  POD       READY  RESTARTS  PARTITIONS  PROCESSED  DUPLICATES
  clicks-1  yes    0         1           0          0
  clicks-2  yes    0         1           7,000      0

Lag by partition
  PARTITION  LAG    CONSUMER
  0          200    clicks-2
  1          1,000  clicks-1

Dead letters since the consumers started
  REASON  COUNT
  json    2
";
        assert_eq!(render(&pipeline, &consumers), expected);
    }

    #[test]
    fn a_pipeline_that_nobody_looks_after_says_so() {
        let text = render(&pipeline(&json!({})), &[]);
        assert!(text.starts_with("shop/clicks: unknown\n"), "{text}");
        assert!(
            text.contains("waits   not known") && text.contains("does it watch this namespace?"),
            "{text}"
        );
    }
}
