//! The things that go wrong, each with a beginning and an end.

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::arena::Arena;

/// More partitions would only make the machine busier.
const MOST_PARTITIONS: i32 = 14;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillConsumer,
    TerminateConsumer,
    /// SIGSTOP for longer than the session timeout: a zombie that believes to own its partitions.
    FreezeConsumer,
    RestartDatabase,
    CrashDatabase,
    DatabaseAway,
    /// As after a failover to a replica.
    ReadOnlyDatabase,
    NoConnections,
    CutSessions,
    /// SIGSTOP of the consumers' server processes: transactions that neither go on nor end, with their locks.
    FrozenSessions,
    SlowDatabase,
    LockedTable,
    CrashBroker,
    AddPartition,
}

/// What a fault is done to. Two faults at once are done to different things, so that each can be ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Consumer,
    Database,
    Broker,
}

impl Fault {
    const ALL: [Self; 14] = [
        Self::KillConsumer,
        Self::TerminateConsumer,
        Self::FreezeConsumer,
        Self::RestartDatabase,
        Self::CrashDatabase,
        Self::DatabaseAway,
        Self::ReadOnlyDatabase,
        Self::NoConnections,
        Self::CutSessions,
        Self::FrozenSessions,
        Self::SlowDatabase,
        Self::LockedTable,
        Self::CrashBroker,
        Self::AddPartition,
    ];

    pub(crate) fn victim(self) -> Victim {
        match self {
            Self::KillConsumer | Self::TerminateConsumer | Self::FreezeConsumer => Victim::Consumer,
            Self::CrashBroker | Self::AddPartition => Victim::Broker,
            _ => Victim::Database,
        }
    }

    /// How long it lasts, in seconds.
    fn seconds(self) -> std::ops::Range<f64> {
        match self {
            // The session timeout is 6 s.
            Self::FreezeConsumer => 7.0..11.0,
            Self::DatabaseAway | Self::ReadOnlyDatabase | Self::NoConnections => 2.0..6.0,
            Self::SlowDatabase | Self::LockedTable | Self::FrozenSessions => 3.0..6.0,
            Self::KillConsumer | Self::TerminateConsumer => 0.0..3.0,
            Self::CrashDatabase | Self::CrashBroker => 0.0..2.0,
            Self::RestartDatabase | Self::CutSessions | Self::AddPartition => 0.0..0.5,
        }
    }
}

/// A fault that goes on.
pub(crate) struct Ongoing {
    fault: Fault,
    state: State,
}

enum State {
    Instant,
    Ended(usize),
    Terminating(usize),
    Frozen(usize),
    DatabaseDown,
    ReadOnly,
    Hoarded(Vec<PgConnection>),
    FrozenSessions(Vec<Pid>),
    Slow,
    Locked(PgConnection),
    BrokerDown,
}

impl Ongoing {
    /// Begins a fault and says what exactly was done.
    pub(crate) async fn begin(fault: Fault, arena: &mut Arena, random: &mut ChaCha8Rng) -> Result<Self> {
        let index = random.random_range(0..arena.consumer_count());
        let name = arena.consumer_name(index);
        let (state, text) = match fault {
            Fault::KillConsumer => {
                arena.kill(index);
                (State::Ended(index), format!("kill -9 {name}"))
            }
            Fault::TerminateConsumer => {
                arena.signal(index, Signal::TERM);
                (State::Terminating(index), format!("SIGTERM {name}"))
            }
            Fault::FreezeConsumer => {
                arena.signal(index, Signal::STOP);
                (State::Frozen(index), format!("SIGSTOP {name}"))
            }
            Fault::RestartDatabase => {
                arena.postgres.stop().await?;
                arena.postgres.restart().await?;
                (State::Instant, "PostgreSQL restarted".to_owned())
            }
            Fault::CrashDatabase => {
                arena.postgres.kill().await?;
                (State::DatabaseDown, "PostgreSQL ended at once, as by a crash".to_owned())
            }
            Fault::DatabaseAway => {
                arena.postgres.stop().await?;
                (State::DatabaseDown, "PostgreSQL stopped".to_owned())
            }
            Fault::ReadOnlyDatabase => {
                set_read_only(arena, true).await?;
                (State::ReadOnly, "PostgreSQL is read-only by default".to_owned())
            }
            Fault::NoConnections => {
                let hoarded = hoard_connections(arena).await?;
                let text = format!("all {} connections taken", hoarded.len());
                (State::Hoarded(hoarded), text)
            }
            Fault::CutSessions => {
                let cut = cut_sessions(&mut arena.session().await?).await?;
                (State::Instant, format!("{cut} sessions cut by pg_terminate_backend"))
            }
            Fault::FrozenSessions => {
                let sessions = session_processes(&mut arena.session().await?).await?;
                signal_all(&sessions, Signal::STOP);
                let text = format!("SIGSTOP of {} server processes", sessions.len());
                (State::FrozenSessions(sessions), text)
            }
            Fault::SlowDatabase => {
                let seconds = random.random_range(0.3..2.5);
                slow_down(&mut arena.session().await?, seconds).await?;
                (State::Slow, format!("each insert sleeps {seconds:.1} s"))
            }
            Fault::LockedTable => (State::Locked(lock_table(arena).await?), "table locked".to_owned()),
            Fault::CrashBroker => {
                arena.crash_broker().await;
                (State::BrokerDown, "kill -9 of the broker".to_owned())
            }
            Fault::AddPartition => {
                let total = arena.add_partition().await?;
                (State::Instant, format!("the topic has {total} partitions now"))
            }
        };
        arena.journal.note(format!("begin {fault:?}: {text}"));
        Ok(Self { fault, state })
    }

