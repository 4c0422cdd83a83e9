//! From a record to its place in a slot.

use rdkafka::message::{BorrowedMessage, Message as _};

use super::Reader;
use crate::batch::{Record, encode_headers};
use crate::dead_letter::Reason;
use crate::event::{self, event_key, key_source};
use crate::settings::{Deduplication, Tombstones};
use crate::source::headers;

/// How records are read.
pub struct RecordPolicy {
    /// How an event is recognised as seen before.
    pub deduplication: Deduplication,
    /// What happens to a record without a value.
    pub tombstones: Tombstones,
    /// Largest value in bytes.
    pub event_max_bytes: usize,
}

impl Reader {
    /// Puts a record into its slot; gives back the slot when it is full now.
    pub(super) fn accept(&self, message: &BorrowedMessage<'_>, headers: &mut Vec<u8>) -> Option<usize> {
        headers.clear();
        encode_headers(headers::headers(message), headers);
        let record = Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_millis: message.timestamp().to_millis(),
            key: message.key(),
            payload: message.payload(),
            headers,
        };
        // What is none of ours any more was on its way when it was given back.
        let slot = self.partitions.get(&record.partition)?.slot;
        self.parse(slot, &record, message).then_some(slot)
    }

    /// Parses the record and puts it into the slot; says whether the slot is full.
    fn parse(&self, slot: usize, record: &Record<'_>, message: &BorrowedMessage<'_>) -> bool {
        let slot = &self.slots[slot];
        let (partition, offset) = (record.partition, record.offset);
        let Some(payload) = record.payload.filter(|payload| !payload.is_empty()) else {
            return slot.push(partition, offset, |batch| {
                if self.policy.tombstones == Tombstones::DeadLetter {
                    batch.push_dead_letter(record, Reason::Tombstone, "the record has no value".to_owned());
                }
            });
        };
        match event::parse(payload, self.policy.event_max_bytes) {
            Ok(event) => {
                let source = key_source(&self.policy.deduplication, payload, |name| header(message, name));
                let key = event_key(&source, event.timestamp, (&self.topic, partition, offset));
                slot.push(partition, offset, |batch| batch.push_event(record, &event, key))
            }
            Err(rejection) => slot.push(partition, offset, |batch| {
                batch.push_dead_letter(record, rejection.reason, rejection.detail);
            }),
        }
    }
}

fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    headers::headers(message).find(|(found, _)| *found == name.as_bytes())?.1
}
