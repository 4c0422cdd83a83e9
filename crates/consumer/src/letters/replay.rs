//! Sending dead letters to Kafka again.

use std::io::Write;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::Value;

use super::store::{Letter, Store};
use super::{Filter, LettersError, ReplayOptions, render};
use crate::settings::Settings;
use crate::source::producer_config;

/// How long Kafka may take to acknowledge one record.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often progress is reported.
const PROGRESS: Duration = Duration::from_secs(1);
/// The header by which a replayed record can be told.
const REPLAYED: &str = "dead-letter-replay";

/// Sends the letters that `filter` selects, page by page; a page is marked when Kafka has acknowledged all of it.
pub(super) async fn run(
    store: &mut Store,
    filter: &Filter,
    options: &ReplayOptions,
    settings: &Settings,
    output: &mut impl Write,
) -> Result<(), LettersError> {
    let total = store.waiting(filter, options.again).await?;
    if options.dry_run {
        return announce(store, filter, options, total, output).await;
    }
    let producer: FutureProducer = producer_config(&settings.kafka).create()?;
    let (mut sent, mut after, mut reported) = (0, None, Instant::now());
    while sent < total {
        let page = store.page(filter, options.again, after, total - sent).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        try_join_all(page.iter().map(|letter| send(&producer, letter, options.to_topic.as_deref()))).await?;
        store.mark(&page.iter().map(|letter| letter.id).collect::<Vec<_>>()).await?;
        sent += page.len() as i64;
        if reported.elapsed() >= PROGRESS {
            tracing::info!("Replayed {sent} of {total}");
            reported = Instant::now();
        }
    }
    writeln!(output, "replayed {sent} dead letters")?;
    Ok(())
}

async fn announce(
    store: &mut Store,
    filter: &Filter,
    options: &ReplayOptions,
    total: i64,
    output: &mut impl Write,
) -> Result<(), LettersError> {
    let topic = options.to_topic.as_deref().unwrap_or("the topic each came from");
    writeln!(output, "would replay {total} dead letters to {topic}; the first of them:")?;
    for letter in store.page(filter, options.again, None, total.min(10)).await? {
        writeln!(output, "{}", render::line(&letter))?;
    }
    Ok(())
}

async fn send(
    producer: &FutureProducer,
    letter: &Letter,
    to_topic: Option<&str>,
) -> Result<(), LettersError> {
    let mut headers = OwnedHeaders::new();
    for (name, value) in original_headers(letter.headers.as_ref()) {
        headers = headers.insert(Header { key: &name, value: value.as_deref() });
    }
    let id = letter.id.to_string();
    headers = headers.insert(Header { key: REPLAYED, value: Some(&id) });
    let mut record: FutureRecord<'_, [u8], [u8]> =
        FutureRecord::to(to_topic.unwrap_or(&letter.topic)).headers(headers);
    record.key = letter.key.as_deref();
    record.payload = letter.payload.as_deref();
    producer.send(record, TIMEOUT).await.map_err(|(error, _)| error)?;
    Ok(())
}

/// The headers as they were stored: `[name, value]`, a value being text, null or `{"hex": …}`.
fn original_headers(stored: Option<&Value>) -> Vec<(String, Option<Vec<u8>>)> {
    let pairs = stored.and_then(Value::as_array).into_iter().flatten();
    pairs
        .filter_map(|pair| {
            let name = pair.get(0)?.as_str()?.to_owned();
            (name != REPLAYED).then(|| (name, pair.get(1).and_then(bytes)))
        })
        .collect()
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) => {
            let digits = object.get("hex")?.as_str()?;
            let pairs = digits.as_bytes().chunks_exact(2);
            pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stored_headers_become_the_bytes_they_were() {
        let stored = json!([["a", "1"], ["n", null], ["b", {"hex": "ff00"}], [REPLAYED, "7"]]);
        let expected = vec![
            ("a".to_owned(), Some(b"1".to_vec())),
            ("n".to_owned(), None),
            ("b".to_owned(), Some(vec![0xff, 0x00])),
        ];
        assert_eq!(original_headers(Some(&stored)), expected);
        assert!(original_headers(None).is_empty());
    }
}
