//! What one transaction will hold: rows, dead letters, and how far each partition moves. Pure: no I/O.
//!
//! Payloads are copied once, into one arena of text (they were found to be UTF-8 when they were parsed, and nobody
//! needs to look again), keys and headers into one of bytes; a row is a handful of ranges into them. So a batch costs
//! three allocations however many events it has, its memory is bounded by its limits, and the raw record of a row that
//! PostgreSQL refuses is still at hand for its dead letter.

mod headers;

use std::collections::HashSet;
use std::time::Instant;

use crate::dead_letter::{DeadLetter, Reason};
use crate::event::Event;
use crate::settings::BatchLimits;

pub(crate) use headers::{iterate as iterate_headers, to_json as headers_to_json};

pub use headers::encode as encode_headers;

/// A record's place and its parts beside the event itself.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Timestamp in milliseconds, if the record has one.
    pub timestamp_millis: Option<i64>,
    /// Record key.
    pub key: Option<&'a [u8]>,
    /// Record value.
    pub payload: Option<&'a [u8]>,
    /// Headers in the form of [`encode_headers`]; empty when there are none.
    pub headers: &'a [u8],
}

/// A range of one of the arenas.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// An event on its way into the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The event key.
    pub key: [u8; 16],
    /// The user.
    pub user_id: [u8; 16],
    /// The event's time in microseconds since 1970.
    pub timestamp_micros: i64,
    /// Where the record came from.
    pub partition: i32,
    /// Where the record came from.
    pub offset: i64,
    /// The record's timestamp in milliseconds; negative when it has none.
    pub record_timestamp_millis: i64,
    payload: Span,
    event_type: Span,
    service: Span,
    data: Span,
    record_key: Option<Span>,
    headers: Span,
}

/// How far a partition moves: records in `from..to` are dealt with by this batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The partition.
    pub partition: i32,
    /// Which assignment of the partition this belongs to; an older one must not be written.
    pub generation: u64,
    /// The stored offset before the transaction.
    pub from: i64,
    /// The stored offset after it.
    pub to: i64,
    /// Records read, whatever became of them.
    pub records: u64,
    /// The end of the partition's log as last seen; no less than `to` counts.
    pub log_end: i64,
}

/// The content of one transaction.
#[derive(Debug, Default)]
pub struct Batch {
    texts: String,
    bytes: Vec<u8>,
    rows: Vec<Row>,
    dead_letters: Vec<DeadLetter>,
    progress: Vec<Progress>,
    dead_letter_bytes: usize,
    duplicates: Vec<Row>,
    first_read: Option<Instant>,
}

impl Batch {
    /// An empty batch with room for all that the limits allow. Memory is resident only once it is written to, so room that
    /// is not used costs nothing, while buffers that grow leave holes of half their size behind.
    #[must_use]
    pub fn with_room_for(limits: &BatchLimits) -> Self {
        Self {
            texts: String::with_capacity(limits.max_bytes),
            rows: Vec::with_capacity(limits.max_events),
            ..Self::default()
        }
    }

