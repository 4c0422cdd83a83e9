//! One pipeline's trouble stays its own: what panics or does not end fails one reconcile, which is told and tried again.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;

use crate::error::Error;

/// Time for what a reconcile does. Each answer of Kafka and of the API server has a limit of its own, which is shorter.
const LIMIT: Duration = Duration::from_secs(120);
/// Time for that, and to tell what became of it.
const LIMIT_WITH_TELLING: Duration = Duration::from_secs(180);

/// Does the work of a reconcile.
///
/// What it leaves behind when it is broken off is looked at anew each time: the memory of a pipeline is taken out whole by
/// whoever replaces it, and locks that were held by what panicked are taken as they are.
pub(super) async fn work<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    within(LIMIT, work).await
}

/// Runs a whole reconcile: its [`work`], and telling what became of it.
pub(super) async fn whole<T>(reconcile: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    within(LIMIT_WITH_TELLING, reconcile).await
}

async fn within<T>(limit: Duration, part: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, AssertUnwindSafe(part).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Error::Panicked { message: words(panic.as_ref()) }),
        Err(_) => Err(Error::TimedOut { limit }),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it said nothing").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_words() {
        let partition = 7;
        let outcome = work::<()>(async { panic!("no partition {partition}") }).await;
        let Err(Error::Panicked { message }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(message, "no partition 7");
        assert_eq!(whole(async { Ok(1) }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_does_not_end_is_given_up() {
        let outcome = within::<()>(Duration::from_millis(20), std::future::pending()).await;
        assert!(matches!(outcome, Err(Error::TimedOut { .. })), "{outcome:?}");
    }
}
