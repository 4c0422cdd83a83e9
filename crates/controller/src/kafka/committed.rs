//! Committed offsets of any group.
//!
//! The safe interface of `rdkafka` asks for the group of the client itself, which would need a client for each group. The
//! admin request of librdkafka asks for any group, so one client serves all pipelines of a cluster. `rdkafka` has no safe
//! interface to it, hence the calls into C here, each with its proof, and nowhere else.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use autoscaler::CommittedOffset;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

/// Reads where `group` stands on each of `partitions`, all of one topic. A partition that is missing from the answer, or has an
/// error, is unknown. Blocks for `timeout` at most (and a second for librdkafka to say so).
pub(super) fn read<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    partitions: &TopicPartitionList,
    timeout: Duration,
) -> Result<HashMap<i32, CommittedOffset>, KafkaError> {
    let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let queue = queue(client)?;
    let options = options(client, milliseconds)?;
    let request = request(group, partitions)?;
    let mut requests = [request.0.as_ptr()];
    // SAFETY: the client outlives the call; `requests` holds one live request and the count says so; options and queue are
    // live. librdkafka copies what it needs of all of them before it returns.
    unsafe {
        c::rd_kafka_ListConsumerGroupOffsets(
            client.native_ptr(),
            requests.as_mut_ptr(),
            requests.len(),
            options.0.as_ptr(),
            queue.0.as_ptr(),
        );
    }
    // SAFETY: the queue is live; the event is ours to destroy. An answer that comes after the queue is gone is dropped by
    // librdkafka, which counts references to queues.
    let event = unsafe { c::rd_kafka_queue_poll(queue.0.as_ptr(), milliseconds.saturating_add(1_000)) };
    let event = Owned::new(event).ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut))?;
    answer(&event)
}

fn queue<C: ClientContext>(client: &Client<C>) -> Result<Owned<c::rd_kafka_queue_t>, KafkaError> {
    // SAFETY: the client is live; the queue is ours to destroy.
    Owned::new(unsafe { c::rd_kafka_queue_new(client.native_ptr()) }).ok_or_else(out_of_memory)
}

fn options<C: ClientContext>(
    client: &Client<C>,
    milliseconds: c_int,
) -> Result<Owned<c::rd_kafka_AdminOptions_t>, KafkaError> {
    let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
    // SAFETY: the client is live; the options are ours to destroy.
    let options = unsafe { c::rd_kafka_AdminOptions_new(client.native_ptr(), operation) };
    let options = Owned::new(options).ok_or_else(out_of_memory)?;
    // SAFETY: the options are live; a null buffer of length 0 is where librdkafka then writes no text to.
    let code = unsafe {
        c::rd_kafka_AdminOptions_set_request_timeout(options.0.as_ptr(), milliseconds, ptr::null_mut(), 0)
    };
    success(code).map(|()| options)
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
    success(unsafe { c::rd_kafka_event_error(event.0.as_ptr()) })?;
    // SAFETY: the event is live. The result belongs to it and is null for an event of another type.
    let result = unsafe { c::rd_kafka_event_ListConsumerGroupOffsets_result(event.0.as_ptr()) };
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

fn success(code: RDKafkaRespErr) -> Result<(), KafkaError> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::OffsetFetch(code.into())),
    }
}

fn out_of_memory() -> KafkaError {
    KafkaError::ClientCreation("librdkafka has no memory".to_owned())
}

/// Something of librdkafka's that is ours to destroy, once.
struct Owned<T: Destroy>(NonNull<T>);

impl<T: Destroy> Owned<T> {
    fn new(pointer: *mut T) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }
}

impl<T: Destroy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka, is live, and is given up here.
        unsafe { T::destroy(self.0.as_ptr()) }
    }
}

trait Destroy {
    /// # Safety
    /// `pointer` must be live and must not be used afterwards.
    unsafe fn destroy(pointer: *mut Self);
}

macro_rules! destroyed_by {
    ($($kind:ident by $function:ident),+) => {
        $(impl Destroy for c::$kind {
            unsafe fn destroy(pointer: *mut Self) {
                // SAFETY: what the caller promises is what the function asks for.
                unsafe { c::$function(pointer) }
            }
        })+
    };
}

destroyed_by!(
    rd_kafka_queue_t by rd_kafka_queue_destroy,
    rd_kafka_event_t by rd_kafka_event_destroy,
    rd_kafka_AdminOptions_t by rd_kafka_AdminOptions_destroy,
    rd_kafka_ListConsumerGroupOffsets_t by rd_kafka_ListConsumerGroupOffsets_destroy
);
