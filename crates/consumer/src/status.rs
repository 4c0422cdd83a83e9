//! What stands between this process and its work, gathered from all parts into one readiness.
//!
//! Ready means: the database answers, Kafka can be reached, and the process has joined the group (with or without a
//! partition). It never turns liveness off: a server that is away is no reason to be restarted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use analytics_runtime::health::Health;

/// Everything that readiness depends on.
pub struct Status {
    health: Health,
    state: Mutex<State>,
}

struct State {
    /// Until the schema is what the consumer needs.
    schema: Option<String>,
    /// By writer: that one of them gets through says nothing of the others.
    databases: BTreeMap<usize, String>,
    kafka: Option<String>,
    /// While the broker that leads the group is away, others may answer.
    coordinator: Option<String>,
    topic: Option<String>,
    /// By writer; without one, that of the check at the start.
    letters: BTreeMap<Option<usize>, String>,
    claims: Option<String>,
    /// Until the group has given this process an assignment.
    group: Option<String>,
    gaps: BTreeMap<i32, String>,
    stopping: bool,
}

impl Status {
    /// Not ready yet.
    #[must_use]
    pub fn new(health: Health) -> Self {
        let state = State {
            schema: Some("not connected to PostgreSQL yet".to_owned()),
            databases: BTreeMap::new(),
            kafka: None,
            coordinator: None,
            topic: None,
            letters: BTreeMap::new(),
            claims: None,
            group: Some("joining the consumer group".to_owned()),
            gaps: BTreeMap::new(),
            stopping: false,
        };
        Self { health, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        match state.obstacle() {
            None => self.health.set_ready(),
            Some(reason) => self.health.set_not_ready(reason),
        }
    }

    /// The schema is what the consumer needs.
    pub fn schema_ready(&self) {
        self.update(|state| state.schema = None);
    }

    /// The schema is not there yet, and why.
    pub fn schema_waits(&self, reason: String) {
        self.update(|state| state.schema = Some(reason));
    }

    /// PostgreSQL answered this writer.
    pub fn database_up(&self, writer: usize) {
        self.update(|state| {
            state.databases.remove(&writer);
        });
    }

    /// This writer cannot use PostgreSQL, and why.
    pub fn database_down(&self, writer: usize, reason: String) {
        self.update(|state| {
            state.databases.insert(writer, reason);
        });
    }

    /// Whether PostgreSQL, and the topic of the dead letters, answered every writer last.
    pub fn is_sink_up(&self) -> bool {
        let state = self.lock();
        state.databases.is_empty() && state.letters.is_empty()
    }

    /// A broker answered.
    pub fn kafka_reachable(&self) {
        self.update(|state| state.kafka = None);
    }

    /// Kafka cannot be used, and why.
    pub fn kafka_unreachable(&self, reason: String) {
        self.update(|state| state.kafka = Some(reason));
    }

    /// Why the broker that leads the group cannot be used; `None` if it can.
    pub fn coordinator(&self, away: Option<String>) {
        self.update(|state| state.coordinator = away);
    }

    /// The topic can be read.
    pub fn topic_readable(&self) {
        self.update(|state| state.topic = None);
    }

    /// The topic cannot be read although brokers answer, and why. librdkafka says so once, so it counts until something
    /// was read from the topic, by whomever.
    pub fn topic_unreadable(&self, reason: String) {
        self.update(|state| state.topic = Some(reason));
    }

    /// Whether the topic could be read last.
    pub fn is_topic_readable(&self) -> bool {
        self.lock().topic.is_none()
    }

    /// The topic of the dead letters takes those of this writer, or is there (without a writer).
    pub fn letters_up(&self, writer: Option<usize>) {
        self.update(|state| {
            state.letters.remove(&writer);
        });
    }

    /// The topic of the dead letters does not take those of this writer, or is not there, and why.
    pub fn letters_down(&self, writer: Option<usize>, reason: String) {
        self.update(|state| {
            state.letters.insert(writer, reason);
        });
    }

    /// Every assigned partition is taken over, or waits for a person.
    pub fn claims_done(&self) {
        self.update(|state| state.claims = None);
    }

    /// Assigned partitions cannot be taken over, and why.
    pub fn claims_failing(&self, reason: String) {
        self.update(|state| state.claims = Some(reason));
    }

    /// The group gave this process an assignment.
    pub fn joined(&self) {
        self.update(|state| {
            state.group = None;
            state.kafka = None;
        });
    }

    /// The group does not take this process, and why.
    pub fn not_joined(&self, reason: String) {
        self.update(|state| state.group = Some(reason));
    }

    /// A partition waits for a person.
    pub fn gap_open(&self, partition: i32, reason: String) {
        self.update(|state| {
            state.gaps.insert(partition, reason);
        });
    }

    /// The partition goes on, or is somebody else's now.
    pub fn gap_closed(&self, partition: i32) {
        self.update(|state| {
            state.gaps.remove(&partition);
        });
    }

    /// The process is stopping.
    pub fn stopping(&self) {
        self.update(|state| state.stopping = true);
    }
}

impl State {
    fn obstacle(&self) -> Option<String> {
        if self.stopping {
            return Some("stopping".to_owned());
        }
        self.schema
            .as_ref()
            .or_else(|| self.databases.values().next())
            .or(self.kafka.as_ref())
            .or(self.coordinator.as_ref())
            .or(self.topic.as_ref())
            .or(self.claims.as_ref())
            .or_else(|| self.letters.values().next())
            .or(self.group.as_ref())
            .or_else(|| self.gaps.values().next())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_the_database_kafka_and_the_group_and_names_what_is_missing() {
        let health = Health::new("test");
        let status = Status::new(health.clone());
        status.schema_ready();
        assert!(health.reason().is_some_and(|reason| reason.contains("joining")));
        status.joined();
        assert!(health.is_ready());
        status.kafka_unreachable("no broker".into());
        assert!(!health.is_ready());
        status.kafka_reachable();
        status.coordinator(Some("away".into()));
        assert_eq!(health.reason().as_deref(), Some("away"));
        status.coordinator(None);
        status.letters_down(None, "no such topic".into());
        assert_eq!(health.reason().as_deref(), Some("no such topic"));
        status.letters_up(None);
        status.claims_failing("read-only".into());
        assert_eq!(health.reason().as_deref(), Some("read-only"));
        status.claims_done();
        status.gap_open(3, "partition 3 waits".into());
        assert_eq!(health.reason().as_deref(), Some("partition 3 waits"));
        status.gap_closed(3);
        assert!(health.is_ready());
        status.database_down(0, "gone".into());
        assert_eq!(health.reason().as_deref(), Some("gone"));
    }

    fn ready() -> (Health, Status) {
        let health = Health::new("test");
        let status = Status::new(health.clone());
        status.schema_ready();
        status.joined();
        (health, status)
    }

    /// The idle writer looks after its connection every few seconds, and must not speak for one whose batch is refused.
    #[test]
    fn one_writer_that_gets_through_does_not_hide_another_that_does_not() {
        let (health, status) = ready();
        status.database_down(1, "locked".into());
        status.database_up(0);
        assert_eq!(health.reason().as_deref(), Some("locked"));
        assert!(!status.is_sink_up());
        status.database_down(0, "gone".into());
        status.database_up(1);
        assert_eq!(health.reason().as_deref(), Some("gone"));
        status.database_up(0);
        assert!(health.is_ready() && status.is_sink_up());
    }

    #[test]
    fn letters_of_one_writer_that_go_do_not_hide_those_of_another_that_do_not() {
        let (health, status) = ready();
        status.letters_down(Some(0), "no leader".into());
        status.letters_up(Some(1));
        assert_eq!(health.reason().as_deref(), Some("no leader"));
        assert!(!status.is_sink_up());
        status.letters_up(Some(0));
        assert!(health.is_ready() && status.is_sink_up());
    }

    /// What is written while stopping must not bring requests back.
    #[test]
    fn whoever_is_stopping_is_not_ready_again() {
        let (health, status) = ready();
        status.stopping();
        status.database_up(0);
        assert_eq!(health.reason().as_deref(), Some("stopping"));
    }

    #[test]
    fn a_broker_that_answers_does_not_make_a_topic_readable() {
        let (health, status) = ready();
        status.topic_unreadable("no Read".into());
        status.kafka_reachable();
        status.joined();
        assert_eq!(health.reason().as_deref(), Some("no Read"));
        status.topic_readable();
        assert!(health.is_ready());
    }
}
