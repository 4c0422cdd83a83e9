//! What one transaction will hold: rows, dead letters, and how far each partition moves. Pure: no I/O.
//!
//! Payloads are copied once, into one arena of text (they were found to be UTF-8 when they were parsed, and nobody
//! needs to look again), keys and headers into one of bytes; a row is a handful of ranges into them. So a batch costs
//! three allocations however many events it has, its memory is bounded by its limits, and the raw record of a row that
//! PostgreSQL refuses is still at hand for its dead letter.

mod headers;
mod order;

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
    /// Rows set aside because another row of this batch has their key.
    twins: Vec<Row>,
    /// Rows set aside because their key is in the table.
    known: Vec<Row>,
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

    /// Whether one of the limits is reached. An empty batch never is: nobody would take it and make room.
    #[must_use]
    pub fn is_full(&self, limits: &BatchLimits) -> bool {
        !self.is_empty() && self.reaches(limits)
    }

    fn reaches(&self, limits: &BatchLimits) -> bool {
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
    pub fn duplicates(&self) -> impl Iterator<Item = &Row> {
        self.twins.iter().chain(&self.known)
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
        self.dead_letter_bytes += held_by(&letter);
        self.dead_letters.push(letter);
    }

    /// Notes how far each partition's log reaches.
    pub fn note_log_ends(&mut self, log_end: impl Fn(i32) -> Option<i64>) {
        for progress in &mut self.progress {
            progress.log_end = log_end(progress.partition).unwrap_or(progress.to);
        }
    }

    /// Empties the batch and keeps its memory for the next one, unless one huge record inflated it.
    pub fn clear(&mut self, limits: &BatchLimits) {
        self.forget();
        self.texts.shrink_to(limits.max_bytes);
        self.bytes.shrink_to(limits.max_bytes);
    }

    fn forget(&mut self) {
        self.texts.clear();
        self.bytes.clear();
        self.rows.clear();
        self.dead_letters.clear();
        self.progress.clear();
        self.dead_letter_bytes = 0;
        self.twins.clear();
        self.known.clear();
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

/// Bytes that a dead letter holds.
fn held_by(letter: &DeadLetter) -> usize {
    let held = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
    held(&letter.payload) + held(&letter.key) + letter.headers.len() + letter.detail.len() + 64
}

#[cfg(test)]
mod tests;
