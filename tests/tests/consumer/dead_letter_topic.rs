//! Dead letters in a Kafka topic.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::FutureRecord;
use testbed::{Consumer, ConsumerOptions, wait};

use crate::support::{Bed, SOON, event, read};

const LETTERS: &str = "posted.dlq";

async fn dead_letters(options: &ConsumerOptions, arguments: &[&str]) -> Result<String> {
    let arguments: Vec<&str> = ["dead-letters"].into_iter().chain(arguments.iter().copied()).collect();
    testbed::process::output(options.command(&arguments)?).await
}

/// Waits until so many records of the source are dealt with.
async fn until_read(bed: &Bed, records: i64) -> Result<()> {
    wait::until_true("the offsets move", SOON, || async {
        let done = bed.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM pipeline_offsets").await?;
        ensure!(done >= records, "{done} of {records} records are dealt with");
        Ok(true)
    })
    .await
}

async fn send_with_header(bed: &Bed, payload: &[u8]) -> Result<()> {
    let headers = OwnedHeaders::new().insert(Header { key: "trace", value: Some(&[0xFF, 0][..]) });
    let record = FutureRecord::to(&bed.topic).partition(0).key("k").payload(payload).headers(headers);
    bed.kafka.producer()?.send(record, SOON).await.map_err(|(error, _)| error)?;
    Ok(())
}

#[tokio::test]
async fn letters_in_a_topic_keep_the_record_and_its_origin_and_are_listed_and_replayed_once() -> Result<()> {
    let bed = Bed::start("posted", 2).await?;
    bed.kafka.create_topic(LETTERS, 3).await?;
    let refused = br#"{"event_type":"a","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"s","timestamp":"2024-11-09T10:30:00Z","data":{"n":99999e131070}}"#;
    let options = bed.options().with("DEAD_LETTER_TOPIC", LETTERS);
    let strict = Consumer::start("strict", &options.clone().with("EVENT_MAX_BYTES", refused.len()))?;
    send_with_header(&bed, b"not json").await?;
    for payload in [&event(1)[..], refused, &event(2)] {
        bed.send(1, payload).await?;
    }
    until_read(&bed, 4).await.map_err(|error| error.context(strict.log()))?;
    ensure!(bed.rows().await? == 0 && event(1).len() > refused.len(), "the events were not meant to fit");
    drop(strict);

    let lying = read(&bed.kafka, LETTERS).await?;
    let bad = lying.iter().find(|one| one.payload.as_deref() == Some(b"not json"));
    let bad = bad.ok_or_else(|| anyhow::anyhow!("the value is not as it was"))?;
    ensure!(lying.len() == 4 && bad.key.as_deref() == Some(b"k"), "{} letters", lying.len());
    ensure!(bad.headers.first() == Some(&("trace".to_owned(), Some(vec![0xFF, 0]))), "{:?}", bad.headers);
    for (name, value) in [
        ("reason", "invalid_json"),
        ("topic", "posted"),
        ("partition", "0"),
        ("offset", "0"),
        ("group", "posted-group"),
    ] {
        let found = bad.header(&format!("dead-letter-{name}"));
        ensure!(found.as_deref() == Some(value), "{name}: {found:?}");
    }
    ensure!(bad.header("dead-letter-detail").is_some() && bad.header("dead-letter-timestamp").is_some());
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'dead_letters'";
    ensure!(bed.number(tables).await? == 0, "no table is made for nothing");
    commands(&bed, &options).await
}

