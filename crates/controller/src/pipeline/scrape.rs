//! What consumers say of themselves: their metrics, read from the pods. Without an answer the autoscaler goes by Kafka alone.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use autoscaler::ConsumerObservation;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use thiserror::Error;

use super::build::METRICS_PORT;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that is read: a consumer of thousands of partitions has a tenth of it.
const MOST_BYTES: usize = 1 << 20;
/// Pods asked at the same time, for one pipeline.
const AT_ONCE: usize = 8;

/// Counters of one consumer at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    at: Instant,
    counters: Counters,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Counters {
    busy_seconds: Option<f64>,
    processed: f64,
    partitions: Vec<i32>,
}

/// Why a consumer's metrics were not read.
#[derive(Debug, Error)]
enum Trouble {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("the answer has the status {0}")]
    Status(reqwest::StatusCode),
    #[error("the answer is longer than {MOST_BYTES} bytes")]
    TooLong,
}

/// The client for it. Pods are asked directly and without TLS: no proxy, no authorities, and nowhere else if they say so.
///
/// # Errors
/// When the client cannot be made.
pub(crate) fn client() -> Result<reqwest::Client, reqwest::Error> {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).pool_max_idle_per_host(1);
    client.redirect(reqwest::redirect::Policy::none()).build()
}

/// Asks each pod; `samples` holds the counters of the last time and is replaced. (talks to pods)
pub(crate) async fn run(
    http: &reqwest::Client,
    pods: &[std::sync::Arc<Pod>],
    samples: &mut HashMap<String, Sample>,
) -> Vec<ConsumerObservation> {
    if pods.is_empty() {
        samples.clear();
        return Vec::new();
    }
    let addresses: Vec<_> = pods.iter().map(AsRef::as_ref).filter_map(address).collect();
    let answers: Vec<_> = futures::stream::iter(addresses)
        .map(|(name, address)| async move { (name, read(http, &address).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut fresh = HashMap::new();
    let mut observations = Vec::new();
    for (name, answer) in answers {
        let Some(sample) = answer else { continue };
        observations.push(observe(&name, samples.get(&name), &sample));
        fresh.insert(name, sample);
    }
    *samples = fresh;
    observations.sort_by(|a, b| a.name.cmp(&b.name));
    observations
}

fn address(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    let ip = status.pod_ip.as_ref().filter(|_| running)?;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    Some((pod.name_any(), format!("http://{host}:{METRICS_PORT}/metrics")))
}

async fn read(http: &reqwest::Client, url: &str) -> Option<Sample> {
    match tokio::time::timeout(TIMEOUT, get(http, url)).await {
        Ok(Ok(text)) => Some(Sample { at: Instant::now(), counters: parse(&text) }),
        Ok(Err(error)) => {
            tracing::debug!(url, %error, "A consumer's metrics could not be read");
            None
        }
        Err(_) => {
            tracing::debug!(url, "A consumer's metrics took too long");
            None
        }
    }
}

async fn get(http: &reqwest::Client, url: &str) -> Result<String, Trouble> {
    let mut response = http.get(url).send().await?;
    if !response.status().is_success() {
        return Err(Trouble::Status(response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MOST_BYTES {
            return Err(Trouble::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn observe(name: &str, before: Option<&Sample>, now: &Sample) -> ConsumerObservation {
    let elapsed =
        before.map(|before| now.at.duration_since(before.at).as_secs_f64()).filter(|elapsed| *elapsed > 0.1);
    // A counter that went back belongs to a restarted process: nothing is known of the time between.
    let rate = |counter: fn(&Counters) -> Option<f64>| {
        let (before, elapsed) = (before?, elapsed?);
        let grown = counter(&now.counters)? - counter(&before.counters)?;
        (grown >= 0.0).then_some(grown / elapsed)
    };
    ConsumerObservation {
        name: name.to_owned(),
        busy: rate(|counters| counters.busy_seconds).map(|busy| busy.clamp(0.0, 1.0)),
        processed_rate: rate(|counters| Some(counters.processed)),
        partitions: Some(now.counters.partitions.clone()),
    }
}

// The few lines that matter of the Prometheus text format.
fn parse(text: &str) -> Counters {
    let mut counters = Counters::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        match series.split('{').next() {
            Some("consumer_busy_seconds_total") => counters.busy_seconds = Some(value),
            Some("events_processed_total") => counters.processed += value,
            Some("kafka_consumer_lag") => counters.partitions.extend(partition(series)),
            _ => {}
        }
    }
    counters.partitions.sort_unstable();
    counters
}

fn partition(series: &str) -> Option<i32> {
    let (_, rest) = series.split_once("partition=\"")?;
    rest.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fake;

    const TEXT: &str = r#"# HELP events_processed_total Events.
# TYPE events_processed_total counter
events_processed_total{event_type="user_login",service="auth"} 40
events_processed_total{event_type="user_search",service="search"} 2
events_processed_total_other 7
consumer_busy_seconds_total 12.5
kafka_consumer_lag{partition="3",topic="clicks"} 9
kafka_consumer_lag{topic="clicks",partition="0"} 0
"#;

    fn sample(at: Instant, busy: f64, processed: f64) -> Sample {
        Sample { at, counters: Counters { busy_seconds: Some(busy), processed, partitions: vec![0] } }
    }

    /// A pod is whatever somebody runs in it: it may neither fill the controller's memory nor send it elsewhere.
    #[tokio::test]
    async fn answers_are_bounded_and_lead_nowhere_else() {
        let (address, _served) = fake::serve(|_, path, _| match path {
            "/fine" => (200, "consumer_busy_seconds_total 1".to_owned()),
            "/long" => (200, "x".repeat(MOST_BYTES + 1)),
            "/elsewhere" => (302, "/fine".to_owned()),
            _ => (500, String::new()),
        })
        .await;
        let http = client().unwrap();
        let table = [
            ("fine", ""),
            ("long", "longer than 1048576 bytes"),
            ("elsewhere", "the status 302"),
            ("broken", "the status 500"),
        ];
        for (path, trouble) in table {
            let outcome = get(&http, &format!("http://{address}/{path}")).await;
            let said = outcome.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(said.contains(trouble) && said.is_empty() == trouble.is_empty(), "{path}: {said}");
        }
    }

    #[test]
    fn counters_are_summed_over_their_labels() {
        let expected = Counters { busy_seconds: Some(12.5), processed: 42.0, partitions: vec![0, 3] };
        assert_eq!(parse(TEXT), expected);
        assert_eq!(parse("garbage\n\nx y z"), Counters::default());
    }

    #[test]
    fn rates_come_from_two_samples_and_not_from_one_or_over_a_restart() {
        let start = Instant::now();
        let first = sample(start, 10.0, 1000.0);
        let second = sample(start + Duration::from_secs(10), 15.0, 3000.0);
        let observation = observe("pod", Some(&first), &second);
        assert_eq!((observation.busy, observation.processed_rate), (Some(0.5), Some(200.0)));
        let observation = observe("pod", None, &second);
        assert_eq!((observation.busy, observation.processed_rate), (None, None));
        let restarted = sample(start + Duration::from_secs(20), 1.0, 5.0);
        let observation = observe("pod", Some(&second), &restarted);
        assert_eq!((observation.busy, observation.processed_rate), (None, None));
    }
}
