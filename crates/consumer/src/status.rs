//! What stands between this process and its work, gathered from all parts into one readiness.
//!
//! Ready means: the database answers, Kafka can be reached, and the process has joined the group (with or without a
//! partition). It never turns liveness off: a server that is away is no reason to be restarted.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use analytics_runtime::health::Health;

/// Everything that readiness depends on.
pub struct Status {
    health: Health,
    state: Mutex<State>,
}

struct State {
    database: Option<String>,
    kafka: Option<String>,
    letters: Option<String>,
    claims: Option<String>,
    joined: bool,
    gaps: BTreeMap<i32, String>,
}

impl Status {
    /// Not ready yet.
    #[must_use]
    pub fn new(health: Health) -> Self {
        let state = State {
            database: Some("not connected to PostgreSQL yet".to_owned()),
            kafka: None,
            letters: None,
            claims: None,
            joined: false,
            gaps: BTreeMap::new(),
        };
        Self { health, state: Mutex::new(state) }
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        match state.obstacle() {
            None => self.health.set_ready(),
            Some(reason) => self.health.set_not_ready(reason),
        }
    }

    /// PostgreSQL answered.
    pub fn database_up(&self) {
        self.update(|state| state.database = None);
    }

    /// PostgreSQL cannot be used, and why.
    pub fn database_down(&self, reason: String) {
        self.update(|state| state.database = Some(reason));
    }

    /// Whether PostgreSQL, and the topic of the dead letters, answered last.
    pub fn is_sink_up(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.database.is_none() && state.letters.is_none()
    }

    /// A broker answered.
    pub fn kafka_reachable(&self) {
        self.update(|state| state.kafka = None);
    }

    /// Kafka cannot be used, and why.
    pub fn kafka_unreachable(&self, reason: String) {
        self.update(|state| state.kafka = Some(reason));
    }

    /// The topic of the dead letters takes them.
    pub fn letters_up(&self) {
        self.update(|state| state.letters = None);
    }

    /// The topic of the dead letters does not take them, and why.
    pub fn letters_down(&self, reason: String) {
        self.update(|state| state.letters = Some(reason));
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
            state.joined = true;
            state.kafka = None;
        });
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
        self.health.set_not_ready("stopping");
    }
}

impl State {
    fn obstacle(&self) -> Option<String> {
        let joining = || (!self.joined).then(|| "joining the consumer group".to_owned());
        self.database
            .clone()
            .or_else(|| self.kafka.clone())
            .or_else(|| self.claims.clone())
            .or_else(|| self.letters.clone())
            .or_else(joining)
            .or_else(|| self.gaps.values().next().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_the_database_kafka_and_the_group_and_names_what_is_missing() {
        let health = Health::new("test");
        let status = Status::new(health.clone());
        status.database_up();
        assert!(health.reason().is_some_and(|reason| reason.contains("joining")));
        status.joined();
        assert!(health.is_ready());
        status.kafka_unreachable("no broker".into());
        assert!(!health.is_ready());
        status.kafka_reachable();
        status.letters_down("no such topic".into());
        assert_eq!(health.reason().as_deref(), Some("no such topic"));
        status.letters_up();
        status.claims_failing("read-only".into());
        assert_eq!(health.reason().as_deref(), Some("read-only"));
        status.claims_done();
        status.gap_open(3, "partition 3 waits".into());
        assert_eq!(health.reason().as_deref(), Some("partition 3 waits"));
        status.gap_closed(3);
        assert!(health.is_ready());
        status.database_down("gone".into());
        assert_eq!(health.reason().as_deref(), Some("gone"));
    }
}