async fn commands(bed: &Bed, options: &ConsumerOptions) -> Result<()> {
    let list = dead_letters(options, &["list", "--partition", "1"]).await?;
    ensure!(list.lines().count() == 4 && list.contains("more than EVENT_MAX_BYTES"), "{list}");
    let json = dead_letters(options, &["list", "--output", "json", "--reason", "invalid_json"]).await?;
    let letter: serde_json::Value = serde_json::from_str(json.trim())?;
    ensure!(letter["value"] == "not json" && letter["headers"][0][1]["hex"] == "ff00", "{letter}");
    let id = letter["id"].as_str().unwrap_or_default().to_owned();
    let shown = dead_letters(options, &["show", &id]).await?;
    ensure!(shown.contains("posted partition 0 offset 0") && shown.contains("not json"), "{shown}");
    let count = dead_letters(options, &["count"]).await?;
    ensure!(count.contains("2  too_large (0 of them replayed)") && count.contains("4  in all"), "{count}");
    let unknown = dead_letters(options, &["show", "0:4711"]).await.map_err(|error| format!("{error:#}"));
    ensure!(
        unknown.as_ref().is_err_and(|text| text.contains("no dead letter with the id 0:4711 in posted.dlq")),
        "{unknown:?}"
    );

    // The limit is higher now: what was too large is stored, once.
    let _lenient = Consumer::start("lenient", options)?;
    let plan = dead_letters(options, &["replay", "--reason", "too_large", "--dry-run"]).await?;
    ensure!(plan.contains("would replay 2 dead letters"), "{plan}");
    for expected in ["replayed 2", "replayed 0"] {
        let done = dead_letters(options, &["replay", "--reason", "too_large"]).await?;
        ensure!(done.contains(expected), "{done}");
    }
    bed.until_rows(2).await?;
    let count = dead_letters(options, &["count"]).await?;
    ensure!(count.contains("2  too_large (2 of them replayed)"), "{count}");
    Ok(())
}

#[tokio::test]
async fn a_missing_dead_letter_topic_is_named_and_nothing_is_passed_over() -> Result<()> {
    let bed = Bed::start("unposted", 1).await?;
    let mut consumer = Consumer::start("one", &bed.options().with("DEAD_LETTER_TOPIC", LETTERS))?;
    wait::until_true("it says which topic", SOON, || async {
        let (status, reason) = consumer.get("/readyz").await?;
        ensure!(
            status == 503 && reason.contains("the dead-letter topic `posted.dlq` does not exist"),
            "{status} {reason}"
        );
        Ok(true)
    })
    .await?;
    // Good events need no such topic.
    bed.send(0, &event(1)).await?;
    bed.until_rows(1).await.map_err(|error| error.context(consumer.log()))?;
    bed.send(0, b"not json").await?;
    crate::support::until_logged(&consumer, "Dead letters are not in their topic yet").await?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 1);
    assert_eq!(consumer.get("/livez").await?.0, 200);

    bed.kafka.create_topic(LETTERS, 1).await?;
    until_read(&bed, 2).await.map_err(|error| error.context(consumer.log()))?;
    ensure!(!read(&bed.kafka, LETTERS).await?.is_empty());
    consumer.ready().await
}

/// A batch that waits for the topic waits alone, however much comes after it.
#[tokio::test]
async fn a_letter_that_cannot_go_holds_up_its_own_partitions_only() -> Result<()> {
    let bed = Bed::start("parted", 2).await?;
    let options = bed.options().with("DEAD_LETTER_TOPIC", LETTERS).with("BATCH_MAX_EVENTS", 200);
    let mut consumer = Consumer::start("one", &options)?;
    bed.send(0, b"not json").await?;
    crate::support::until_logged(&consumer, "Dead letters are not in their topic yet").await?;
    let producer = bed.kafka.producer()?;
    let payloads: Vec<Vec<u8>> = (0..3_000).map(event).collect();
    let send = async |partition: i32| {
        let sending = payloads.iter().map(|payload| {
            let record = FutureRecord::to(&bed.topic).partition(partition).key("k").payload(payload);
            producer.send(record, SOON)
        });
        futures::future::try_join_all(sending).await.map_err(|(error, _)| error)
    };
    send(0).await?;
    crate::support::until_logged(&consumer, "The database does not keep up; pausing").await?;
    send(1).await?;
    wait::until_true("the other partition's events are stored", SOON, || async {
        let done = bed.number("SELECT next_offset FROM pipeline_offsets WHERE partition = 1").await?;
        ensure!(done == 3_000, "{done} of 3000");
        Ok(true)
    })
    .await
    .map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets WHERE partition = 0").await?, 0);
    let (status, reason) = consumer.get("/readyz").await?;
    ensure!(status == 503 && reason.contains("dead-letter topic"), "{status} {reason}");

    bed.kafka.create_topic(LETTERS, 1).await?;
    until_read(&bed, 6_001).await.map_err(|error| error.context(consumer.log()))?;
    assert_eq!(bed.rows().await?, 3_000, "the same events lie in both partitions");
    consumer.ready().await
}

