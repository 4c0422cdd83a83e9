//! What changes a batch after it was read: order, duplicates, rows that PostgreSQL refuses, partitions that went elsewhere,
//! company for a batch that cannot be judged alone.

use std::collections::HashSet;

use super::{Batch, Progress, Row, Span, held_by};
use crate::dead_letter::{DeadLetter, Reason};

impl Batch {
    /// Sorts the rows by key and removes those whose key stands twice; the first record of the lowest partition stays.
    ///
    /// One order for everybody: two transactions that insert the same keys then wait for each other at most once and
    /// never in a circle, and the unique index is written from left to right.
    pub fn sort_and_deduplicate(&mut self) {
        // In place: a stable sort would need as much memory again.
        self.rows.sort_unstable_by_key(|row| (u128::from_be_bytes(row.key), row.partition, row.offset));
        let twins = &mut self.twins;
        self.rows.dedup_by(|later, earlier| {
            let same = later.key == earlier.key;
            if same {
                twins.push(*later);
            }
            same
        });
    }

    /// Removes rows whose key is in the table, as far as `known` can tell, as duplicates.
    pub fn remove_known(&mut self, known: impl Fn(&[u8; 16]) -> bool) {
        self.known.extend(self.rows.extract_if(.., |row| known(&row.key)));
    }

    /// Turns rows that PostgreSQL refused, by their indexes, into dead letters. A twin that was set aside for one of them
    /// has its turn in its place: with a key of the producer's own it may be a good one. Returns where those twins are.
    pub fn refuse_rows(&mut self, mut refused: Vec<(usize, String)>) -> Vec<usize> {
        refused.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        let mut keys = Vec::new();
        for (index, detail) in refused {
            let key = self.rows[index].key;
            if self.refuse_row(index, detail) {
                keys.push(key);
            }
        }
        keys.iter().filter_map(|key| self.rows.binary_search_by_key(key, |row| row.key).ok()).collect()
    }

    /// Says whether a twin took its place.
    fn refuse_row(&mut self, index: usize, detail: String) -> bool {
        let row = self.rows.remove(index);
        let twin = self.twins.iter().position(|twin| twin.key == row.key);
        if let Some(twin) = twin {
            let twin = self.twins.remove(twin);
            self.rows.insert(index, twin);
        }
        let letter = DeadLetter {
            partition: row.partition,
            offset: row.offset,
            reason: Reason::RefusedByDatabase,
            detail,
            key: row.record_key.map(|key| self.bytes_of(key).to_vec()),
            payload: Some(self.text(row.payload).as_bytes().to_vec()),
            headers: self.bytes_of(row.headers).to_vec(),
            timestamp_millis: (row.record_timestamp_millis >= 0).then_some(row.record_timestamp_millis),
            delivered: false,
        };
        self.add_dead_letter(letter);
        twin.is_some()
    }

    /// Forgets everything of partitions for which `keep` is false: somebody else deals with them now.
    pub fn retain_partitions(&mut self, keep: impl Fn(&Progress) -> bool) {
        let before = self.progress.len();
        self.progress.retain(|progress| keep(progress));
        if self.progress.len() == before {
            return;
        }
        if self.progress.is_empty() {
            // Memory that nobody needs any more must not count as full.
            self.forget();
            return;
        }
        let kept: HashSet<i32> = self.progress.iter().map(|progress| progress.partition).collect();
        self.rows.retain(|row| kept.contains(&row.partition));
        self.twins.retain(|row| kept.contains(&row.partition));
        self.known.retain(|row| kept.contains(&row.partition));
        self.dead_letters.retain(|letter| kept.contains(&letter.partition));
        self.dead_letter_bytes = self.dead_letters.iter().map(held_by).sum();
        if !self.twins.is_empty() {
            // The row for which a twin was set aside may be gone: then nobody else stores this event.
            self.rows.append(&mut self.twins);
            self.sort_and_deduplicate();
        }
    }

    /// Takes in what was read after this batch. Neither is sorted then.
    pub fn absorb(&mut self, later: &mut Self) {
        for progress in &later.progress {
            self.join(*progress);
        }
        let (texts, bytes) = (self.texts.len() as u32, self.bytes.len() as u32);
        self.texts.push_str(&later.texts);
        self.bytes.extend_from_slice(&later.bytes);
        let moved = |row: &Row| row.moved(texts, bytes);
        self.rows.extend(later.rows.iter().map(moved));
        self.twins.extend(later.twins.iter().map(moved));
        self.known.extend(later.known.iter().map(moved));
        self.dead_letters.append(&mut later.dead_letters);
        self.dead_letter_bytes += later.dead_letter_bytes;
        self.first_read = self.first_read.into_iter().chain(later.first_read).min();
        later.forget();
    }

    fn join(&mut self, later: Progress) {
        let follows = |earlier: &Progress| earlier.generation == later.generation && earlier.to == later.from;
        let earlier = self.progress.iter_mut().find(|earlier| earlier.partition == later.partition);
        match earlier {
            Some(earlier) if follows(earlier) => {
                earlier.to = later.to;
                earlier.records += later.records;
            }
            // The partition was given away and came back: what was read before is read again.
            Some(_) => {
                self.retain_partitions(|progress| progress.partition != later.partition);
                self.progress.push(later);
            }
            None => self.progress.push(later),
        }
    }
}

impl Row {
    /// The row after its arenas were put behind others of these lengths.
    fn moved(&self, texts: u32, bytes: u32) -> Self {
        let by = |span: Span, distance| Span { start: span.start + distance, len: span.len };
        Self {
            payload: by(self.payload, texts),
            event_type: by(self.event_type, texts),
            service: by(self.service, texts),
            data: by(self.data, texts),
            record_key: self.record_key.map(|key| by(key, bytes)),
            headers: by(self.headers, bytes),
            ..*self
        }
    }
}
