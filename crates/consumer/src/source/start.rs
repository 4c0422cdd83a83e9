//! Where a partition begins: a pure decision from what PostgreSQL, the group and the log say.

use crate::settings::OnOffsetGap;

/// What is known about a partition when it is assigned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The offset stored in PostgreSQL.
    pub(super) stored: Option<i64>,
    /// The offset that the group committed to Kafka.
    pub(super) committed: Option<i64>,
    /// The topic is another one than that of the stored offset.
    pub(super) recreated: bool,
    /// The first offset that the log still has.
    pub(super) low: i64,
    /// The offset after the last one that can be read.
    pub(super) high: i64,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At the stored offset.
    Stored(i64),
    /// Nothing is stored: store this offset and begin there.
    New(i64),
    /// An offset outside the log, and policy says to go on elsewhere.
    Moved(Move),
    /// An offset outside the log, and policy says to stop.
    Gap(Gap),
}

/// From an offset outside the log to one inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: i64,
    pub(super) to: i64,
    /// Whether `from` is stored; else the group had committed it.
    pub(super) stored: bool,
    /// Offsets that nobody will read: those that retention removed, and those that the policy passes over. Of another
    /// topic's offsets, or of a log that ends before `from`, only the latter are known.
    pub(super) lost: u64,
}

/// An offset that is outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) offset: i64,
    /// Whether it is stored; else the group had committed it.
    pub(super) stored: bool,
    pub(super) low: i64,
    pub(super) high: i64,
    pub(super) recreated: bool,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, stored, low, high, recreated } = self;
        let kept = if *stored { "stored" } else { "committed" };
        if *recreated {
            write!(
                formatter,
                "the topic was made anew since offset {offset} was stored: its id is another one, and its log is {low} to {high}"
            )
        } else if offset > high {
            write!(
                formatter,
                "the {kept} offset {offset} is beyond the log, which ends at {high}: the topic was made anew, or the \
                 log lost records"
            )
        } else {
            write!(
                formatter,
                "the {kept} offset {offset} is before the log, which begins at {low}: retention removed {} offsets \
                 that were never read",
                low - offset
            )
        }
    }
}

/// Decides. A partition of which nothing at all is known is read from its beginning; what [`first`] says of `latest` is
/// stored by then.
pub(super) fn start(known: &Known, on_gap: OnOffsetGap) -> Start {
    let Known { stored, committed, recreated, low, high } = *known;
    let Some(offset) = stored.or(committed) else { return Start::New(low) };
    let is_stored = stored.is_some();
    if (low..=high).contains(&offset) && !recreated {
        return if is_stored { Start::Stored(offset) } else { Start::New(offset) };
    }
    let to = match on_gap {
        OnOffsetGap::Fail => {
            return Start::Gap(Gap { offset, stored: is_stored, low, high, recreated });
        }
        OnOffsetGap::Earliest => low,
        OnOffsetGap::Latest => high,
    };
    let unread = if recreated || offset > high { low } else { offset };
    let lost = to.saturating_sub(unread).max(0).unsigned_abs();
    Start::Moved(Move { from: offset, to, stored: is_stored, lost })
}

/// Where a partition begins that is there at the pipeline's first start with `latest`: where the group stood, if it did,
/// else behind what is there already. `None` where the group stood outside the log: that is for [`start`] to decide.
pub(super) fn first(committed: Option<i64>, (low, high): (i64, i64)) -> Option<i64> {
    match committed {
        None => Some(high),
        Some(offset) => (low..=high).contains(&offset).then_some(offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OnOffsetGap::{Earliest, Fail, Latest};

    #[test]
    fn every_combination_of_what_is_known_has_one_beginning() {
        let gap = |offset, stored| Start::Gap(Gap { offset, stored, low: 10, high: 20, recreated: false });
        let moved = |from, to, stored, lost| Start::Moved(Move { from, to, stored, lost });
        let cases = [
            // stored, committed, on gap, expected; the log holds 10..20
            (Some(15), Some(12), Fail, Start::Stored(15)),
            (Some(10), None, Fail, Start::Stored(10)),
            (Some(20), None, Fail, Start::Stored(20)),
            (None, Some(12), Fail, Start::New(12)),
            (None, None, Fail, Start::New(10)),
            (Some(9), None, Fail, gap(9, true)),
            (Some(21), Some(15), Fail, gap(21, true)),
            (None, Some(9), Fail, gap(9, false)),
            // What `latest` passes over is as lost as what retention has removed.
            (Some(4), None, Earliest, moved(4, 10, true, 6)),
            (Some(4), None, Latest, moved(4, 20, true, 16)),
            (Some(99), None, Earliest, moved(99, 10, true, 0)),
            (Some(99), None, Latest, moved(99, 20, true, 10)),
            (None, Some(4), Earliest, moved(4, 10, false, 6)),
            (None, Some(4), Latest, moved(4, 20, false, 16)),
            (None, Some(99), Earliest, moved(99, 10, false, 0)),
        ];
        for (stored, committed, on_gap, expected) in cases {
            let known = Known { stored, committed, recreated: false, low: 10, high: 20 };
            assert_eq!(start(&known, on_gap), expected, "{known:?} {on_gap:?}");
        }
    }

    /// A stored offset inside the new log is the dangerous case: the first records would be passed over in silence.
    #[test]
    fn a_topic_made_anew_is_a_gap_even_when_the_offset_is_in_its_log() {
        let known = Known { stored: Some(15), committed: None, recreated: true, low: 0, high: 20 };
        let gap = Gap { offset: 15, stored: true, low: 0, high: 20, recreated: true };
        assert_eq!(start(&known, Fail), Start::Gap(gap));
        assert!(gap.to_string().contains("made anew"));
        for (on_gap, to, lost) in [(Earliest, 0, 0), (Latest, 20, 20)] {
            assert_eq!(start(&known, on_gap), Start::Moved(Move { from: 15, to, stored: true, lost }));
        }
    }

    #[test]
    fn a_gap_says_whose_offset_it_is() {
        let gap = |stored| Gap { offset: 4, stored, low: 10, high: 20, recreated: false }.to_string();
        assert!(gap(true).starts_with("the stored offset 4 is before the log"));
        assert!(gap(false).starts_with("the committed offset 4 is before the log"));
    }

    /// With a new database the group may have commits for some partitions: what lies behind those is not old.
    #[test]
    fn latest_begins_where_the_group_stood_and_else_at_the_end() {
        let log = (10, 20);
        assert_eq!(first(None, log), Some(20));
        assert_eq!(first(Some(12), log), Some(12));
        assert_eq!(first(Some(20), log), Some(20));
        assert_eq!(first(Some(9), log), None, "retention has removed records that were never read");
    }
}
