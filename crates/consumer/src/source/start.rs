//! Where a partition begins: a pure decision from what PostgreSQL, the group and the log say.

use crate::settings::{OnOffsetGap, StartFrom};

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
    /// The stored offset is outside the log and policy says to go on elsewhere. `lost` counts the offsets between the
    /// stored one and the log, negative when the log is behind it (a topic made anew, records lost).
    Moved { from: i64, to: i64, lost: i64 },
    /// An offset outside the log and policy says to stop.
    Gap(Gap),
}

/// An offset that is outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) offset: i64,
    pub(super) low: i64,
    pub(super) high: i64,
    pub(super) recreated: bool,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, low, high, recreated } = self;
        if *recreated {
            write!(
                formatter,
                "the topic was made anew since offset {offset} was stored: its id is another one, and its log is {low} to {high}"
            )
        } else if offset > high {
            write!(
                formatter,
                "the stored offset {offset} is beyond the log, which ends at {high}: the topic was made anew, or the \
                 log lost records"
            )
        } else {
            write!(
                formatter,
                "the stored offset {offset} is before the log, which begins at {low}: retention removed {} offsets \
                 that were never read",
                low - offset
            )
        }
    }
}

/// Decides.
pub(super) fn start(known: &Known, start_from: StartFrom, on_gap: OnOffsetGap) -> Start {
    let Known { stored, committed, recreated, low, high } = *known;
    let in_log = |offset: i64| (low..=high).contains(&offset);
    let Some(offset) = stored.or(committed) else {
        return Start::New(if start_from == StartFrom::Earliest { low } else { high });
    };
    if in_log(offset) && !recreated {
        return if stored.is_some() { Start::Stored(offset) } else { Start::New(offset) };
    }
    let to = match on_gap {
        OnOffsetGap::Fail => return Start::Gap(Gap { offset, low, high, recreated }),
        OnOffsetGap::Earliest => low,
        OnOffsetGap::Latest => high,
    };
    if stored.is_some() {
        Start::Moved { from: offset, to, lost: if recreated { 0 } else { low - offset } }
    } else {
        Start::New(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use OnOffsetGap::{Earliest as GapEarliest, Fail, Latest as GapLatest};
    use StartFrom::{Earliest, Latest};

    #[test]
    fn every_combination_of_what_is_known_has_one_beginning() {
        let gap = |offset| Start::Gap(Gap { offset, low: 10, high: 20, recreated: false });
        let cases = [
            // stored, committed, start from, on gap, expected; the log holds 10..20
            (Some(15), Some(12), Earliest, Fail, Start::Stored(15)),
            (Some(10), None, Latest, Fail, Start::Stored(10)),
            (Some(20), None, Earliest, Fail, Start::Stored(20)),
            (None, Some(12), Earliest, Fail, Start::New(12)),
            (None, None, Earliest, Fail, Start::New(10)),
            (None, None, Latest, Fail, Start::New(20)),
            (Some(9), None, Earliest, Fail, gap(9)),
            (Some(21), Some(15), Earliest, Fail, gap(21)),
            (None, Some(9), Earliest, Fail, gap(9)),
            (Some(4), None, Latest, GapEarliest, Start::Moved { from: 4, to: 10, lost: 6 }),
            (Some(4), None, Earliest, GapLatest, Start::Moved { from: 4, to: 20, lost: 6 }),
            (Some(99), None, Latest, GapEarliest, Start::Moved { from: 99, to: 10, lost: -89 }),
            (None, Some(99), Latest, GapEarliest, Start::New(10)),
        ];
        for (stored, committed, from, on_gap, expected) in cases {
            let known = Known { stored, committed, recreated: false, low: 10, high: 20 };
            assert_eq!(start(&known, from, on_gap), expected, "{known:?} {from:?} {on_gap:?}");
        }
    }

    /// A stored offset inside the new log is the dangerous case: the first records would be passed over in silence.
    #[test]
    fn a_topic_made_anew_is_a_gap_even_when_the_offset_is_in_its_log() {
        let known = Known { stored: Some(15), committed: None, recreated: true, low: 0, high: 20 };
        let gap = Gap { offset: 15, low: 0, high: 20, recreated: true };
        assert_eq!(start(&known, Earliest, Fail), Start::Gap(gap));
        assert!(gap.to_string().contains("made anew"));
        assert_eq!(start(&known, Earliest, GapEarliest), Start::Moved { from: 15, to: 0, lost: 0 });
    }
}
