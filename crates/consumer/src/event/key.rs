//! The event key: a UUIDv8 (RFC 9562 §5.8) of the event's time and a hash of what identifies it.
//!
//! Its first 48 bits are the event's time in milliseconds, so that new keys land at the right edge of the unique index
//! however large the table is; 74 bits of BLAKE3 follow. Equal events get equal keys; two different events collide
//! only within the same millisecond, with a chance of 2⁻⁷⁴ a pair.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

/// What identifies an event.
#[derive(Debug, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// Its place in the log: every record is an event of its own.
    Position,
    /// Its whole payload.
    Payload(&'a [u8]),
    /// A value that the producer gave it.
    Named(Cow<'a, [u8]>),
}

/// Computes the key. `position` is the record's topic, partition and offset.
#[must_use]
pub fn event_key(source: &KeySource<'_>, timestamp: DateTime<Utc>, position: (&str, i32, i64)) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    // The first byte keeps the kinds apart: a payload can never pass for somebody's identifier.
    match source {
        KeySource::Position => {
            hasher.update(b"p").update(position.0.as_bytes());
            hasher.update(&position.1.to_be_bytes()).update(&position.2.to_be_bytes());
        }
        KeySource::Payload(payload) => {
            hasher.update(b"c").update(payload);
        }
        KeySource::Named(value) => {
            hasher.update(b"n").update(value);
        }
    }
    let hash = hasher.finalize();
    let milliseconds = timestamp.timestamp_millis().clamp(0, (1 << 48) - 1) as u64;
    let mut key = [0_u8; 16];
    key[..6].copy_from_slice(&milliseconds.to_be_bytes()[2..]);
    key[6..].copy_from_slice(&hash.as_bytes()[..10]);
    key[6] = (key[6] & 0x0F) | 0x80; // version 8
    key[8] = (key[8] & 0x3F) | 0x80; // variant of RFC 9562
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn at(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(milliseconds).expect("in range")
    }

    #[test]
    fn equal_events_have_equal_keys_and_others_do_not() {
        let key = |source: &KeySource<'_>, time| event_key(source, at(time), ("t", 0, 7));
        let payload = KeySource::Payload(b"abc");
        assert_eq!(key(&payload, 5), event_key(&payload, at(5), ("t", 3, 99)));
        assert_ne!(key(&payload, 5), key(&payload, 6));
        assert_ne!(key(&payload, 5), key(&KeySource::Payload(b"abd"), 5));
        assert_ne!(key(&payload, 5), key(&KeySource::Named(Cow::Borrowed(b"abc")), 5));
        assert_ne!(
            event_key(&KeySource::Position, at(5), ("t", 0, 1)),
            event_key(&KeySource::Position, at(5), ("t", 0, 2))
        );
    }

    #[test]
    fn the_key_is_a_version_8_uuid_that_sorts_by_time() {
        let payload = KeySource::Payload(b"abc");
        let times = [-5, 0, 1, 1_700_000_000_000, 1_700_000_000_001, 253_402_300_799_000];
        let keys: Vec<_> = times.iter().map(|time| event_key(&payload, at(*time), ("t", 0, 0))).collect();
        assert!(keys[1..].windows(2).all(|pair| pair[0] < pair[1]));
        for key in keys {
            let uuid = Uuid::from_bytes(key);
            assert_eq!(uuid.get_version_num(), 8);
            assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122);
        }
    }
}
