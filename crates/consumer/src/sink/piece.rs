//! How many rows one statement may hold: the server ends a statement after a while, and triggers may be slow for each row.

use std::ops::Range;

/// Below this time for a statement, the next may hold more rows.
const EASY_SECONDS: f64 = 10.0;

/// The most rows of one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece(usize);

impl Piece {
    /// As many as there are.
    pub const WHOLE: Self = Self(usize::MAX);

    /// A statement of a batch with that many rows took too long.
    pub fn halve(&mut self, rows: usize) {
        // Without rows it was something else that took too long.
        if rows > 0 {
            self.0 = (self.0.min(rows) / 2).max(1);
        }
    }

    /// A batch with that many rows was stored in that time.
    pub fn grow(&mut self, rows: usize, seconds: f64) {
        // A batch of fewer rows says nothing about a full piece.
        if rows >= self.0 && seconds * (self.0 as f64) / (rows as f64) < EASY_SECONDS {
            // One row that took too long, in a server that stood still, must not make thousands go one by one.
            let easy = (EASY_SECONDS * rows as f64 / seconds.max(0.001)) as usize;
            self.0 = self.0.saturating_mul(2).max(easy);
        }
    }

    /// The rows of `all` in pieces, none larger than `most`.
    pub(super) fn ranges(
        self,
        all: Range<usize>,
        most: usize,
    ) -> impl DoubleEndedIterator<Item = Range<usize>> {
        let size = self.0.min(most).max(1);
        let pieces = all.len().div_ceil(size);
        (0..pieces).map(move |piece| {
            let start = all.start + piece * size;
            start..all.end.min(start.saturating_add(size))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_shrink_when_a_statement_takes_too_long_and_grow_when_it_is_easy() {
        let mut piece = Piece::WHOLE;
        piece.halve(10_000);
        assert_eq!(piece, Piece(5_000));
        piece.halve(10_000);
        piece.grow(2_000, 0.1);
        assert_eq!(piece, Piece(2_500), "a small batch says nothing");
        piece.grow(10_000, 200.0);
        assert_eq!(piece, Piece(2_500), "50 s for each statement");
        piece.grow(10_000, 20.0);
        assert_eq!(piece, Piece(5_000));
        piece.halve(1);
        piece.halve(1);
        piece.halve(0);
        assert_eq!(piece, Piece(1));
        piece.grow(2, 0.5);
        assert_eq!(piece, Piece(40), "what would have taken 10 s");
    }

    #[test]
    fn pieces_cover_all_rows_once() {
        let ranges = |piece: Piece, most| piece.ranges(3..10, most).collect::<Vec<_>>();
        assert_eq!(ranges(Piece::WHOLE, usize::MAX), vec![3..10; 1]);
        assert_eq!(ranges(Piece::WHOLE, 3), [3..6, 6..9, 9..10]);
        assert_eq!(ranges(Piece(4), 5), [3..7, 7..10]);
        assert_eq!(Piece(4).ranges(3..3, 5).count(), 0);
    }
}
