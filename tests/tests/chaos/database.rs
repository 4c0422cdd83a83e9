//! What is done to PostgreSQL by its own means.

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::arena::Arena;

pub(crate) async fn set_read_only(arena: &Arena, on: bool) -> Result<()> {
    let mut session = arena.session().await?;
    let value = if on { "on" } else { "off" };
    session
        .execute(AssertSqlSafe(format!("ALTER SYSTEM SET default_transaction_read_only = {value}")))
        .await?;
    session.execute("SELECT pg_reload_conf()").await?;
    Ok(session.close().await?)
}

/// Takes every connection that the server allows, the consumers' own included.
pub(crate) async fn hoard_connections(arena: &Arena) -> Result<Vec<PgConnection>> {
    let mut held = vec![arena.session().await?];
    for _ in 0..200 {
        match arena.session_now().await {
            Ok(session) => held.push(session),
            Err(_) => break,
        }
    }
    cut_sessions(&mut held[0]).await?;
    // What the consumers have just lost is taken before most of them are back.
    for _ in 0..20 {
        if let Ok(session) = arena.session_now().await {
            held.push(session);
        }
    }
    Ok(held)
}

pub(crate) async fn cut_sessions(session: &mut PgConnection) -> Result<i64> {
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'analytics-consumer%'";
    Ok(sqlx::query_scalar(cut).fetch_one(session).await?)
}

pub(crate) async fn session_processes(session: &mut PgConnection) -> Result<Vec<Pid>> {
    let find = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'analytics-consumer%'";
    let found: Vec<i32> = sqlx::query_scalar(find).fetch_all(session).await?;
    Ok(found.into_iter().filter_map(Pid::from_raw).collect())
}

pub(crate) fn signal_all(processes: &[Pid], signal: Signal) {
    for process in processes {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(*process, signal);
    }
}

/// Makes each insert of events wait.
pub(crate) async fn slow_down(session: &mut PgConnection, seconds: f64) -> Result<()> {
    let body = format!("PERFORM pg_sleep({seconds}); RETURN NULL;");
    before_inserts(session, &body).await
}

/// Makes each insert of events fail as on a full disk.
pub(crate) async fn fill_disk(session: &mut PgConnection) -> Result<()> {
    let body = "RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file: No space left on device';";
    before_inserts(session, body).await
}

async fn before_inserts(session: &mut PgConnection, body: &str) -> Result<()> {
    let function = format!(
        "CREATE OR REPLACE FUNCTION chaos() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    );
    session.execute(AssertSqlSafe(function)).await?;
    let trigger = "CREATE TRIGGER chaos BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION chaos()";
    session.execute(trigger).await?;
    Ok(())
}

/// Ends what [`slow_down`] or [`fill_disk`] began.
pub(crate) async fn leave_inserts_alone(session: &mut PgConnection) -> Result<()> {
    session.execute("DROP TRIGGER chaos ON events").await?;
    Ok(())
}

pub(crate) async fn lock_table(arena: &Arena) -> Result<PgConnection> {
    let mut session = arena.session().await?;
    session.execute("BEGIN").await?;
    session.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await?;
    Ok(session)
}
