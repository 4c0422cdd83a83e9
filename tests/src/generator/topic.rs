//! The topic that events are sent to.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Creates the topic with the brokers' default replication.
///
/// # Errors
/// When it exists, because its events would blur any count and may be somebody's, or when Kafka does not answer.
pub async fn create(config: &ClientConfig, topic: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = config.create().context("cannot make a Kafka client")?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let brokers = brokers(config);
    let results = admin.create_topics([&new], &options).await;
    for result in results.with_context(|| format!("Kafka at {brokers} does not answer"))? {
        match result {
            Ok(_) => {}
            Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => {
                bail!("topic {topic} exists on {brokers} already: delete it first, or use another")
            }
            Err((topic, code)) => bail!("topic {topic} cannot be created on {brokers}: {code}"),
        }
    }
    Ok(())
}

/// How many partitions the topic has.
///
/// # Errors
/// When it does not exist, or Kafka does not answer.
pub async fn partitions(config: &ClientConfig, topic: &str) -> Result<i32> {
    let brokers = brokers(config);
    let client: BaseConsumer = config.create().context("cannot make a Kafka client")?;
    let name = topic.to_owned();
    // librdkafka's lookups block.
    let look = move || client.fetch_metadata(Some(&name), TIMEOUT);
    let metadata = tokio::task::spawn_blocking(look)
        .await?
        .with_context(|| format!("Kafka at {brokers} does not answer"))?;
    let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    if count == 0 {
        bail!("topic {topic} does not exist on {brokers}: create it first, or name another");
    }
    Ok(i32::try_from(count)?)
}

fn brokers(config: &ClientConfig) -> String {
    config.get("bootstrap.servers").unwrap_or("(no brokers named)").to_owned()
}
