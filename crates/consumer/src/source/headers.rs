//! A record's headers as bytes.
//!
//! rust-rdkafka takes the names of headers for UTF-8 and panics where they are not, which any producer could use to end
//! every consumer of the topic for good. So this file talks to librdkafka's C interface. Everything unsafe is here.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr;

use rdkafka::bindings as sys;
use rdkafka::message::BorrowedMessage;

/// Name and value.
type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// The headers of a record, in their order.
pub(crate) struct Headers<'a> {
    /// Null when the record has none.
    native: *mut sys::rd_kafka_headers_t,
    next: usize,
    /// The headers belong to the message.
    message: PhantomData<&'a ()>,
}

/// The headers of `message`.
pub(crate) fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Headers<'a> {
    let mut native = ptr::null_mut();
    // SAFETY: the message is live while it is borrowed, and so are its headers, which librdkafka parses at the first call
    // and keeps with the message. On an error nothing is written and the pointer stays null.
    let error = unsafe { sys::rd_kafka_message_headers(message.ptr(), &raw mut native) };
    if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        native = ptr::null_mut();
    }
    Headers { native, next: 0, message: PhantomData }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        if self.native.is_null() {
            return None;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `native` is live for 'a and not null; the three places are ours. Past the last header an error is given
        // back and nothing is written. Otherwise the name is a NUL-terminated string, and the value is null or `length`
        // bytes; both belong to the message and live as long as it is borrowed.
        unsafe {
            let error = sys::rd_kafka_header_get_all(
                self.native,
                self.next,
                &raw mut name,
                &raw mut value,
                &raw mut length,
            );
            if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return None;
            }
            self.next += 1;
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), length));
            Some((CStr::from_ptr(name).to_bytes(), value))
        }
    }
}
