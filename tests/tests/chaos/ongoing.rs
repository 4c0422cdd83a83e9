//! A fault that goes on: what is done when it begins, and undone when it ends.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;

use crate::arena::{Arena, GUEST};
use crate::database;
use crate::fault::Fault;
use crate::load::SKEWS;

/// A fault that goes on.
pub(crate) struct Ongoing {
    fault: Fault,
    began: Instant,
    state: State,
}

enum State {
    Instant,
    /// A killed consumer, with the partitions that it had.
    Killed(usize, Vec<i32>),
    Terminating(usize),
    Frozen(usize),
    DatabaseDown,
    /// As before, and it lasts until the consumers say so.
    DatabaseAway(JoinHandle<Result<f64>>),
    ReadOnly,
    Hoarded(Vec<PgConnection>),
    FrozenSessions(Vec<Pid>),
    Hampered,
    SlowStatements,
    Silent {
        forget: bool,
        unready: JoinHandle<Result<f64>>,
    },
    JoinedAndLeft(usize),
    Locked(PgConnection),
    BrokersDown,
    BrokersCutOff(Vec<usize>),
    Skewed,
}

impl Ongoing {
    /// Begins a fault and says what exactly was done.
    pub(crate) async fn begin(fault: Fault, arena: &mut Arena, random: &mut ChaCha8Rng) -> Result<Self> {
        let began = Instant::now();
        let (state, text) = match fault {
            Fault::KillConsumer | Fault::TerminateConsumer | Fault::FreezeConsumer => {
                hit_consumer(fault, arena, random).await
            }
            Fault::CrashBroker | Fault::CutOffBroker | Fault::MoveLeaders | Fault::AddPartition => {
                hit_brokers(fault, arena, random).await?
            }
            Fault::SlowStatements | Fault::SilentDatabase | Fault::JoinAndLeaveSlowly => {
                hit_way(fault, arena, random)?
            }
            Fault::WrongClocks => {
                let index = random.random_range(0..SKEWS.len());
                arena.set_skew(index + 1);
                (State::Skewed, format!("some producers' clocks are wrong by {} days", SKEWS[index]))
            }
            _ => hit_database(fault, arena, random).await?,
        };
        arena.journal.note(format!("begin {fault:?}: {text}"));
        arena.tally.begun(fault);
        Ok(Self { fault, began, state })
    }

    pub(crate) fn fault(&self) -> Fault {
        self.fault
    }

    /// How long to let it last.
    pub(crate) fn pause(&self, arena: &Arena, random: &mut ChaCha8Rng) -> Duration {
        Duration::from_secs_f64(random.random_range(self.fault.seconds(arena.plan.is_long())))
    }

    /// Ends the fault. `alone` says that no other fault went on meanwhile.
    pub(crate) async fn end(self, arena: &mut Arena, alone: bool) -> Result<()> {
        match self.state {
            State::Instant => return Ok(()),
            State::Killed(index, partitions) => {
                arena.revive(index)?;
                if alone {
                    arena.inherited(&partitions, self.began).await?;
                }
            }
            State::Terminating(index) => {
                let well = ended(arena, index).await?;
                let name = arena.consumer_name(index);
                // Without its database it may run out of time, and says so by its exit code.
                ensure!(
                    well || !alone,
                    "{name} did not exit with 0 after SIGTERM though nothing was in its way"
                );
                arena.revive(index)?;
            }
            State::Frozen(index) => arena.thaw(index),
            State::DatabaseDown => arena.postgres.restart().await?,
            State::DatabaseAway(unready) => {
                arena.unready(unready).await?;
                arena.postgres.restart().await?;
            }
            State::ReadOnly => database::set_read_only(arena, false).await?,
            State::Hoarded(connections) => {
                for connection in connections {
                    // The server may have been told to end it already.
                    let _ = connection.close().await;
                }
            }
            State::FrozenSessions(sessions) => database::signal_all(&sessions, Signal::CONT),
            State::Hampered => database::leave_inserts_alone(&mut arena.session().await?).await?,
            State::SlowStatements => arena.proxy.delay(Duration::ZERO),
            State::Silent { forget, unready } => {
                arena.unready(unready).await?;
                if forget { arena.proxy.forget() } else { arena.proxy.resume() }
            }
            State::JoinedAndLeft(index) => {
                ended(arena, index).await?;
                arena.revive(index)?;
                arena.terminate(GUEST);
                ended(arena, GUEST).await?;
                arena.proxy.delay(Duration::ZERO);
            }
            State::Locked(session) => session.close().await?,
            State::BrokersDown => arena.kafka.restart().await?,
            State::BrokersCutOff(brokers) => {
                for broker in brokers {
                    arena.kafka.signal_broker(broker, Signal::CONT);
                }
            }
            State::Skewed => arena.set_skew(0),
        }
        arena.journal.note(format!("end {:?}", self.fault));
        Ok(())
    }
}

/// Waits for the end of a consumer that was asked to end.
async fn ended(arena: &mut Arena, index: usize) -> Result<bool> {
    let well = arena.await_end(index).await?;
    let name = arena.consumer_name(index);
    arena.journal.note(format!("{name} ended {}", if well { "with 0" } else { "with a failure" }));
    Ok(well)
}

