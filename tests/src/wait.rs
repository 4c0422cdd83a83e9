//! Waiting for a condition instead of for time.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How long to leave a condition alone between two looks at it.
const INTERVAL: Duration = Duration::from_millis(50);

/// Looks until `look` returns `Some`, at most for `limit`.
///
/// An error of `look` counts as "not yet" and is named in the final error, since servers that are starting refuse
/// connections in many ways.
///
/// # Errors
/// When the time is over; the error names `what` and the last error seen.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut last: Option<anyhow::Error> = None;
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => last = None,
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if Instant::now() + INTERVAL >= deadline {
            let seconds = limit.as_secs_f32();
            return match last {
                Some(error) => Err(error).with_context(|| format!("{what}: still failing after {seconds} s")),
                None => bail!("{what}: not so after {seconds} s"),
            };
        }
        sleep(INTERVAL).await;
    }
}

/// Like [`until`] for a plain yes or no.
///
/// # Errors
/// As [`until`].
pub async fn until_true<F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    until(what, limit, || {
        let answer = look();
        async { Ok(answer.await?.then_some(())) }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_was_awaited() {
        let mut looks = 0;
        let found = until("third look", Duration::from_secs(5), || {
            looks += 1;
            let looks = looks;
            async move { Ok((looks == 3).then_some("here")) }
        });
        assert_eq!(found.await.unwrap(), "here");
    }

    #[tokio::test]
    async fn names_the_condition_and_the_last_error() {
        let never =
            until_true("the moon is cheese", Duration::from_millis(120), || async { bail!("it is basalt") });
        let message = format!("{:#}", never.await.unwrap_err());
        assert!(message.contains("the moon is cheese") && message.contains("it is basalt"), "{message}");
    }

    #[tokio::test]
    async fn does_not_outlast_its_limit_when_a_look_hangs() {
        let hanging = until_true("a look that hangs", Duration::from_millis(100), std::future::pending);
        assert!(hanging.await.is_err());
    }
}
