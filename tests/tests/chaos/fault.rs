//! The things that can go wrong, and in which order they do.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Context, Result};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::plan::Plan;

/// More partitions would only make the machine busier.
const MOST_PARTITIONS: i32 = 14;
/// In the first round, so many quick faults come before each that takes its time.
const QUICK_BETWEEN: usize = 5;

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// Each insert sleeps.
    SlowDatabase,
    /// Every statement, commits too, takes up to two seconds to arrive.
    SlowStatements,
    /// Packets vanish in both directions, for longer than 15 s. Afterwards they arrive, or the old connections never hear
    /// of anybody again.
    SilentDatabase,
    /// SQLSTATE 53100, as from a disk that is full.
    FullDisk,
    LockedTable,
    /// Consumers join and leave while every statement is slow.
    JoinAndLeaveSlowly,
    /// SIGKILL of a broker, or of all.
    CrashBroker,
    /// SIGSTOP of a broker, or of all: cut off from everybody, and with several brokers a leader that is none any more.
    CutOffBroker,
    /// A broker stops in good order, and its leaderships go to others.
    MoveLeaders,
    AddPartition,
    /// Producers whose clocks are wrong by days, years or centuries.
    WrongClocks,
}

/// What a fault is done to. Two faults at once are done to different things, so that each can be ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Consumer,
    Database,
    /// Consumers and the database.
    Both,
    Broker,
    Producers,
}

impl Victim {
    fn is_free(self, taken: Option<Self>) -> bool {
        use Victim::{Both, Consumer, Database};
        match (self, taken) {
            (_, None) => true,
            (Both, Some(taken)) => !matches!(taken, Both | Consumer | Database),
            (Consumer | Database, Some(Both)) => false,
            (victim, Some(taken)) => victim != taken,
        }
    }
}

impl Fault {
    const ALL: [Self; 21] = [
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
        Self::SlowStatements,
        Self::SilentDatabase,
        Self::FullDisk,
        Self::LockedTable,
        Self::JoinAndLeaveSlowly,
        Self::CrashBroker,
        Self::CutOffBroker,
        Self::MoveLeaders,
        Self::AddPartition,
        Self::WrongClocks,
    ];

    /// Those that a run with this plan can meet.
    pub(crate) fn possible(plan: &Plan) -> Vec<Self> {
        Self::ALL.into_iter().filter(|fault| *fault != Self::MoveLeaders || plan.brokers > 1).collect()
    }

    /// Finds a fault by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|fault| format!("{fault:?}") == name.trim());
        found.with_context(|| format!("there is no fault `{name}`; there are {:?}", Self::ALL))
    }

    pub(crate) fn victim(self) -> Victim {
        match self {
            Self::KillConsumer | Self::TerminateConsumer | Self::FreezeConsumer => Victim::Consumer,
            Self::CrashBroker | Self::CutOffBroker | Self::MoveLeaders | Self::AddPartition => Victim::Broker,
            Self::WrongClocks => Victim::Producers,
            Self::JoinAndLeaveSlowly => Victim::Both,
            _ => Victim::Database,
        }
    }

    /// Whether it and what follows takes only a few seconds, so that a run of two minutes has room for all of these.
    fn is_quick(self) -> bool {
        use Fault::{
            CutOffBroker, FreezeConsumer, JoinAndLeaveSlowly, MoveLeaders, SilentDatabase, SlowStatements,
        };
        !matches!(
            self,
            CutOffBroker
                | FreezeConsumer
                | JoinAndLeaveSlowly
                | MoveLeaders
                | SilentDatabase
                | SlowStatements
        )
    }

    /// How long it lasts, in seconds.
    pub(crate) fn seconds(self, is_long: bool) -> Range<f64> {
        match self {
            // The session timeout is 6 s.
            Self::FreezeConsumer => 7.0..11.0,
            Self::DatabaseAway if is_long => 2.0..60.0,
            Self::DatabaseAway | Self::ReadOnlyDatabase | Self::NoConnections | Self::FullDisk => 2.0..5.0,
            Self::SlowDatabase | Self::LockedTable | Self::FrozenSessions => 3.0..6.0,
            Self::SlowStatements | Self::CutOffBroker => 6.0..10.0,
            Self::SilentDatabase => 16.0..20.0,
            Self::JoinAndLeaveSlowly => 5.0..9.0,
            Self::MoveLeaders | Self::WrongClocks => 2.0..4.0,
            Self::KillConsumer | Self::TerminateConsumer => 0.0..3.0,
            Self::CrashDatabase | Self::CrashBroker => 0.0..2.0,
            Self::RestartDatabase | Self::CutSessions | Self::AddPartition => 0.0..0.5,
        }
    }
}