    /// How long to let it last.
    pub(crate) fn pause(&self, random: &mut ChaCha8Rng) -> Duration {
        Duration::from_secs_f64(random.random_range(self.fault.seconds()))
    }

    /// Ends the fault. `alone` says that no other fault went on meanwhile.
    pub(crate) async fn end(self, arena: &mut Arena, alone: bool) -> Result<()> {
        match self.state {
            State::Instant => return Ok(()),
            State::Ended(index) => arena.revive(index)?,
            State::Terminating(index) => {
                let well = arena.await_end(index).await?;
                let name = arena.consumer_name(index);
                // Without its database it may run out of time, and says so by its exit code.
                ensure!(
                    well || !alone,
                    "{name} did not exit with 0 after SIGTERM though nothing was in its way"
                );
                arena
                    .journal
                    .note(format!("{name} ended {}", if well { "with 0" } else { "with a failure" }));
                arena.revive(index)?;
            }
            State::Frozen(index) => arena.signal(index, Signal::CONT),
            State::DatabaseDown => arena.postgres.restart().await?,
            State::ReadOnly => set_read_only(arena, false).await?,
            State::Hoarded(connections) => {
                for connection in connections {
                    // The server may have been told to end it already.
                    let _ = connection.close().await;
                }
            }
            State::FrozenSessions(sessions) => signal_all(&sessions, Signal::CONT),
            State::Slow => speed_up(&mut arena.session().await?).await?,
            State::Locked(session) => session.close().await?,
            State::BrokerDown => arena.kafka.restart().await?,
        }
        arena.journal.note(format!("end {:?}", self.fault));
        Ok(())
    }
}

/// Draws faults so that each comes once before any comes again.
pub(crate) struct Deck {
    cards: Vec<Fault>,
}

impl Deck {
    pub(crate) fn new() -> Self {
        Self { cards: Vec::new() }
    }

    /// The next fault that is not done to `taken`.
    pub(crate) fn draw(
        &mut self,
        random: &mut ChaCha8Rng,
        taken: Option<Victim>,
        partitions: i32,
    ) -> Option<Fault> {
        if self.cards.is_empty() {
            self.cards = Fault::ALL.to_vec();
            self.cards.shuffle(random);
        }
        let fits = |fault: &Fault| {
            taken != Some(fault.victim()) && (*fault != Fault::AddPartition || partitions < MOST_PARTITIONS)
        };
        let position = self.cards.iter().rposition(fits);
        if position.is_none() && taken.is_none() {
            self.cards.clear();
        }
        position.map(|position| self.cards.remove(position))
    }
}

async fn set_read_only(arena: &Arena, on: bool) -> Result<()> {
    let mut session = arena.session().await?;
    let value = if on { "on" } else { "off" };
    session
        .execute(AssertSqlSafe(format!("ALTER SYSTEM SET default_transaction_read_only = {value}")))
        .await?;
    session.execute("SELECT pg_reload_conf()").await?;
    Ok(session.close().await?)
}

/// Takes every connection that the server allows, the consumers' own included.
async fn hoard_connections(arena: &Arena) -> Result<Vec<PgConnection>> {
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

async fn cut_sessions(session: &mut PgConnection) -> Result<i64> {
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'analytics-consumer%'";
    Ok(sqlx::query_scalar(cut).fetch_one(session).await?)
}

async fn session_processes(session: &mut PgConnection) -> Result<Vec<Pid>> {
    let find = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'analytics-consumer%'";
    let found: Vec<i32> = sqlx::query_scalar(find).fetch_all(session).await?;
    Ok(found.into_iter().filter_map(Pid::from_raw).collect())
}

fn signal_all(processes: &[Pid], signal: Signal) {
    for process in processes {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(*process, signal);
    }
}

async fn slow_down(session: &mut PgConnection, seconds: f64) -> Result<()> {
    let statements = [
        "CREATE OR REPLACE FUNCTION chaos_sleep() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(tg_argv[0]::float8); RETURN NULL; END $$"
            .to_owned(),
        format!(
            "CREATE TRIGGER chaos_slow BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION chaos_sleep('{seconds}')"
        ),
    ];
    for statement in statements {
        session.execute(AssertSqlSafe(statement)).await?;
    }
    Ok(())
}

async fn speed_up(session: &mut PgConnection) -> Result<()> {
    session.execute("DROP TRIGGER chaos_slow ON events").await?;
    Ok(())
}

async fn lock_table(arena: &Arena) -> Result<PgConnection> {
    let mut session = arena.session().await?;
    session.execute("BEGIN").await?;
    session.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await?;
    Ok(session)
}
