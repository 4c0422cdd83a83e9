//! The tasks beside the reading thread. Each runs until it is told to end; one that ends by itself has failed, and the
//! process with it: what it did would be missing, and nobody would notice.

use std::collections::HashMap;

use tokio::task::{Id, JoinError, JoinSet};

use super::EngineError;

/// The running tasks, by name.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, String>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name.into());
    }

    /// Completes when a task ends although nobody told it to.
    pub(super) async fn failure(&mut self) -> EngineError {
        match self.running.join_next_with_id().await {
            Some(Ok((id, ()))) => self.error(id, "it returned".to_owned()),
            Some(Err(error)) => self.panicked(&error),
            // Without tasks there is nothing to fail.
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended, as they were told to.
    ///
    /// # Errors
    /// The first of them that panicked.
    pub(super) async fn drained(&mut self) -> Result<(), EngineError> {
        let mut result = Ok(());
        while let Some(ended) = self.running.join_next_with_id().await {
            if let Err(error) = ended {
                result = result.and(Err(self.panicked(&error)));
            }
        }
        result
    }

    /// Ends those that still run.
    pub(super) async fn abort(&mut self) {
        self.running.shutdown().await;
    }

    fn panicked(&self, error: &JoinError) -> EngineError {
        self.error(error.id(), error.to_string())
    }

    fn error(&self, id: Id, cause: String) -> EngineError {
        EngineError::Task { name: self.names.get(&id).cloned().unwrap_or_default(), cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_noticed_at_once_and_named() {
        for (panics, words) in [(true, "a full slot"), (false, "it returned")] {
            let mut tasks = Tasks::default();
            tasks.spawn("claims", std::future::pending());
            tasks.spawn("writer 1", async move { assert!(!panics, "a full slot") });
            let failure = tasks.failure().await.to_string();
            assert!(failure.contains("writer 1") && failure.contains(words), "{failure}");
            tasks.abort().await;
        }
    }

    #[tokio::test]
    async fn a_panic_while_stopping_is_no_clean_stop() {
        let mut tasks = Tasks::default();
        tasks.spawn("writer 0", async {});
        assert!(tasks.drained().await.is_ok());
        tasks.spawn("writer 1", async { panic!("at the end") });
        tasks.spawn("writer 2", async {});
        let result = tasks.drained().await.map_err(|error| error.to_string());
        assert!(result.is_err_and(|error| error.contains("writer 1")));
    }
}
