use super::*;
use crate::settings::{Settings, SettingsError};
use crate::source::{Consumer, Context, Positions};
use analytics_runtime::health::Health;
use prometheus::Registry;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;

const SOON: Duration = Duration::from_secs(30);

fn settings() -> Result<Settings, SettingsError> {
    // Nobody listens on port 1.
    let variables = [
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("KAFKA_TOPIC", "t"),
        ("DATABASE_URL", "postgres://a:b@127.0.0.1:1/c"),
    ];
    Settings::from_variables(&variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

/// Claims of a database that is away, with what they report to.
fn claims() -> (Claims, Arc<Assignments>, Health) {
    let settings = settings().expect("good settings");
    let health = Health::new("test");
    let status = Arc::new(Status::new(health.clone()));
    status.schema_ready();
    status.joined();
    let metrics = Arc::new(Metrics::new(&Registry::new(), "t").expect("fresh registry"));
    let context =
        Context::new("t".into(), Arc::new(Positions::default()), Arc::clone(&metrics), Arc::clone(&status));
    let config = ClientConfig::new();
    let consumer = Consumer::from_config_and_context(&config, context).expect("a client");
    let assignments: Arc<Assignments> = Arc::default();
    let claims = Claims {
        database: Database::new(&settings.database, "one").expect("a good URL"),
        statements: Statements::new(&settings.database),
        owner: Owner { group_id: "g".into(), topic: "t".into(), instance: "one".into() },
        start_from: StartFrom::Earliest,
        on_offset_gap: OnOffsetGap::Fail,
        kafka: Questions { consumer: Arc::new(consumer), topic: "t".into() },
        assignments: Arc::clone(&assignments),
        control: std::sync::mpsc::channel().0,
        metrics,
        status,
    };
    (claims, assignments, health)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

/// Nothing comes after a revocation that would clear the reason.
#[tokio::test]
async fn a_claim_that_fails_and_is_revoked_leaves_nothing_behind() {
    let (claims, assignments, health) = claims();
    let metrics = Arc::clone(&claims.metrics);
    let (requests, receiver) = mpsc::unbounded_channel();
    assignments.set(3, 1);
    requests.send(Claim { partition: 3, generation: 1, due: Instant::now() }).expect("a receiver");
    let running = tokio::spawn(claims.run(receiver));
    let reason = || health.reason().unwrap_or_default();
    until("it says why", || reason().contains("cannot connect to PostgreSQL at 127.0.0.1:1")).await;
    assert!(metrics.database_failures("transient") >= 1, "what the server owes to claims counts, too");
    assignments.remove(3);
    until("it is ready again", || health.is_ready()).await;
    drop(requests);
    running.await.expect("no panic");
}

#[tokio::test]
async fn a_new_claim_is_looked_at_although_another_waits_for_a_person() {
    let (requests, mut receiver) = mpsc::unbounded_channel();
    let (mut pending, now) = (Pending::default(), Instant::now());
    let hour = Duration::from_secs(3600);
    pending.add(Claim { partition: 0, generation: 1, due: now + hour });
    requests.send(Claim { partition: 1, generation: 2, due: now }).expect("a receiver");
    let waited = tokio::time::timeout(SOON, wait(&mut receiver, &mut pending, now + hour)).await;
    assert_eq!(waited, Ok(true));
    let due = pending.take_due(Instant::now(), |_, _| true);
    assert_eq!(due.iter().map(|waiting| waiting.partition).collect::<Vec<_>>(), [1]);
    drop(requests);
    assert!(!wait(&mut receiver, &mut pending, now + hour).await, "the reading thread is gone");
}

/// A person is told once and not every ten seconds, and a partition of somebody else not at all.
#[test]
fn a_gap_is_counted_once_and_only_while_the_partition_is_assigned() {
    let (claims, assignments, health) = claims();
    let gap = Gap { offset: 4, stored: true, low: 10, high: 20, recreated: false };
    let (mut pending, now) = (Pending::default(), Instant::now());
    pending.add(Claim { partition: 3, generation: 1, due: now });
    for _ in 0..3 {
        let waiting = pending.take_due(now, |_, _| true)[0];
        claims.assignments.if_current(3, 1, || claims.opened(&waiting, &gap));
        assert!(health.is_ready(), "it was given back meanwhile, and nobody would close it");
        pending.put_back_failed(waiting, now, Duration::ZERO);
    }
    assignments.set(3, 1);
    for _ in 0..3 {
        let waiting = pending.take_due(now, |_, _| true)[0];
        claims.assignments.if_current(3, 1, || claims.opened(&waiting, &gap));
        pending.put_back_gap(waiting, now, Duration::ZERO);
    }
    assert!(health.reason().is_some_and(|reason| reason.contains("partition 3 waits")));
    assert_eq!(claims.metrics.offset_gaps("fail"), 1);
}

#[test]
fn only_another_id_is_another_topic() {
    let mut topic = Topic { id: None, look: Instant::now() };
    for (id, is_another) in [
        (None, false),
        (Some("a"), false),
        (None, false),
        (Some("a"), false),
        (Some("b"), true),
        (Some("b"), false),
    ] {
        assert_eq!(topic.is_another(id), is_another, "{id:?}");
    }
}