async fn hit_consumer(fault: Fault, arena: &mut Arena, random: &mut ChaCha8Rng) -> (State, String) {
    let index = random.random_range(0..GUEST);
    let name = arena.consumer_name(index);
    match fault {
        Fault::KillConsumer => {
            let partitions = arena.partitions_of(index).await;
            arena.kill(index);
            let text = format!("kill -9 {name}, which has the partitions {partitions:?}");
            (State::Killed(index, partitions), text)
        }
        Fault::TerminateConsumer => {
            arena.terminate(index);
            (State::Terminating(index), format!("SIGTERM {name}"))
        }
        _ => {
            arena.freeze(index);
            (State::Frozen(index), format!("SIGSTOP {name}"))
        }
    }
}

async fn hit_database(fault: Fault, arena: &mut Arena, random: &mut ChaCha8Rng) -> Result<(State, String)> {
    let done = match fault {
        Fault::CrashDatabase => {
            arena.postgres.kill().await?;
            (State::DatabaseDown, "PostgreSQL ended at once, as by a crash".to_owned())
        }
        Fault::DatabaseAway => {
            arena.postgres.stop().await?;
            (State::DatabaseAway(arena.watch_readiness()), "PostgreSQL stopped".to_owned())
        }
        Fault::ReadOnlyDatabase => {
            database::set_read_only(arena, true).await?;
            (State::ReadOnly, "PostgreSQL is read-only by default".to_owned())
        }
        Fault::NoConnections => {
            let hoarded = database::hoard_connections(arena).await?;
            let text = format!("all {} connections taken", hoarded.len());
            (State::Hoarded(hoarded), text)
        }
        Fault::CutSessions => {
            let cut = database::cut_sessions(&mut arena.session().await?).await?;
            (State::Instant, format!("{cut} sessions cut by pg_terminate_backend"))
        }
        Fault::FrozenSessions => {
            let sessions = database::session_processes(&mut arena.session().await?).await?;
            database::signal_all(&sessions, Signal::STOP);
            let text = format!("SIGSTOP of {} server processes", sessions.len());
            (State::FrozenSessions(sessions), text)
        }
        Fault::SlowDatabase => {
            let seconds = random.random_range(0.3..2.5);
            database::slow_down(&mut arena.session().await?, seconds).await?;
            (State::Hampered, format!("each insert sleeps {seconds:.1} s"))
        }
        Fault::FullDisk => {
            database::fill_disk(&mut arena.session().await?).await?;
            (State::Hampered, "each insert fails with SQLSTATE 53100".to_owned())
        }
        Fault::LockedTable => (State::Locked(database::lock_table(arena).await?), "table locked".to_owned()),
        // A restart, and whatever is no fault of the database at all.
        _ => {
            arena.postgres.stop().await?;
            arena.postgres.restart().await?;
            (State::Instant, "PostgreSQL restarted".to_owned())
        }
    };
    Ok(done)
}

/// What happens on the way to the database.
fn hit_way(fault: Fault, arena: &mut Arena, random: &mut ChaCha8Rng) -> Result<(State, String)> {
    if fault == Fault::SilentDatabase {
        let forget = random.random_bool(0.5);
        arena.proxy.silence();
        let after = if forget { "are never heard of again" } else { "arrive late" };
        let text =
            format!("no packet comes to PostgreSQL or from it; afterwards those of old connections {after}");
        return Ok((State::Silent { forget, unready: arena.watch_readiness() }, text));
    }
    let seconds = *[0.5, 1.0, 2.0].choose(random).unwrap_or(&2.0);
    arena.proxy.delay(Duration::from_secs_f64(seconds));
    let slow = format!("each statement takes {seconds:.1} s to arrive");
    if fault == Fault::SlowStatements {
        return Ok((State::SlowStatements, slow));
    }
    let index = random.random_range(0..GUEST);
    arena.terminate(index);
    arena.revive(GUEST)?;
    let (leaving, joining) = (arena.consumer_name(index), arena.consumer_name(GUEST));
    let text =
        format!("{slow}; SIGTERM {leaving}, {joining} joins, {leaving} will come back and {joining} leave");
    Ok((State::JoinedAndLeft(index), text))
}

async fn hit_brokers(fault: Fault, arena: &mut Arena, random: &mut ChaCha8Rng) -> Result<(State, String)> {
    let count = arena.kafka.broker_count();
    let one = random.random_range(0..count);
    // Mostly one of them, so that others take over; now and then Kafka is away as a whole.
    let all = random.random_bool(0.25);
    let hit: Vec<usize> = if all { (0..count).collect() } else { vec![one] };
    let which = if hit.len() == count { "all brokers".to_owned() } else { format!("broker {}", one + 1) };
    let done = match fault {
        Fault::CrashBroker => {
            hit.iter().for_each(|broker| arena.kafka.kill_broker(*broker));
            (State::BrokersDown, format!("kill -9 of {which}"))
        }
        Fault::CutOffBroker => {
            hit.iter().for_each(|broker| arena.kafka.signal_broker(*broker, Signal::STOP));
            (State::BrokersCutOff(hit), format!("SIGSTOP of {which}"))
        }
        Fault::MoveLeaders => {
            arena.kafka.stop_broker(one).await?;
            (State::BrokersDown, format!("broker {} stopped in good order", one + 1))
        }
        _ => {
            let total = arena.add_partition().await?;
            (State::Instant, format!("the topic has {total} partitions now"))
        }
    };
    Ok(done)
}
