//! Committed offsets of any group.
//!
//! The safe interface of `rdkafka` asks for the group of the client itself, which would need a client for each group. The
//! admin request of librdkafka asks for any group, so one client serves all pipelines of a cluster. `rdkafka` has no safe
//! interface to it, hence the calls into C here, each with its proof.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::CString;
use std::ptr::NonNull;
use std::slice;
use std::time::Duration;

use autoscaler::CommittedOffset;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::native::{Exchange, Owned, out_of_memory, success};

const OPERATION: c::rd_kafka_admin_op_t = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;

/// Reads where `group` stands on each of `partitions`, all of one topic. A partition that is missing from the answer, or has an
/// error, is unknown. Blocks for `timeout` at most (and a second for librdkafka to say so).
pub(super) fn read<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    partitions: &TopicPartitionList,
    timeout: Duration,
) -> Result<HashMap<i32, CommittedOffset>, KafkaError> {
    let exchange = Exchange::new(client, OPERATION, timeout)?;
    let request = request(group, partitions)?;
    let mut requests = [request.pointer()];
    // SAFETY: the client outlives the call; `requests` holds one live request and the count says so; options and queue are
    // live. librdkafka copies what it needs of all of them before it returns.
    unsafe {
        c::rd_kafka_ListConsumerGroupOffsets(
            client.native_ptr(),
            requests.as_mut_ptr(),
            requests.len(),
            exchange.options.pointer(),
            exchange.queue.pointer(),
        );
    }
    answer(&exchange.answer()?)
}

fn request(
    group: &str,
    partitions: &TopicPartitionList,
) -> Result<Owned<c::rd_kafka_ListConsumerGroupOffsets_t>, KafkaError> {
    let group = CString::new(group)?;
    // SAFETY: both arguments are live and are copied; the request is ours to destroy.
    let request = unsafe { c::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), partitions.ptr()) };
    Owned::new(request).ok_or_else(out_of_memory)
}

fn answer(event: &Owned<c::rd_kafka_event_t>) -> Result<HashMap<i32, CommittedOffset>, KafkaError> {
    let unexpected = KafkaError::OffsetFetch(RDKafkaErrorCode::Fail);
    // SAFETY: the event is live.
    success(unsafe { c::rd_kafka_event_error(event.pointer()) })?;
    // SAFETY: the event is live. The result belongs to it and is null for an event of another type.
    let result = unsafe { c::rd_kafka_event_ListConsumerGroupOffsets_result(event.pointer()) };
    let result = NonNull::new(result.cast_mut()).ok_or(unexpected.clone())?;
    let mut count = 0;
    // SAFETY: the result is live as long as the event; `count` is where the number of groups goes to.
    let groups =
        unsafe { c::rd_kafka_ListConsumerGroupOffsets_result_groups(result.as_ptr(), &raw mut count) };
    if groups.is_null() || count == 0 {
        return Err(unexpected);
    }
    // SAFETY: librdkafka gives an array of `count` pointers, at least one, that belong to the event.
    let group = unsafe { *groups };
    // SAFETY: the group is live as long as the event; its error is null when there is none, which has the code "no error".
    success(unsafe { c::rd_kafka_error_code(c::rd_kafka_group_result_error(group)) })?;
    // SAFETY: as before.
    let list = unsafe { c::rd_kafka_group_result_partitions(group) };
    // SAFETY: the list is null or live as long as the event.
    let Some(list) = (unsafe { list.as_ref() }) else { return Err(unexpected) };
    Ok(offsets(list))
}

fn offsets(list: &c::rd_kafka_topic_partition_list_t) -> HashMap<i32, CommittedOffset> {
    let count = usize::try_from(list.cnt).unwrap_or(0);
    if count == 0 || list.elems.is_null() {
        return HashMap::new();
    }
    // SAFETY: librdkafka keeps `cnt` elements at `elems`, and nobody writes to them while the list is borrowed.
    let elements = unsafe { slice::from_raw_parts(list.elems, count) };
    elements
        .iter()
        .filter(|element| success(element.err).is_ok())
        .map(|element| {
            let committed = match Offset::from_raw(element.offset) {
                Offset::Offset(offset) => CommittedOffset::At(offset),
                Offset::Invalid => CommittedOffset::Never,
                _ => CommittedOffset::Unknown,
            };
            (element.partition, committed)
        })
        .collect()
}
