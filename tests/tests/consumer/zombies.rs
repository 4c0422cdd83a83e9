//! Consumers that are frozen in the middle of a transaction: their locks must not stop their heirs.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use testbed::{Consumer, wait};

use crate::support::{Bed, SOON, event};

/// Inserts of consumers whose name has `zombie` in it sleep first, so that there is time to stop them in the middle.
const SLEEPY: &str = "CREATE FUNCTION sleepy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     IF current_setting('application_name') LIKE '%zombie%' THEN PERFORM pg_sleep(3); END IF; RETURN NULL; END $$; \
     CREATE TRIGGER sleepy BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION sleepy()";

/// Shorter than the 60 s after which the server ends a COPY that does not go on by itself.
const WITHOUT_HELP: Duration = Duration::from_secs(50);

/// Waits until there is such a session.
async fn until_seen(bed: &Bed, condition: &'static str) -> Result<()> {
    wait::until_true(condition, SOON, || async { Ok(bed.number(condition).await? > 0) }).await
}

#[tokio::test]
async fn a_consumer_frozen_in_the_middle_of_a_copy_does_not_hold_its_partition() -> Result<()> {
    let bed = Bed::start("frozen", 1).await?;
    // One transaction takes all that there is: more than the buffers between client and server hold.
    let options = bed.options().with("BATCH_MAX_BYTES", 64 << 20);
    let zombie = Consumer::start("zombie", &options)?;
    bed.send(0, &event(0)).await?;
    bed.until_rows(1).await.map_err(|error| error.context(zombie.log()))?;
    sqlx::raw_sql(SLEEPY).execute(&bed.pool().await?).await?;
    let padding = "x".repeat(600_000);
    for number in 1..60 {
        let text =
            String::from_utf8(event(number))?.replace("\"n\":", &format!("\"p\":\"{padding}\",\"n\":"));
        bed.send(0, text.as_bytes()).await?;
    }
    // The first records went alone; the rest gathered while they slept.
    bed.until_rows(2).await?;
    until_seen(
        &bed,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%zombie' AND wait_event = 'PgSleep'",
    )
    .await?;
    zombie.signal(Signal::STOP);
    until_seen(
        &bed,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%zombie' AND wait_event = 'ClientRead' \
         AND backend_xid IS NOT NULL",
    )
    .await?;
    let heir = Consumer::start("heir", &bed.options())?;
    wait::until_true("the heir stores everything", WITHOUT_HELP, || async { Ok(bed.rows().await? == 60) })
        .await
        .map_err(|error| error.context(heir.log()))?;

    // Awake again it learns that it owns nothing, and adds nothing.
    zombie.signal(Signal::CONT);
    wait::until_true("the zombie joins again", SOON, || async { Ok(zombie.get("/readyz").await?.0 == 200) })
        .await
        .map_err(|error| error.context(zombie.log()))?;
    assert_eq!(bed.rows().await?, 60);
    assert_eq!(bed.number("SELECT next_offset FROM pipeline_offsets").await?, 60);
    Ok(())
}

#[tokio::test]
async fn a_session_that_holds_the_offset_and_says_nothing_is_ended_and_one_at_work_is_waited_for()
-> Result<()> {
    let bed = Bed::start("holding", 1).await?;
    let mut first = bed.consumer("first")?;
    bed.send(0, &event(0)).await?;
    bed.until_rows(1).await?;
    first.kill();
    bed.send(0, &event(1)).await?;
    let pool = bed.pool().await?;
    let mut silent = pool.begin().await?;
    sqlx::query("UPDATE pipeline_offsets SET owner = 'silent'").execute(&mut *silent).await?;
    let mut second = bed.consumer("second")?;
    bed.until_rows(2).await.map_err(|error| error.context(second.log()))?;
    ensure!(second.log().contains("Ended database sessions"), "{}", second.log());
    ensure!(silent.commit().await.is_err(), "the session was meant to be ended");
    second.kill();

    bed.send(0, &event(2)).await?;
    let busy = tokio::spawn(async move {
        sqlx::raw_sql("BEGIN; UPDATE pipeline_offsets SET owner = 'busy'; SELECT pg_sleep(4); COMMIT")
            .execute(&pool)
            .await
    });
    until_seen(&bed, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'").await?;
    let third = bed.consumer("third")?;
    bed.until_rows(3).await.map_err(|error| error.context(third.log()))?;
    ensure!(busy.await?.is_ok(), "a session at work was ended");
    ensure!(!third.log().contains("Ended database sessions"), "{}", third.log());
    Ok(())
}
