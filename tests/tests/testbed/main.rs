//! The test bed itself: what it starts works, and nothing of it is left.

mod support;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::Message;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::FutureRecord;
use testbed::{
    Cluster, ClusterOptions, Image, Kafka, KafkaOptions, Postgres, PostgresOptions, Testbed, TestbedOptions,
    wait,
};

const SOON: Duration = Duration::from_secs(60);

async fn produce(kafka: &Kafka, topic: &str, keys: std::ops::Range<u32>) -> Result<()> {
    let producer = kafka.producer()?;
    for key in keys.map(|key| key.to_string()) {
        let record = FutureRecord::to(topic).key(&key).payload("{}");
        producer.send(record, SOON).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// The keys of the first `count` records of the topic, sorted.
///
/// A broker that is away is said here too, as an error that means no more than its name: librdkafka goes on with the
/// others, and only what it calls fatal ends a consumer. Whether the records come is what counts.
async fn consume(kafka: &Kafka, topic: &str, count: usize) -> Result<Vec<String>> {
    let mut config = kafka.client_config();
    config.set("group.id", "readers").set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: StreamConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    let mut keys = Vec::new();
    let mut said = Vec::new();
    while keys.len() < count {
        let Ok(record) = tokio::time::timeout(SOON, consumer.recv()).await else {
            bail!("{} of {count} records came; the client said {said:?}", keys.len());
        };
        match record {
            Ok(record) => keys.push(String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned()),
            Err(error) if consumer.client().fatal_error().is_some() => return Err(error.into()),
            Err(error) => said.push(error.to_string()),
        }
    }
    keys.sort();
    Ok(keys)
}

#[tokio::test]
async fn kafka_keeps_its_records_over_a_kill() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions::default()).await?;
    kafka.create_topic("letters", 3).await?;
    produce(&kafka, "letters", 10..15).await?;
    kafka.kill();
    kafka.restart().await?;
    produce(&kafka, "letters", 15..20).await?;
    let expected: Vec<_> = (10..20).map(|key| key.to_string()).collect();
    assert_eq!(consume(&kafka, "letters", 10).await?, expected);
    assert_eq!(kafka.end_offsets("letters").await?.values().sum::<i64>(), 10);
    assert_eq!(kafka.lag("readers", "letters").await?, 10);
    kafka.add_partitions("letters", 5).await?;
    assert_eq!(kafka.end_offsets("letters").await?.len(), 5);
    kafka.alter_topic("letters", &[("retention.ms", "3600000")]).await?;
    kafka.delete_topic("letters").await?;
    assert!(kafka.end_offsets("letters").await.is_err());
    kafka.stop().await
}

#[tokio::test]
async fn three_brokers_serve_while_one_is_dead() -> Result<()> {
    let mut kafka = Kafka::start(KafkaOptions { brokers: 3, ..KafkaOptions::default() }).await?;
    kafka.create_topic("letters", 3).await?;
    kafka.kill_broker(2);
    produce(&kafka, "letters", 0..5).await?;
    assert_eq!(consume(&kafka, "letters", 5).await?.len(), 5);
    kafka.restart().await
}

#[tokio::test]
async fn postgres_keeps_its_rows_over_a_crash_and_a_restart() -> Result<()> {
    let mut postgres = Postgres::start(PostgresOptions::default()).await?;
    let pool = postgres.pool().await?;
    sqlx::query("CREATE TABLE rows AS SELECT generate_series(1, 100) AS id").execute(&pool).await?;
    pool.close().await;
    postgres.kill().await?;
    assert!(postgres.pool().await.is_err(), "a killed server must not answer");
    postgres.restart().await?;
    postgres.stop().await?;
    postgres.restart().await?;
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM rows").fetch_one(&postgres.pool().await?).await?;
    assert_eq!(count, 100);
    assert!(postgres.create_database("another").await?.ends_with("/another"));
    let wrong = postgres.url().replace("analytics:analytics@", "analytics:wrong@");
    assert!(sqlx::PgPool::connect(&wrong).await.is_err(), "a wrong password must be refused");
    Ok(())
}

#[tokio::test]
async fn a_pod_reaches_the_cluster_and_the_servers_and_nothing_is_left() -> Result<()> {
    let began = Instant::now();
    let testbed = Testbed::start(TestbedOptions::default()).await?;
    println!("the whole test bed: {:.1} s", began.elapsed().as_secs_f32());
    let endpoints = testbed.endpoints()?;
    testbed.cluster.load_image(&support::shell_image().await?).await?;
    testbed.cluster.create_namespace("reach").await?;

    let began = Instant::now();
    let script = support::reach_script(&endpoints);
    let log = support::run_script(&testbed.cluster, "reach", &script).await?;
    println!("a pod, from creation to its end: {:.1} s", began.elapsed().as_secs_f32());

    for line in ["api server: ok", "kafka: ok", "postgres: ok"] {
        assert!(log.contains(line), "the pod says:\n{log}");
    }

    let began = Instant::now();
    let traces = support::Traces::of(&endpoints, &support::node_folder(&endpoints)?)?;
    drop(testbed);
    println!("the end: {:.1} s", began.elapsed().as_secs_f32());
    assert_eq!(traces.left(), Vec::<String>::new());
    Ok(())
}

/// The image that users get: both programs start, without rights, on a read-only file system.
#[tokio::test]
async fn the_image_runs_under_the_restricted_level() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default()).await?;
    let began = Instant::now();
    let image = Image::build().await?;
    println!("the image: {:.1} s", began.elapsed().as_secs_f32());
    let began = Instant::now();
    cluster.load_image(image.archive()).await?;
    println!("loading it: {:.1} s", began.elapsed().as_secs_f32());
    cluster.create_restricted_namespace("image").await?;
    for program in ["analytics-consumer", "analytics-controller"] {
        let log = support::run_restricted(&cluster, "image", Image::NAME, &[program, "--version"]).await?;
        assert!(log.starts_with(program), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_owner_takes_everything_along() -> Result<()> {
    let mut owner = support::Owner::start().await?;
    let endpoints = owner.endpoints().await?;
    let traces = support::Traces::of(&endpoints, &owner.root())?;
    owner.kill()?;
    wait::until("all processes and mounts are gone", SOON, || async {
        Ok(traces.in_the_kernel().is_empty().then_some(()))
    })
    .await
    .with_context(|| format!("left: {:?}", traces.in_the_kernel()))?;
    // Folders stay after a crash, until the next test bed of the same owner starts or `testbed down` is called.
    assert!(traces.folder_exists());
    owner.clean()?;
    assert!(!traces.folder_exists());
    assert_eq!(traces.left(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn two_clusters_run_beside_each_other() -> Result<()> {
    let start = || Cluster::start(ClusterOptions::default());
    let (first, second) = tokio::try_join!(Box::pin(start()), Box::pin(start()))?;
    first.create_namespace("only-here").await?;
    assert!(second.kubectl(&["get", "namespace", "only-here"]).await.is_err());
    assert!(first.kubectl(&["get", "namespace", "only-here"]).await?.contains("Active"));
    Ok(())
}