/// Draws faults so that each comes once before any comes again. In the first round the quick ones have precedence.
pub(crate) struct Deck {
    all: Vec<Fault>,
    cards: Vec<Fault>,
    dealt: BTreeSet<Fault>,
}

impl Deck {
    /// A deck of these faults.
    pub(crate) fn new(all: Vec<Fault>, random: &mut ChaCha8Rng) -> Self {
        let (mut quick, mut slow): (Vec<_>, Vec<_>) = all.iter().copied().partition(|fault| fault.is_quick());
        quick.shuffle(random);
        slow.shuffle(random);
        let mut order = Vec::new();
        for some in quick.chunks(QUICK_BETWEEN) {
            order.extend(some);
            order.extend(slow.pop());
        }
        order.append(&mut slow);
        // They are drawn from the end.
        order.reverse();
        Self { all, cards: order, dealt: BTreeSet::new() }
    }

    /// Whether each quick fault was dealt, except those that cannot be.
    pub(crate) fn quick_ones_dealt(&self) -> bool {
        let waits = |fault: &&Fault| fault.is_quick() && **fault != Fault::AddPartition;
        self.all.iter().filter(waits).all(|fault| self.dealt.contains(fault))
    }

    /// The next fault that is not done to `taken`.
    pub(crate) fn draw(
        &mut self,
        random: &mut ChaCha8Rng,
        taken: Option<Victim>,
        partitions: i32,
    ) -> Option<Fault> {
        if self.cards.is_empty() {
            self.cards.clone_from(&self.all);
            self.cards.shuffle(random);
        }
        let fits = |fault: &Fault| {
            fault.victim().is_free(taken) && (*fault != Fault::AddPartition || partitions < MOST_PARTITIONS)
        };
        let position = self.cards.iter().rposition(fits);
        if position.is_none() && taken.is_none() {
            self.cards.clear();
        }
        let drawn = position.map(|position| self.cards.remove(position));
        self.dealt.extend(drawn);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn deck(seed: u64) -> (Deck, ChaCha8Rng) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (Deck::new(Fault::ALL.to_vec(), &mut random), random)
    }

    #[test]
    fn each_fault_comes_once_before_any_comes_again_and_the_quick_ones_soon() {
        for seed in 0..50 {
            let (mut deck, mut random) = deck(seed);
            let mut draw = |count: usize| -> Vec<Fault> {
                (0..count).filter_map(|_| deck.draw(&mut random, None, 4)).collect()
            };
            let begin = draw(18);
            assert_eq!(begin.iter().filter(|fault| fault.is_quick()).count(), 15, "{begin:?}");
            let (rest, again) = (draw(3), draw(21));
            for round in [[begin, rest].concat(), again] {
                assert_eq!(round.into_iter().collect::<BTreeSet<_>>().len(), 21);
            }
            assert!(deck.quick_ones_dealt());
        }
    }

    #[test]
    fn a_second_fault_is_done_to_something_else() {
        use Victim::{Both, Broker, Consumer, Database, Producers};
        assert!(Consumer.is_free(Some(Database)) && Broker.is_free(Some(Both)) && Producers.is_free(None));
        assert!(
            !Both.is_free(Some(Consumer)) && !Database.is_free(Some(Both)) && !Broker.is_free(Some(Broker))
        );
        for seed in 0..50 {
            let (mut deck, mut random) = deck(seed);
            for _ in 0..30 {
                let second = deck.draw(&mut random, Some(Broker), MOST_PARTITIONS);
                assert!(second.is_none_or(|fault| fault.victim() != Broker), "{second:?}");
            }
        }
    }
}
