//! A random sequence of faults against a running load, and then the question whether the table is what the log says.
//!
//! `CHAOS_SECONDS` says for how long (120), `CHAOS_SEED` which sequence and setup (printed, so that a failure can be
//! repeated), `CHAOS_RATE` how many small records per second (1500), `CHAOS_FAULTS` which faults (`SilentDatabase,FullDisk`;
//! all of them without it).

mod arena;
mod content;
mod database;
mod fault;
mod journal;
mod letters;
mod load;
mod members;
mod ongoing;
mod plan;
mod tally;
mod verdict;

use std::time::Duration;

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use arena::Arena;
use fault::{Deck, Fault};
use journal::Journal;
use ongoing::Ongoing;
use plan::Plan;
use verdict::Truth;

/// After so long the load rests and everything is compared, so that a long run tells early and roughly where it broke.
const ROUND: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_each_event_is_stored_exactly_once() -> Result<()> {
    let seed = setting("CHAOS_SEED", uuid::Uuid::new_v4().as_u64_pair().0 >> 32)?;
    let seconds = setting("CHAOS_SECONDS", 120)?;
    let rate = setting("CHAOS_RATE", 1500)?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let plan = Plan::draw(&mut random, seconds);
    let faults = match std::env::var("CHAOS_FAULTS") {
        Ok(names) => names.split(',').map(Fault::named).collect::<Result<_>>()?,
        Err(_) => Fault::possible(&plan),
    };
    let only =
        std::env::var("CHAOS_FAULTS").map(|names| format!("CHAOS_FAULTS={names} ")).unwrap_or_default();
    let repeat = format!("{only}CHAOS_SEED={seed} CHAOS_SECONDS={seconds} CHAOS_RATE={rate} make chaos");
    let mut journal = Journal::new();
    journal.note(format!("repeat this with: {repeat}"));
    journal.note(plan.to_string());
    let mut arena = Arena::start(plan, journal).await.with_context(|| repeat.clone())?;
    arena.journal.restart_clock();
    let result = run(&mut arena, seed, rate as f64, faults.clone(), &mut random).await;
    let table = arena.tally.table(&faults);
    arena.journal.note(format!("{} s\n{table}", arena.journal.elapsed().as_secs()));
    if let Err(error) = &result {
        arena.journal.note(format!("FAILED: {error:#}"));
    }
    // Of a run that went well too: how long what took is worth a look.
    arena.keep_logs();
    let folder = arena.journal.save(seed)?;
    result.with_context(|| format!("{repeat}; the journal and all logs are in {}", folder.display()))
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no whole number: {text}")),
        Err(_) => Ok(default),
    }
}

async fn run(
    arena: &mut Arena,
    seed: u64,
    rate: f64,
    faults: Vec<Fault>,
    random: &mut ChaCha8Rng,
) -> Result<()> {
    let duration = Duration::from_secs(arena.plan.seconds);
    let (mut deck, mut truth) = (Deck::new(faults, random), Truth::default());
    let mut round = 0;
    while arena.journal.elapsed() < duration {
        round += 1;
        let until = duration.min(arena.journal.elapsed() + ROUND);
        // Another seed for each round: the same one would make the same events, all of them duplicates.
        let load = arena.load(seed.wrapping_add(round << 32), rate);
        while arena.journal.elapsed() < until || is_worth_more_time(arena, &deck, duration) {
            step(arena, &mut deck, random).await?;
            arena.journal.note(format!("{} records sent", load.sent()));
        }
        load.stop().await?;
        arena.journal.note("quiet; comparing");
        let verdict = arena.judge(&mut truth).await?;
        arena.journal.note(verdict);
    }
    arena.finish().await
}

/// On a slow machine a short run may take half as long again to meet each of the quick faults once.
fn is_worth_more_time(arena: &Arena, deck: &Deck, duration: Duration) -> bool {
    !deck.quick_ones_dealt() && arena.journal.elapsed() < duration.mul_f64(1.5)
}

/// One fault, or two at once, and mostly the wait until their backlog is gone.
async fn step(arena: &mut Arena, deck: &mut Deck, random: &mut ChaCha8Rng) -> Result<()> {
    let partitions = arena.partition_count();
    let Some(first) = deck.draw(random, None, partitions) else { return Ok(()) };
    let second =
        if random.random_bool(0.4) { deck.draw(random, Some(first.victim()), partitions) } else { None };
    let first = Ongoing::begin(first, arena, random).await?;
    let mut faults = vec![first.fault()];
    tokio::time::sleep(first.pause(arena, random)).await;
    let alone = second.is_none();
    if let Some(second) = second {
        let second = Ongoing::begin(second, arena, random).await?;
        faults.push(second.fault());
        tokio::time::sleep(second.pause(arena, random)).await;
        second.end(arena, alone).await?;
    }
    first.end(arena, alone).await?;
    arena.check_alive().await?;
    // Sometimes the next fault comes before this one is overcome.
    if random.random_bool(0.8) {
        let seconds = arena.recovered().await?;
        arena.tally.recovered(&faults, seconds);
        arena.journal.note(format!("recovered in {seconds:.1} s"));
    }
    Ok(())
}
