//! Reading the lag of one group on one topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use autoscaler::{CommittedOffset, GroupState, PartitionObservation};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::clients::Client;
use super::error::{classify, code_of};
use super::{Connection, LagError, Reading, committed, groups};

/// For so long is an answer to "is anybody there?" awaited.
const ANYBODY: Duration = Duration::from_secs(2);

/// A reading that did not come about.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: LagError,
    pub(super) kind: Kind,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Kafka has answered: the same question by another connection would have the same answer.
    Answered,
    /// The client holds on to a coordinator that is none any more; another client asks anew.
    Moved,
    /// Some broker does not answer; others do.
    Partly,
    /// No broker answers, or none lets us in.
    Silent,
}

/// Reads partitions, committed offsets and log ends, in this order: a commit that comes between makes the lag look larger,
/// never negative. Each of them is one request for all partitions (per broker).
pub(super) fn read(client: &Client, connection: &Connection, timeout: Duration) -> Result<Reading, Failure> {
    let (topic, group) = (connection.topic.as_str(), connection.group.as_str());
    read_offsets(client, connection, timeout)
        .map(|(count, partitions)| {
            // What the group does is welcome, not needed: without it the autoscaler goes by the Deployment alone.
            let group = groups::describe(client.client(), group, timeout).ok();
            client.context().take();
            Reading {
                partition_count: count,
                partitions: partitions.into(),
                group_members: group.as_ref().and_then(|group| group.readers(topic)),
                group: group.map_or(GroupState::Unknown, |group| group.state),
            }
        })
        .map_err(|error| {
            client.context().remember(topic, None);
            let kind =
                kind(code_of(&error), || client.fetch_metadata(Some(topic), timeout.min(ANYBODY)).is_ok());
            listen(client);
            Failure { error: classify(&error, &client.context().take(), connection), kind }
        })
}

fn kind(code: RDKafkaErrorCode, is_anybody_there: impl FnOnce() -> bool) -> Kind {
    match code {
        RDKafkaErrorCode::NotCoordinator | RDKafkaErrorCode::CoordinatorNotAvailable => Kind::Moved,
        RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::NetworkException
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::RequestTimedOut
        | RDKafkaErrorCode::Resolve
        | RDKafkaErrorCode::SSL
        | RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed => {
            if is_anybody_there() {
                Kind::Partly
            } else {
                Kind::Silent
            }
        }
        _ => Kind::Answered,
    }
}

fn read_offsets(
    client: &Client,
    connection: &Connection,
    timeout: Duration,
) -> Result<(u32, Vec<PartitionObservation>), KafkaError> {
    let topic = connection.topic.as_str();
    let numbers = known_partitions(client, topic, timeout)?;
    let wanted = list(topic, &numbers, Offset::Invalid)?;
    let committed = committed::read(client.client(), &connection.group, &wanted, timeout)?;
    let ends = offsets(&client.offsets_for_times(list(topic, &numbers, Offset::End)?, timeout)?);
    let fresh: Vec<_> = numbers
        .iter()
        .copied()
        .filter(|number| committed.get(number) == Some(&CommittedOffset::Never))
        .collect();
    let starts = if fresh.is_empty() {
        HashMap::new()
    } else {
        offsets(&client.offsets_for_times(list(topic, &fresh, Offset::Beginning)?, timeout)?)
    };
    let partitions: Vec<_> = numbers
        .iter()
        .map(|number| PartitionObservation {
            partition: *number,
            log_start: starts.get(number).and_then(position),
            log_end: ends.get(number).and_then(position),
            committed: committed.get(number).copied().unwrap_or(CommittedOffset::Unknown),
            lag_seconds: None,
        })
        .collect();
    if partitions.iter().any(|seen| seen.log_end.is_none() || seen.committed == CommittedOffset::Unknown) {
        // Perhaps the topic is not what it was: look again next time.
        client.context().remember(topic, None);
    }
    Ok((u32::try_from(numbers.len()).unwrap_or(u32::MAX), partitions))
}

fn known_partitions(client: &Client, topic: &str, timeout: Duration) -> Result<Arc<[i32]>, KafkaError> {
    if let Some(numbers) = client.context().partitions(topic) {
        return Ok(numbers);
    }
    let numbers: Arc<[i32]> = partition_numbers(client, topic, timeout)?.into();
    client.context().remember(topic, Some(Arc::clone(&numbers)));
    Ok(numbers)
}

fn partition_numbers(client: &Client, topic: &str, timeout: Duration) -> Result<Vec<i32>, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let found =
        metadata.topics().iter().find(|candidate| candidate.name() == topic).ok_or(unknown.clone())?;
    if let Some(error) = found.error() {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let mut numbers: Vec<_> = found.partitions().iter().map(|partition| partition.id()).collect();
    numbers.sort_unstable();
    if numbers.is_empty() { Err(unknown) } else { Ok(numbers) }
}

fn list(topic: &str, numbers: &[i32], offset: Offset) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(numbers.len());
    for number in numbers {
        list.add_partition_offset(topic, *number, offset)?;
    }
    Ok(list)
}

// A partition with an error is left out, which makes it unknown.
fn offsets(list: &TopicPartitionList) -> HashMap<i32, Offset> {
    list.elements()
        .iter()
        .filter(|element| element.error().is_ok())
        .map(|element| (element.partition(), element.offset()))
        .collect()
}