    /// Whether nothing has been read into it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.progress.is_empty()
    }

    /// Whether one of the limits is reached.
    #[must_use]
    pub fn is_full(&self, limits: &BatchLimits) -> bool {
        self.rows.len() + self.dead_letters.len() >= limits.max_events
            || self.bytes() >= limits.max_bytes
            // Skipped records hold no memory, but their number must not delay the offsets for ever.
            || self.progress.iter().map(|progress| progress.records).sum::<u64>() >= 16 * limits.max_events as u64
    }

    /// The rows, in the order in which they will be written.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead_letters
    }

    /// Notes which dead letters Kafka has; `delivered` is in the order of [`Batch::dead_letters`].
    pub fn note_delivered(&mut self, delivered: impl Iterator<Item = bool>) {
        for (letter, delivered) in self.dead_letters.iter_mut().zip(delivered) {
            letter.delivered |= delivered;
        }
    }

    /// How far each partition moves.
    #[must_use]
    pub fn progress(&self) -> &[Progress] {
        &self.progress
    }

    /// Rows that will not be written because their key is known already.
    #[must_use]
    pub fn duplicates(&self) -> &[Row] {
        &self.duplicates
    }

    /// When the first record was read.
    #[must_use]
    pub fn first_read(&self) -> Option<Instant> {
        self.first_read
    }

    /// Bytes of record data held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.texts.len() + self.bytes.len() + self.dead_letter_bytes
    }

    /// Notes when the first record was read.
    pub fn begin(&mut self, now: Instant) {
        self.first_read.get_or_insert(now);
    }

    /// Notes that the record at `offset` is dealt with; `from` is where the partition stood when the batch began it.
    pub fn advance(&mut self, partition: i32, generation: u64, from: i64, offset: i64) {
        self.progress_of(partition, generation, from, offset + 1).records += 1;
    }

    /// Notes that no record lies between `from`, where the partition stood when the batch began it, and `to`.
    pub fn pass_over(&mut self, partition: i32, generation: u64, from: i64, to: i64) {
        self.progress_of(partition, generation, from, to);
    }

    fn progress_of(&mut self, partition: i32, generation: u64, from: i64, to: i64) -> &mut Progress {
        let known = self.progress.iter().rposition(|progress| progress.partition == partition);
        let index = known.unwrap_or_else(|| {
            self.progress.push(Progress { partition, generation, from, to, records: 0, log_end: 0 });
            self.progress.len() - 1
        });
        let progress = &mut self.progress[index];
        progress.to = to;
        progress
    }

    /// Adds an event.
    pub fn push_event(&mut self, record: &Record<'_>, event: &Event<'_>, key: [u8; 16]) {
        let payload = self.append_text(event.payload);
        let row = Row {
            key,
            user_id: *event.user_id.as_bytes(),
            timestamp_micros: event.timestamp.timestamp_micros(),
            partition: record.partition,
            offset: record.offset,
            record_timestamp_millis: record.timestamp_millis.unwrap_or(-1),
            payload,
            event_type: self.locate(payload, event.payload, &event.event_type),
            service: self.locate(payload, event.payload, &event.service),
            data: self.locate(payload, event.payload, event.data),
            record_key: record.key.map(|key| self.append(key)),
            headers: self.append(record.headers),
        };
        self.rows.push(row);
    }

    /// Adds a record that cannot be stored.
    pub fn push_dead_letter(&mut self, record: &Record<'_>, reason: Reason, detail: String) {
        let letter = DeadLetter {
            partition: record.partition,
            offset: record.offset,
            reason,
            detail,
            key: record.key.map(<[u8]>::to_vec),
            payload: record.payload.map(<[u8]>::to_vec),
            headers: record.headers.to_vec(),
            timestamp_millis: record.timestamp_millis,
            delivered: false,
        };
        self.add_dead_letter(letter);
    }

    fn add_dead_letter(&mut self, letter: DeadLetter) {
        let held = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        self.dead_letter_bytes +=
            held(&letter.payload) + held(&letter.key) + letter.headers.len() + letter.detail.len() + 64;
        self.dead_letters.push(letter);
    }

    /// Sorts the rows by key and removes those whose key stands twice; the first record of the lowest partition stays.
    ///
    /// One order for everybody: two transactions that insert the same keys then wait for each other at most once and
    /// never in a circle, and the unique index is written from left to right.
    pub fn sort_and_deduplicate(&mut self) {
        // In place: a stable sort would need as much memory again.
        self.rows.sort_unstable_by_key(|row| (u128::from_be_bytes(row.key), row.partition, row.offset));
        let duplicates = &mut self.duplicates;
        self.rows.dedup_by(|later, earlier| {
            let same = later.key == earlier.key;
            if same {
                duplicates.push(*later);
            }
            same
        });
    }

    /// Removes rows whose key satisfies `known`, as duplicates.
    pub fn remove_known(&mut self, known: impl Fn(&[u8; 16]) -> bool) {
        self.duplicates.extend(self.rows.extract_if(.., |row| known(&row.key)));
    }

    /// Turns the row at `index` into a dead letter: PostgreSQL refused it.
    pub fn refuse_row(&mut self, index: usize, detail: String) {
        let row = self.rows.remove(index);
        // A twin that was set aside for this row has its turn: with a key of the producer's own it may be a good one.
        if let Some(twin) = self.duplicates.iter().position(|duplicate| duplicate.key == row.key) {
            let twin = self.duplicates.remove(twin);
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
    }

    /// Forgets everything of partitions for which `keep` is false: somebody else deals with them now.
    pub fn retain_partitions(&mut self, keep: impl Fn(&Progress) -> bool) {
        let before = self.progress.len();
        self.progress.retain(|progress| keep(progress));
        if self.progress.len() == before {
            return;
        }
        let kept: HashSet<i32> = self.progress.iter().map(|progress| progress.partition).collect();
        self.rows.retain(|row| kept.contains(&row.partition));
        self.duplicates.retain(|row| kept.contains(&row.partition));
        self.dead_letters.retain(|letter| kept.contains(&letter.partition));
    }

    /// Notes how far each partition's log reaches.
    pub fn note_log_ends(&mut self, log_end: impl Fn(i32) -> Option<i64>) {
        for progress in &mut self.progress {
            progress.log_end = log_end(progress.partition).unwrap_or(progress.to);
        }
    }

    /// Empties the batch and keeps its memory for the next one, unless one huge record inflated it.
    pub fn clear(&mut self, limits: &BatchLimits) {
        self.texts.clear();
        self.texts.shrink_to(limits.max_bytes);
        self.bytes.clear();
        self.bytes.shrink_to(limits.max_bytes);
        self.rows.clear();
        self.dead_letters.clear();
        self.progress.clear();
        self.dead_letter_bytes = 0;
        self.duplicates.clear();
        self.first_read = None;
    }

    /// The row's `event_type`.
    #[must_use]
    pub fn event_type(&self, row: &Row) -> &str {
        self.text(row.event_type)
    }

    /// The row's `service`.
    #[must_use]
    pub fn service(&self, row: &Row) -> &str {
        self.text(row.service)
    }

    /// The row's `data`, JSON text.
    #[must_use]
    pub fn data(&self, row: &Row) -> &str {
        self.text(row.data)
    }

    /// The value of the record header `name` of the row's record.
    #[must_use]
    pub fn header(&self, row: &Row, name: &str) -> Option<&[u8]> {
        headers::find(self.bytes_of(row.headers), name)
    }

    fn text(&self, span: Span) -> &str {
        // The span was made from a text; an empty one instead of a panic if that were ever untrue.
        self.texts.get(span.range()).unwrap_or_default()
    }

    fn bytes_of(&self, span: Span) -> &[u8] {
        &self.bytes[span.range()]
    }

    /// A batch holds at most a few hundred MiB (see the limits of the settings), so that `u32` ranges are enough.
    fn append(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    fn append_text(&mut self, text: &str) -> Span {
        let start = self.texts.len() as u32;
        self.texts.push_str(text);
        Span { start, len: text.len() as u32 }
    }

    /// The range of `part`: inside the copied payload when it borrows from it, else appended (it had JSON escapes).
    fn locate(&mut self, copied: Span, payload: &str, part: &str) -> Span {
        let distance = (part.as_ptr() as usize).wrapping_sub(payload.as_ptr() as usize);
        if distance <= payload.len() && part.len() <= payload.len() - distance {
            return Span { start: copied.start + distance as u32, len: part.len() as u32 };
        }
        self.append_text(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event;

    const LIMITS: BatchLimits = BatchLimits { max_events: 3, max_bytes: 4096 };

    fn payload(event_type: &str) -> Vec<u8> {
        format!(
            r#"{{"event_type":"{event_type}","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"auth","timestamp":"2024-11-09T10:30:00Z","data":{{"k":1}}}}"#
        )
        .into_bytes()
    }

    fn record(partition: i32, offset: i64, payload: &[u8]) -> Record<'_> {
        Record {
            partition,
            offset,
            timestamp_millis: Some(1),
            key: Some(b"key"),
            payload: Some(payload),
            headers: &[],
        }
    }

    fn push(batch: &mut Batch, partition: i32, offset: i64, key: u8, event_type: &str) {
        let payload = payload(event_type);
        let event = event::parse(&payload, 4096).expect("good");
        batch.advance(partition, 1, 10, offset);
        batch.push_event(&record(partition, offset, &payload), &event, [key; 16]);
    }

    #[test]
    fn rows_read_back_what_was_written_with_and_without_escapes() {
        let mut batch = Batch::default();
        push(&mut batch, 0, 10, 1, "user_login");
        push(&mut batch, 0, 11, 2, r"user\u005flogout");
        let texts: Vec<_> = batch
            .rows()
            .iter()
            .map(|row| (batch.event_type(row), batch.service(row), batch.data(row)))
            .collect();
        assert_eq!(texts, [("user_login", "auth", r#"{"k":1}"#), ("user_logout", "auth", r#"{"k":1}"#)]);
    }

    #[test]
    fn duplicates_inside_a_batch_keep_the_first_record() {
        let mut batch = Batch::default();
        push(&mut batch, 0, 10, 2, "a");
        push(&mut batch, 0, 11, 1, "b");
        push(&mut batch, 0, 12, 2, "c");
        batch.sort_and_deduplicate();
        let offsets: Vec<_> = batch.rows().iter().map(|row| row.offset).collect();
        assert_eq!(offsets, [11, 10]);
        assert_eq!(batch.duplicates().len(), 1);
        batch.remove_known(|key| key[0] == 1);
        assert_eq!((batch.rows().len(), batch.duplicates().len()), (1, 2));
    }

    #[test]
    fn offsets_follow_the_records_and_gaps_are_no_matter() {
        let mut batch = Batch::default();
        batch.advance(0, 1, 10, 10);
        batch.advance(0, 1, 10, 17);
        batch.advance(3, 2, 0, 5);
        let expected = [
            Progress { partition: 0, generation: 1, from: 10, to: 18, records: 2, log_end: 0 },
            Progress { partition: 3, generation: 2, from: 0, to: 6, records: 1, log_end: 0 },
        ];
        assert_eq!(batch.progress(), expected);
    }

    #[test]
    fn a_forgotten_partition_leaves_nothing_behind() {
        let mut batch = Batch::default();
        push(&mut batch, 0, 10, 1, "a");
        push(&mut batch, 1, 10, 2, "b");
        batch.advance(0, 1, 10, 11);
        batch.push_dead_letter(&record(0, 11, b"x"), Reason::InvalidJson, "no".into());
        batch.retain_partitions(|progress| progress.partition != 0);
        assert_eq!((batch.rows().len(), batch.dead_letters().len(), batch.progress().len()), (1, 0, 1));
    }

    #[test]
    fn a_refused_row_becomes_a_dead_letter_with_its_record() {
        let mut batch = Batch::default();
        push(&mut batch, 4, 10, 1, "a");
        batch.refuse_row(0, "value out of range".into());
        let letter = &batch.dead_letters()[0];
        assert_eq!((letter.partition, letter.offset, letter.reason), (4, 10, Reason::RefusedByDatabase));
        assert_eq!(letter.payload.as_deref(), Some(payload("a").as_slice()));
        assert_eq!(letter.key.as_deref(), Some(b"key".as_slice()));
        assert!(batch.rows().is_empty());
    }

    #[test]
    fn the_twin_of_a_refused_row_takes_its_place() {
        let mut batch = Batch::default();
        push(&mut batch, 0, 10, 1, "a");
        push(&mut batch, 0, 11, 1, "b");
        batch.sort_and_deduplicate();
        batch.refuse_row(0, "value out of range".into());
        assert_eq!((batch.rows().len(), batch.rows()[0].offset, batch.duplicates().len()), (1, 11, 0));
    }

    #[test]
    fn limits_count_events_and_bytes() {
        let mut batch = Batch::default();
        assert!(!batch.is_full(&LIMITS) && batch.is_empty());
        for offset in 10..13 {
            push(&mut batch, 0, offset, 1, "a");
        }
        assert!(batch.is_full(&LIMITS));
        batch.clear(&LIMITS);
        assert!(batch.is_empty() && !batch.is_full(&LIMITS));
        batch.push_dead_letter(&record(0, 1, &[b'x'; 5000]), Reason::InvalidJson, String::new());
        assert!(batch.is_full(&LIMITS));
    }
}
