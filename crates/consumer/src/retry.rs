//! Waiting between attempts: exponential, capped, with full jitter, so that many consumers that lost the same server
//! do not come back as one wave ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). And not waiting for ever.

use std::time::Duration;

use uuid::Uuid;

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);

/// What PostgreSQL answers within `limit`. A path that swallows packets never says that nobody is there; after this error
/// the connection is to be dropped, since the answer may still come.
///
/// # Errors
/// Whatever PostgreSQL says, or that it says nothing.
pub async fn answered<T>(
    limit: Duration,
    question: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, question).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} s", limit.as_secs());
        Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message)))
    })
}

/// The waiting times of one series of attempts; it never ends.
#[derive(Debug)]
pub struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    /// A new series.
    #[must_use]
    pub fn new() -> Self {
        Self { ceiling: FIRST }
    }

    /// How long to wait before the next attempt: evenly distributed between nothing and a ceiling that doubles.
    pub fn next(&mut self) -> Duration {
        let random = (Uuid::new_v4().as_u64_pair().0 >> 11) as f64 / (1_u64 << 53) as f64;
        let pause = self.ceiling.mul_f64(random);
        self.ceiling = (self.ceiling * 2).min(MOST);
        pause
    }

    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.ceiling = FIRST;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_stays_below_a_ceiling_that_grows_to_its_cap_and_falls_back() {
        let mut backoff = Backoff::new();
        for ceiling in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
            assert!(backoff.next() <= Duration::from_millis(ceiling));
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }

    #[tokio::test]
    async fn silence_ends_in_an_error_of_the_connection() {
        let silence = answered(Duration::from_millis(10), std::future::pending::<Result<(), _>>()).await;
        assert!(matches!(silence, Err(sqlx::Error::Io(_))), "{silence:?}");
        assert_eq!(answered(Duration::from_secs(60), async { Ok(1) }).await.ok(), Some(1));
    }
}
