//! How far a partition can be passed over because no record comes any more: control records of transactions, records
//! of aborted ones, and what compaction removed take offsets and are never delivered.
//!
//! librdkafka says where a reader has come to its partition's end, and rust-rdkafka leaves the offset out. So this file
//! talks to librdkafka's C interface. Everything unsafe is here.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, client::Client};

/// How long all of it may take; what is not known then is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL_MILLISECONDS: i32 = 100;

/// Reads each of these partitions from its offset on with a reader of its own, which joins no group. Where the end comes
/// before any record, gives back partition, that offset, and the end: no record that can be read lies between them, and
/// none ever will, since offsets are only given out behind the end.
///
/// # Errors
/// The reader cannot be made.
pub(super) fn without_records(
    config: &ClientConfig,
    topic: &str,
    positions: &[(i32, i64)],
) -> Result<Vec<(i32, i64, i64)>, KafkaError> {
    let reader: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in positions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    reader.assign(&list)?;
    let Some(queue) = Queue::of(reader.client()) else { return Ok(Vec::new()) };
    let mut open: HashMap<i32, i64> = positions.iter().copied().collect();
    let (mut found, began) = (Vec::new(), Instant::now());
    while !open.is_empty() && began.elapsed() < PATIENCE {
        match queue.next() {
            Some(Seen::Record { partition }) => {
                open.remove(&partition);
            }
            Some(Seen::End { partition, offset }) => {
                let from = open.remove(&partition).filter(|from| *from < offset);
                found.extend(from.map(|from| (partition, from, offset)));
            }
            None => {}
        }
    }
    Ok(found)
}

/// Whether the partition's end can be read, which needs no record to be there.
///
/// # Errors
/// The reader cannot be made.
pub(super) fn can_read(config: &ClientConfig, topic: &str, partition: i32) -> Result<bool, KafkaError> {
    let reader: BaseConsumer = config.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::End)?;
    reader.assign(&list)?;
    let Some(queue) = Queue::of(reader.client()) else { return Ok(false) };
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        // Errors come on the same way, and are no sight of anything.
        if queue.next().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a reader sees.
enum Seen {
    Record {
        partition: i32,
    },
    /// Everything below the offset was seen.
    End {
        partition: i32,
        offset: i64,
    },
}

/// The queue of a reader's events.
struct Queue(*mut sys::rd_kafka_queue_t);

impl Queue {
    fn of<C: rdkafka::consumer::ConsumerContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is live, and the caller keeps it longer than what is returned: `reader` is declared before
        // `queue` in both callers and so is dropped after it. A null is sorted out.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(client.native_ptr()) };
        (!queue.is_null()).then_some(Self(queue))
    }

    fn next(&self) -> Option<Seen> {
        // SAFETY: the queue is live until drop; nobody else polls it, since the reader's own `poll` is never called. The
        // event is ours and destroyed by `Event`.
        let event = unsafe { sys::rd_kafka_queue_poll(self.0, POLL_MILLISECONDS) };
        (!event.is_null()).then_some(Event(event))?.seen()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: `rd_kafka_queue_get_consumer` gave a reference that is ours; it is not used after this.
        unsafe { sys::rd_kafka_queue_destroy(self.0) }
    }
}

/// An event of the queue; destroyed when dropped, and everything read from it is copied before that.
struct Event(*mut sys::rd_kafka_event_t);

impl Event {
    fn seen(&self) -> Option<Seen> {
        // SAFETY: the event is live until drop. A message belongs to the event and is only read here. The topic partition
        // is made for us; it is destroyed right after its two numbers were copied. Nulls are checked.
        unsafe {
            match sys::rd_kafka_event_type(self.0) {
                sys::RD_KAFKA_EVENT_FETCH => {
                    let message = sys::rd_kafka_event_message_next(self.0);
                    (!message.is_null()).then(|| Seen::Record { partition: (*message).partition })
                }
                sys::RD_KAFKA_EVENT_ERROR
                    if sys::rd_kafka_event_error(self.0)
                        == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF =>
                {
                    let place = sys::rd_kafka_event_topic_partition(self.0);
                    if place.is_null() {
                        return None;
                    }
                    let seen = Seen::End { partition: (*place).partition, offset: (*place).offset };
                    sys::rd_kafka_topic_partition_destroy(place);
                    Some(seen)
                }
                _ => None,
            }
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_queue_poll`, owned by this value alone, not used after this.
        unsafe { sys::rd_kafka_event_destroy(self.0) }
    }
}
