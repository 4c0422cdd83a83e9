//! What requests to librdkafka itself have in common.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;

/// One request and its answer.
pub(super) struct Exchange {
    /// Where the answer comes to.
    pub(super) queue: Owned<c::rd_kafka_queue_t>,
    /// How long it may take.
    pub(super) options: Owned<c::rd_kafka_AdminOptions_t>,
    milliseconds: c_int,
}

impl Exchange {
    /// For a request of this kind, which may take `timeout`.
    pub(super) fn new<C: ClientContext>(
        client: &Client<C>,
        operation: c::rd_kafka_admin_op_t,
        timeout: Duration,
    ) -> Result<Self, KafkaError> {
        let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the client is live; the queue is ours to destroy.
        let queue = Owned::new(unsafe { c::rd_kafka_queue_new(client.native_ptr()) });
        // SAFETY: the client is live; the options are ours to destroy.
        let options = Owned::new(unsafe { c::rd_kafka_AdminOptions_new(client.native_ptr(), operation) });
        let (queue, options) = queue.zip(options).ok_or_else(out_of_memory)?;
        // SAFETY: the options are live; a null buffer of length 0 is where librdkafka then writes no text to.
        let code = unsafe {
            c::rd_kafka_AdminOptions_set_request_timeout(options.pointer(), milliseconds, ptr::null_mut(), 0)
        };
        success(code).map(|()| Self { queue, options, milliseconds })
    }

    /// Waits for the answer to what was asked, a second longer than that may take, for librdkafka to say so.
    pub(super) fn answer(&self) -> Result<Owned<c::rd_kafka_event_t>, KafkaError> {
        // SAFETY: the queue is live; the event is ours to destroy. An answer that comes after the queue is gone is dropped by
        // librdkafka, which counts references to queues.
        let event =
            unsafe { c::rd_kafka_queue_poll(self.queue.pointer(), self.milliseconds.saturating_add(1_000)) };
        let event = Owned::new(event).ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut))?;
        // SAFETY: the event is live.
        success(unsafe { c::rd_kafka_event_error(event.pointer()) }).map(|()| event)
    }
}

pub(super) fn success(code: RDKafkaRespErr) -> Result<(), KafkaError> {
    match code {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(KafkaError::OffsetFetch(code.into())),
    }
}

pub(super) fn out_of_memory() -> KafkaError {
    KafkaError::ClientCreation("librdkafka has no memory".to_owned())
}

/// Something of librdkafka's that is ours to destroy, once.
pub(super) struct Owned<T: Destroy>(NonNull<T>);

impl<T: Destroy> Owned<T> {
    pub(super) fn new(pointer: *mut T) -> Option<Self> {
        NonNull::new(pointer).map(Self)
    }

    /// Live as long as this is.
    pub(super) fn pointer(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T: Destroy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from librdkafka, is live, and is given up here.
        unsafe { T::destroy(self.0.as_ptr()) }
    }
}

pub(super) trait Destroy {
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
    rd_kafka_ListConsumerGroupOffsets_t by rd_kafka_ListConsumerGroupOffsets_destroy,
    rd_kafka_TopicCollection_t by rd_kafka_TopicCollection_destroy
);
