//! A random sequence of faults against a running load, and then the question whether the table is what the log says.
//!
//! `CHAOS_SECONDS` says for how long (120), `CHAOS_SEED` which sequence (printed, so that a failure can be repeated),
//! `CHAOS_RATE` how many records per second (1500).

mod arena;
mod fault;
mod journal;
mod load;
mod verdict;

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use arena::Arena;
use fault::{Deck, Ongoing};
use verdict::Truth;

/// After so long the load rests and everything is compared, so that a long run tells early and roughly where it broke.
const ROUND: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_each_event_is_stored_exactly_once() -> Result<()> {
    let seed = setting("CHAOS_SEED", uuid::Uuid::new_v4().as_u64_pair().0 >> 32)?;
    let duration = Duration::from_secs(setting("CHAOS_SECONDS", 120)?);
    let rate = setting("CHAOS_RATE", 1500)? as f64;
    let mut arena = Arena::start().await?;
    arena.journal.note(format!("CHAOS_SEED={seed}, {} s at {rate} records/s", duration.as_secs()));
    let result = run(&mut arena, seed, duration, rate).await;
    if let Err(error) = &result {
        arena.journal.note(format!("FAILED: {error:#}"));
    }
    // Of a run that went well too: how long what took is worth a look.
    arena.keep_logs();
    let folder = arena.journal.save(seed)?;
    result.with_context(|| format!("CHAOS_SEED={seed}; the journal and all logs are in {}", folder.display()))
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no whole number: {text}")),
        Err(_) => Ok(default),
    }
}

async fn run(arena: &mut Arena, seed: u64, duration: Duration, rate: f64) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut deck, mut truth) = (Deck::new(), Truth::default());
    let mut round = 0;
    while arena.journal.elapsed() < duration {
        round += 1;
        let until = duration.min(arena.journal.elapsed() + ROUND);
        // Another seed for each round: the same one would make the same events, all of them duplicates.
        let load = arena.load(seed.wrapping_add(round << 32), rate);
        while arena.journal.elapsed() < until {
            step(arena, &mut deck, &mut random).await?;
            arena.journal.note(format!("{} records sent", load.sent()));
        }
        load.stop().await?;
        arena.journal.note("quiet; comparing");
        let verdict = arena.judge(&mut truth).await?;
        arena.journal.note(format!("{verdict}; peak memory {} MiB", arena.peak_memory()));
    }
    arena.finish().await
}

/// One fault, or two at once, and mostly the wait until their backlog is gone.
async fn step(arena: &mut Arena, deck: &mut Deck, random: &mut ChaCha8Rng) -> Result<()> {
    let partitions = arena.partitions.load(Ordering::Relaxed);
    let Some(first) = deck.draw(random, None, partitions) else { return Ok(()) };
    let second =
        if random.random_bool(0.35) { deck.draw(random, Some(first.victim()), partitions) } else { None };
    let first = Ongoing::begin(first, arena, random).await?;
    tokio::time::sleep(first.pause(random)).await;
    let alone = second.is_none();
    if let Some(second) = second {
        let second = Ongoing::begin(second, arena, random).await?;
        tokio::time::sleep(second.pause(random)).await;
        second.end(arena, alone).await?;
    }
    first.end(arena, alone).await?;
    arena.check_alive().await?;
    // Sometimes the next fault comes before this one is overcome.
    if random.random_bool(0.75) {
        let seconds = arena.recovered().await?;
        arena.journal.note(format!("recovered in {seconds:.1} s"));
    }
    Ok(())
}