/// Anybody may write to the topic, and to most clients names of headers are bytes.
#[tokio::test]
async fn a_strangers_record_in_the_topic_is_passed_over_whatever_its_headers_are() -> Result<()> {
    let bed = Bed::start("strange", 1).await?;
    bed.kafka.create_topic(LETTERS, 1).await?;
    let mut producer = Command::new("kcat");
    producer.args(["-P", "-b", &bed.kafka.bootstrap(), "-t", LETTERS, "-p", "0", "-H"]);
    producer.arg(OsStr::from_bytes(b"\xFFname=value")).stdin(Stdio::piped());
    let mut producer = producer.spawn()?;
    producer.stdin.take().context("a pipe")?.write_all(b"hello")?;
    ensure!(producer.wait()?.success(), "kcat could not produce");
    let options = bed.options().with("DEAD_LETTER_TOPIC", LETTERS);
    let consumer = Consumer::start("one", &options)?;
    bed.send(0, b"not json").await?;
    until_read(&bed, 1).await.map_err(|error| error.context(consumer.log()))?;
    let count = dead_letters(&options, &["count"]).await?;
    ensure!(count.contains("1  invalid_json") && count.contains("1  in all"), "{count}");
    Ok(())
}

#[tokio::test]
async fn a_letter_too_large_for_its_topic_keeps_where_it_came_from() -> Result<()> {
    let bed = Bed::start("heavy", 1).await?;
    bed.kafka.create_topic_with(LETTERS, 1, &[("max.message.bytes", "4000")]).await?;
    let options = bed.options().with("DEAD_LETTER_TOPIC", LETTERS);
    let consumer = Consumer::start("one", &options)?;
    let large = format!("not json {}", "x".repeat(50_000));
    for payload in [large.as_bytes(), b"small", &event(1)] {
        bed.send(0, payload).await?;
    }
    bed.until_rows(1).await.map_err(|error| error.context(consumer.log()))?;
    let lying = read(&bed.kafka, LETTERS).await?;
    let stub = lying.iter().find(|one| one.header("dead-letter-offset").as_deref() == Some("0"));
    ensure!(
        stub.is_some_and(|stub| stub.payload.is_none()
            && stub.header("dead-letter-omitted-bytes") == Some(large.len().to_string())),
        "the letter without its content is missing"
    );
    // Its neighbours keep theirs, although Kafka may have refused all of them together.
    let (producer, value) = (bed.kafka.producer()?, "small ".repeat(20));
    let sending = (0..200)
        .map(|_| producer.send(FutureRecord::to(&bed.topic).partition(0).key("k").payload(&value), SOON));
    futures::future::try_join_all(sending).await.map_err(|(error, _)| error)?;
    until_read(&bed, 203).await.map_err(|error| error.context(consumer.log()))?;
    let small = read(&bed.kafka, LETTERS).await?;
    let small =
        small.iter().filter(|one| one.payload.as_deref().is_some_and(|value| value.starts_with(b"small")));
    assert_eq!(small.count(), 201);
    // It cannot be replayed, the other one can.
    let plan = dead_letters(&options, &["replay", "--dry-run"]).await?;
    ensure!(plan.contains("would replay 201 dead letters"), "{plan}");
    Ok(())
}

/// A letter may be there twice after a crash, and never not at all; rows are exactly once as ever.
#[tokio::test]
async fn killed_consumers_lose_no_letter_of_a_topic() -> Result<()> {
    let bed = Bed::start("perilous", 4).await?;
    bed.kafka.create_topic(LETTERS, 2).await?;
    let counts = bed.produce(29, 4, 20_000, None).await?;
    let options = bed.options().with("DEAD_LETTER_TOPIC", LETTERS).with("BATCH_MAX_EVENTS", 300);
    let distinct = i64::try_from(counts.distinct)?;
    for share in [5, 2] {
        let mut doomed = Consumer::start("doomed", &options)?;
        bed.until_rows(distinct / share).await.map_err(|error| error.context(doomed.log()))?;
        doomed.kill();
    }
    let last = Consumer::start("last", &options)?;
    until_read(&bed, i64::try_from(counts.produced())?).await.map_err(|error| error.context(last.log()))?;
    assert_eq!(bed.rows().await?, distinct);
    let lying = read(&bed.kafka, LETTERS).await?;
    let origins: BTreeSet<_> = lying
        .iter()
        .map(|one| (one.header("dead-letter-partition"), one.header("dead-letter-offset")))
        .collect();
    assert_eq!(origins.len() as u64, counts.malformed_total());
    let count = dead_letters(&options, &["count"]).await?;
    ensure!(count.contains(&format!("{:>10}  in all", origins.len())), "{count}");
    Ok(())
}
