//! Encryption and login against servers that insist on them: what is right works, and what is wrong is named.

mod kafka;
mod postgres;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::{Consumer, ConsumerOptions, wait};

/// How long a consumer may take to find out; TLS failures come with librdkafka's back-off.
const SOON: Duration = Duration::from_secs(60);

/// What comes of a configuration.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// The consumer becomes ready.
    Ready,
    /// It does not, and `/readyz` as well as the log hold all of these words.
    Named(&'static [&'static str]),
    /// It ends with this exit code, and its last words hold these.
    Ends(i32, &'static str),
}

/// Runs one consumer for each row, all at once, and waits until each is as it shall be.
async fn play(table: Vec<(&'static str, ConsumerOptions, Outcome)>) -> Result<()> {
    let rows = table.into_iter().map(|(name, options, outcome)| async move {
        let mut consumer = Consumer::start(name, &options)?;
        let seen = see(&mut consumer, outcome).await;
        seen.with_context(|| format!("{name}: its log says:\n{}", consumer.log()))
    });
    let failures: Vec<String> = futures::future::join_all(rows)
        .await
        .into_iter()
        .filter_map(|row| row.err().map(|error| format!("{error:#}")))
        .collect();
    ensure!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n\n"));
    Ok(())
}

async fn see(consumer: &mut Consumer, outcome: Outcome) -> Result<()> {
    let words = match outcome {
        Outcome::Ready => return consumer.ready().await,
        Outcome::Ends(code, words) => {
            let status = consumer.ended(SOON).await?;
            ensure!(status.code() == Some(code), "it ended with {status}");
            ensure!(consumer.log().contains(words), "its log lacks `{words}`");
            return Ok(());
        }
        Outcome::Named(words) => words,
    };
    let consumer = &*consumer;
    wait::until_true("the reason is named", SOON, || async move {
        let (status, body) = consumer.get("/readyz").await?;
        ensure!(status == 503, "/readyz says {status}");
        for word in words {
            ensure!(body.contains(word), "/readyz lacks `{word}`: {body}");
        }
        Ok(true)
    })
    .await?;
    let log = consumer.log();
    for word in words {
        ensure!(log.contains(word), "the log lacks `{word}`");
    }
    ensure!(consumer.get("/livez").await?.0 == 200, "a server that refuses us is no reason to be restarted");
    Ok(())
}