fn position(offset: &Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(*offset),
        _ => None,
    }
}

// Errors that a client reports on its own arrive when it is polled; without them a wrong password looks like a time-out.
fn listen(client: &Client) {
    let until = Instant::now() + Duration::from_millis(200);
    while Instant::now() < until {
        if let Some(Err(error)) = client.poll(Duration::from_millis(50)) {
            client.context().note(&error, &error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, CommitMode};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::super::Clients;
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn connection(brokers: &str, topic: &str) -> Connection {
        Connection {
            brokers: brokers.into(),
            topic: topic.into(),
            group: "shop".into(),
            settings: BTreeMap::new(),
        }
    }

    fn produce(brokers: &str, topic: &str, partition: i32, count: usize) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
        for _ in 0..count {
            let record = BaseRecord::<(), str>::to(topic).partition(partition).payload("x");
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIMEOUT).unwrap();
    }

    fn commit(brokers: &str, topic: &str, partition: i32, offset: i64) {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", "shop").create().unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn committed_offsets_and_log_ends_are_read_for_all_partitions() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("clicks", 3, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        produce(&brokers, "clicks", 0, 10);
        produce(&brokers, "clicks", 1, 5);
        commit(&brokers, "clicks", 0, 4);

        let reading = Clients::new(TIMEOUT).read(&connection(&brokers, "clicks")).await.unwrap();

        assert_eq!(reading.partition_count, 3);
        let seen: Vec<_> =
            reading.partitions.iter().map(|p| (p.partition, p.committed, p.log_start, p.log_end)).collect();
        assert_eq!(
            seen,
            [
                (0, CommittedOffset::At(4), None, Some(10)),
                (1, CommittedOffset::Never, Some(0), Some(5)),
                (2, CommittedOffset::Never, Some(0), Some(0)),
            ]
        );
    }

    /// One client serves all pipelines of a cluster, many of them at the same time.
    #[tokio::test(flavor = "multi_thread")]
    async fn many_groups_are_read_at_the_same_time() {
        let cluster = MockCluster::new(2).unwrap();
        cluster.create_topic("clicks", 4, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        produce(&brokers, "clicks", 0, 3);
        let clients = Clients::new(TIMEOUT);
        for round in 0..5 {
            let readings = (0..64).map(|number| {
                let clients = clients.clone();
                let connection =
                    Connection { group: format!("group-{number}"), ..connection(&brokers, "clicks") };
                tokio::spawn(async move { clients.read(&connection).await })
            });
            for reading in futures::future::join_all(readings).await {
                let reading = reading.unwrap().unwrap();
                assert_eq!(reading.partitions.len(), 4, "round {round}");
                assert!(reading.partitions.iter().all(|seen| seen.committed == CommittedOffset::Never));
            }
        }
    }

    #[test]
    fn only_failures_of_connections_are_looked_into() {
        let table = [
            (RDKafkaErrorCode::GroupAuthorizationFailed, Some(Kind::Answered)),
            (RDKafkaErrorCode::UnknownTopicOrPartition, Some(Kind::Answered)),
            (RDKafkaErrorCode::NotCoordinator, Some(Kind::Moved)),
            (RDKafkaErrorCode::CoordinatorNotAvailable, Some(Kind::Moved)),
            (RDKafkaErrorCode::OperationTimedOut, None),
            (RDKafkaErrorCode::BrokerTransportFailure, None),
            (RDKafkaErrorCode::SaslAuthenticationFailed, None),
        ];
        for (code, expected) in table {
            assert_eq!(kind(code, || true), expected.unwrap_or(Kind::Partly), "{code:?}");
            assert_eq!(kind(code, || false), expected.unwrap_or(Kind::Silent), "{code:?}");
        }
    }

    /// What one pipeline may not see must not cost the others their connection.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_that_may_not_be_read_leaves_the_client_to_the_others() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("clicks", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let clients = Clients::new(TIMEOUT);
        clients.read(&connection(&brokers, "clicks")).await.unwrap();
        let before = clients.opened();
        for _ in 0..3 {
            let forbidden = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
            cluster.request_errors(RDKafkaApiKey::OffsetFetch, &[forbidden]);
            let error = clients.read(&connection(&brokers, "clicks")).await.unwrap_err();
            assert_eq!(error.reason(), "KafkaNotAuthorized", "{error}");
        }
        assert_eq!(clients.opened(), before);
    }

    /// The coordinator of a group moves whenever a broker restarts. (A client without a group of its own crashes here.)
    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_whose_coordinator_has_moved_is_found_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("clicks", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let clients = Clients::new(TIMEOUT);
        let moved = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR;
        cluster.request_errors(RDKafkaApiKey::OffsetFetch, &[moved]);
        assert_eq!(clients.read(&connection(&brokers, "clicks")).await.unwrap().partition_count, 1);

        cluster.request_errors(RDKafkaApiKey::OffsetFetch, &[moved, moved]);
        let error = clients.read(&connection(&brokers, "clicks")).await.unwrap_err();
        assert_eq!(error.reason(), "LagReadFailed", "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn brokers_that_are_not_there_are_unreachable_and_not_without_lag() {
        let clients = Clients::new(Duration::from_millis(500));
        let error = clients.read(&connection("127.0.0.1:1", "clicks")).await.unwrap_err();
        assert_eq!(error.reason(), "KafkaUnreachable", "{error}");
        assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    }
}
