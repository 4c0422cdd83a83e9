//! How many partitions topics have, of many topics with one request. The safe interface of `rdkafka` asks for one topic or for all
//! that the cluster has.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::slice;
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::native::{Exchange, Owned, out_of_memory, success};

const OPERATION: c::rd_kafka_admin_op_t = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;

/// Asks for `topics`, each of them once; those that have an error are left out. Blocks for `timeout` at most (and a second for
/// librdkafka to say so).
pub(super) fn partition_counts<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<HashMap<String, usize>, KafkaError> {
    let exchange = Exchange::new(client, OPERATION, timeout)?;
    let names: Vec<CString> =
        topics.iter().map(|topic| CString::new(topic.as_str())).collect::<Result<_, _>>()?;
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the pointers are to live texts that end with a zero, and the count says how many; they are copied. The collection is
    // ours to destroy.
    let collection =
        unsafe { c::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) };
    let collection = Owned::new(collection).ok_or_else(out_of_memory)?;
    // SAFETY: the client outlives the call; collection, options and queue are live. librdkafka copies what it needs of all of them
    // before it returns.
    unsafe {
        c::rd_kafka_DescribeTopics(
            client.native_ptr(),
            collection.pointer(),
            exchange.options.pointer(),
            exchange.queue.pointer(),
        );
    }
    answer(&exchange.answer()?)
}

fn answer(event: &Owned<c::rd_kafka_event_t>) -> Result<HashMap<String, usize>, KafkaError> {
    // SAFETY: the event is live. The result belongs to it and is null for an event of another type.
    let result = unsafe { c::rd_kafka_event_DescribeTopics_result(event.pointer()) };
    let result = NonNull::new(result.cast_mut()).ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::Fail))?;
    let mut count = 0;
    // SAFETY: the result is live as long as the event; `count` is where the number of topics goes to.
    let topics = unsafe { c::rd_kafka_DescribeTopics_result_topics(result.as_ptr(), &raw mut count) };
    if topics.is_null() || count == 0 {
        return Ok(HashMap::new());
    }
    // SAFETY: librdkafka gives an array of `count` pointers that belong to the event, which nobody writes to.
    let topics = unsafe { slice::from_raw_parts(topics, count) };
    Ok(topics.iter().filter_map(|topic| described(*topic)).collect())
}

// `topic` is null or live as long as the event.
fn described(topic: *const c::rd_kafka_TopicDescription_t) -> Option<(String, usize)> {
    if topic.is_null() {
        return None;
    }
    // SAFETY: the topic is live; its error is null when there is none, which has the code "no error".
    success(unsafe { c::rd_kafka_error_code(c::rd_kafka_TopicDescription_error(topic)) }).ok()?;
    // SAFETY: the topic is live, and so long is its name, a text that ends with a zero.
    let name = NonNull::new(unsafe { c::rd_kafka_TopicDescription_name(topic) }.cast_mut())?;
    // SAFETY: as just said.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_str().ok()?.to_owned();
    let mut count = 0;
    // SAFETY: the topic is live; `count` is where the number of partitions goes to, and nothing else is looked at.
    unsafe { c::rd_kafka_TopicDescription_partitions(topic, &raw mut count) };
    Some((name, count))
}
