//! The id that a topic got when it was made (KIP-516): the one sure sign that a topic of the same name is another one.
//!
//! rust-rdkafka has no safe call for it, so this file talks to librdkafka's C interface. Everything unsafe is here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::Client;
use rdkafka::consumer::ConsumerContext;

/// What librdkafka answers for a broker that knows no topic ids (before Kafka 2.8): the zero UUID.
const NONE: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Asks for the topic's id, as base64; `None` when it cannot be had within `timeout`, from an old broker, or without
/// permission to describe the topic. Then recreation is recognised by the log's ends alone.
pub(super) fn topic_id<C: ConsumerContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Option<String> {
    let name = CString::new(topic).ok()?;
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let request = Request::new(client.native_ptr(), &name)?;
    let event = request.send(client.native_ptr(), milliseconds)?;
    event.topic_id().filter(|id| id != NONE)
}

/// The objects that a request is made of; each is destroyed exactly once, when this is dropped.
struct Request {
    topics: *mut sys::rd_kafka_TopicCollection_t,
    options: *mut sys::rd_kafka_AdminOptions_t,
    queue: *mut sys::rd_kafka_queue_t,
}

impl Request {
    fn new(client: *mut sys::rd_kafka_t, topic: &CStr) -> Option<Self> {
        let mut names: [*const c_char; 1] = [topic.as_ptr()];
        // SAFETY: `client` comes from a live `Client`, which the caller borrows for the whole request. `names` holds
        // one NUL-terminated string and librdkafka copies it before returning. Nulls are checked below.
        let request = unsafe {
            Self {
                topics: sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
                options: sys::rd_kafka_AdminOptions_new(
                    client,
                    sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
                ),
                queue: sys::rd_kafka_queue_new(client),
            }
        };
        (!request.topics.is_null() && !request.options.is_null() && !request.queue.is_null())
            .then_some(request)
    }

    fn send(&self, client: *mut sys::rd_kafka_t, milliseconds: i32) -> Option<Event> {
        // SAFETY: all pointers are live and not null (see `new`); the error text buffer is declared as absent; the
        // result is delivered to our own queue, of which this is the only reader, and the event is owned by us.
        let event = unsafe {
            sys::rd_kafka_AdminOptions_set_request_timeout(self.options, milliseconds, ptr::null_mut(), 0);
            sys::rd_kafka_DescribeTopics(client, self.topics, self.options, self.queue);
            sys::rd_kafka_queue_poll(self.queue, milliseconds)
        };
        (!event.is_null()).then_some(Event(event))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: each pointer was made by the matching constructor, is not used after this, and null is skipped.
        unsafe {
            if !self.topics.is_null() {
                sys::rd_kafka_TopicCollection_destroy(self.topics);
            }
            if !self.options.is_null() {
                sys::rd_kafka_AdminOptions_destroy(self.options);
            }
            if !self.queue.is_null() {
                sys::rd_kafka_queue_destroy(self.queue);
            }
        }
    }
}

/// An answer; destroyed when dropped, and everything read from it is copied before that.
struct Event(*mut sys::rd_kafka_event_t);

impl Event {
    fn topic_id(&self) -> Option<String> {
        // SAFETY: the event is live until drop. For an event of another type the result is null and we stop. The
        // array has `count` elements, and only its first one is read, after checking that there is one. The returned
        // strings belong to objects that live at least as long as the event and are copied here.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(self.0);
            if result.is_null() {
                return None;
            }
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
            if topics.is_null() || count == 0 {
                return None;
            }
            let topic = *topics;
            let error = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic));
            if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            let id = sys::rd_kafka_TopicDescription_topic_id(topic);
            if id.is_null() {
                return None;
            }
            let text = sys::rd_kafka_Uuid_base64str(id);
            if text.is_null() {
                return None;
            }
            Some(CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `rd_kafka_queue_poll`, owned by this value alone, not used after this.
        unsafe { sys::rd_kafka_event_destroy(self.0) }
    }
}
