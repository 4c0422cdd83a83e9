//! What a process says about itself: alive or not, ready or not, and why not.
//!
//! *Ready* falls when something it needs is away (Kafka, PostgreSQL): Kubernetes then waits. *Dead* means that only a
//! new process helps: Kubernetes then restarts it. An outage elsewhere must never make a process dead, because
//! restarting it heals nothing and loses what it holds.

use std::sync::{Arc, PoisonError, RwLock};

/// The shared state behind `/health`, `/livez` and `/readyz`. Clones see the same state.
#[derive(Clone, Debug)]
pub struct Health {
    service: &'static str,
    state: Arc<RwLock<State>>,
}

#[derive(Debug)]
struct State {
    /// Why it is not ready; `None` when ready.
    not_ready: Option<String>,
    /// Why it is dead; `None` while alive. Nothing brings it back.
    dead: Option<String>,
}

impl Health {
    /// Alive, and not yet ready ("starting"). `service` is the name told by `/health`.
    pub fn new(service: &'static str) -> Self {
        let state = State { not_ready: Some("starting".to_owned()), dead: None };
        Self { service, state: Arc::new(RwLock::new(state)) }
    }

    /// The name told by `/health`.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Everything needed is there.
    pub fn set_ready(&self) {
        self.write(|state| state.not_ready = None);
    }

    /// Something needed is away; `reason` is shown to people by `/readyz`.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.write(|state| state.not_ready = Some(reason));
    }

    /// This process cannot go on and wants to be replaced; `reason` is shown by `/livez`. The first reason stays,
    /// because what follows it is mostly its consequence.
    pub fn set_dead(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.write(|state| {
            state.dead.get_or_insert(reason);
        });
    }

    /// Alive and ready.
    pub fn is_ready(&self) -> bool {
        self.reason().is_none()
    }

    /// Alive, ready or not.
    pub fn is_alive(&self) -> bool {
        self.dead_reason().is_none()
    }

    /// Why it is not ready (being dead comes first), or `None` when ready.
    pub fn reason(&self) -> Option<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.dead.clone().or_else(|| state.not_ready.clone())
    }

    /// Why it is dead, or `None` while alive.
    pub fn dead_reason(&self) -> Option<String> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).dead.clone()
    }

    fn write(&self, change: impl FnOnce(&mut State)) {
        // Every change is one assignment, so a panic elsewhere cannot leave a half-written state.
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_alive_and_not_ready() {
        let health = Health::new("svc");
        assert!(health.is_alive());
        assert!(!health.is_ready());
        assert_eq!(health.reason().as_deref(), Some("starting"));
    }

    #[test]
    fn readiness_comes_and_goes_on_every_clone() {
        let health = Health::new("svc");
        let other = health.clone();
        health.set_ready();
        assert!(other.is_ready());
        other.set_not_ready("PostgreSQL is away");
        assert_eq!(health.reason().as_deref(), Some("PostgreSQL is away"));
        assert!(health.is_alive());
    }

    #[test]
    fn death_is_final_and_keeps_its_first_reason() {
        let health = Health::new("svc");
        health.set_dead("offset gap");
        health.set_dead("task ended");
        health.set_ready();
        assert!(!health.is_ready());
        assert!(!health.is_alive());
        assert_eq!(health.reason().as_deref(), Some("offset gap"));
    }
}
