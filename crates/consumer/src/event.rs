//! From a record's bytes to an event, or to the reason why it is none. Pure: no I/O, no clock.

mod json_text;
mod key;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::dead_letter::{Reason, Rejection};
use crate::settings::Deduplication;

pub use key::{KeySource, event_key};

/// Longest `event_type` and `service`, in characters: the columns are `varchar(100)`.
const MAX_NAME_CHARS: usize = 100;

/// The seven types that the product knows by name; others are stored too.
pub const KNOWN_EVENT_TYPES: [&str; 7] = [
    "user_registered",
    "user_login",
    "profile_updated",
    "profile_viewed",
    "user_search",
    "user_activated",
    "user_deactivated",
];

/// A well-formed event, borrowing from the record's payload wherever no JSON escape forbids it.
#[derive(Debug)]
pub struct Event<'a> {
    /// The whole payload.
    pub payload: &'a str,
    /// What happened.
    pub event_type: Cow<'a, str>,
    /// To whom.
    pub user_id: Uuid,
    /// Who says so.
    pub service: Cow<'a, str>,
    /// When it happened, by the producer's clock.
    pub timestamp: DateTime<Utc>,
    /// The `data` object, as the producer wrote it.
    pub data: &'a str,
}

/// The payload's shape on the wire. Unknown fields are allowed: a producer may say more than the table keeps.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Parses and checks one payload.
///
/// # Errors
/// The reason for which this record can never be stored, with a sentence for the person who will look at it.
pub fn parse(payload: &[u8], max_bytes: usize) -> Result<Event<'_>, Rejection> {
    if payload.len() > max_bytes {
        let detail = format!("the value has {} bytes, more than EVENT_MAX_BYTES={max_bytes}", payload.len());
        return Err(Rejection::new(Reason::TooLarge, detail));
    }
    let text = std::str::from_utf8(payload)
        .map_err(|error| Rejection::new(Reason::InvalidJson, format!("the value is not UTF-8: {error}")))?;
    let wire: Wire<'_> = serde_json::from_str(text).map_err(|error| shape_error(&error))?;
    let timestamp = DateTime::parse_from_rfc3339(&wire.timestamp).map_err(|error| {
        let detail = format!("`timestamp` is not RFC 3339 ({error}): {}", shortened(&wire.timestamp));
        Rejection::new(Reason::InvalidTimestamp, detail)
    })?;
    let user_id = Uuid::parse_str(&wire.user_id).map_err(|error| {
        let detail = format!("`user_id` is not a UUID ({error}): {}", shortened(&wire.user_id));
        Rejection::new(Reason::InvalidUserId, detail)
    })?;
    check_name("event_type", &wire.event_type)?;
    check_name("service", &wire.service)?;
    let data = wire.data.get();
    if !data.starts_with('{') {
        return Err(Rejection::new(
            Reason::InvalidField,
            format!("`data` is not a JSON object: {}", shortened(data)),
        ));
    }
    json_text::check(data)?;
    Ok(Event {
        payload: text,
        event_type: wire.event_type,
        user_id,
        service: wire.service,
        timestamp: timestamp.with_timezone(&Utc),
        data,
    })
}

/// The type of a record that is no event, where it can be read all the same.
#[must_use]
pub fn event_type_of(payload: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Typed<'a> {
        #[serde(borrow)]
        event_type: Cow<'a, str>,
    }
    // Only an object: a sequence would be taken for the fields in their order.
    payload.trim_ascii_start().starts_with(b"{").then_some(())?;
    serde_json::from_slice::<Typed<'_>>(payload).ok().map(|typed| typed.event_type)
}

/// The value that identifies the event, taken from where the user said.
///
/// A header or field that is missing falls back to the payload, so that no event is ever without a key.
#[must_use]
pub fn key_source<'a>(
    mode: &Deduplication,
    payload: &'a [u8],
    header: impl FnOnce(&str) -> Option<&'a [u8]>,
) -> KeySource<'a> {
    match mode {
        Deduplication::None => KeySource::Position,
        Deduplication::Content => KeySource::Payload(payload),
        Deduplication::Header(name) => {
            header(name).map_or(KeySource::Payload(payload), |value| KeySource::Named(Cow::Borrowed(value)))
        }
        Deduplication::Field(name) => json_text::top_level_field(payload, name)
            .map_or(KeySource::Payload(payload), |value| KeySource::Named(Cow::Owned(value))),
    }
}

fn shape_error(error: &serde_json::Error) -> Rejection {
    let reason = match error.classify() {
        serde_json::error::Category::Data if error.to_string().starts_with("missing field") => {
            Reason::MissingField
        }
        serde_json::error::Category::Data => Reason::InvalidField,
        _ => Reason::InvalidJson,
    };
    Rejection::new(reason, error.to_string())
}

fn check_name(field: &str, value: &str) -> Result<(), Rejection> {
    if value.is_empty() {
        return Err(Rejection::new(Reason::InvalidField, format!("`{field}` is empty")));
    }
    if value.contains('\0') {
        return Err(Rejection::new(
            Reason::NulCharacter,
            format!("`{field}` contains U+0000, which PostgreSQL cannot store"),
        ));
    }
    // Bytes bound characters from above, so that the usual short name is not counted.
    if value.len() > MAX_NAME_CHARS && value.chars().count() > MAX_NAME_CHARS {
        let detail = format!("`{field}` is longer than {MAX_NAME_CHARS} characters: {}", shortened(value));
        return Err(Rejection::new(Reason::FieldTooLong, detail));
    }
    Ok(())
}

/// The beginning of a value, for a message.
fn shortened(value: &str) -> String {
    const MOST: usize = 80;
    match value.char_indices().nth(MOST) {
        Some((end, _)) => format!("`{}…`", &value[..end]),
        None => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"event_type":"user_login","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"auth-service","timestamp":"2024-11-09T10:30:00.123456Z","data":{"ip":"192.0.2.1"}}"#;

    fn rejected(payload: &[u8]) -> Reason {
        parse(payload, 10_000).expect_err("must be rejected").reason
    }

    #[test]
    fn a_good_event_borrows_from_its_payload() {
        let event = parse(GOOD.as_bytes(), 10_000).expect("good");
        assert_eq!(event.event_type, "user_login");
        assert!(matches!(event.event_type, Cow::Borrowed(_)));
        assert_eq!(event.data, r#"{"ip":"192.0.2.1"}"#);
        assert_eq!(event.timestamp.timestamp_micros(), 1_731_148_200_123_456);
    }

    #[test]
    fn what_a_newer_producer_says_is_accepted() {
        let cases = [
            GOOD.replace("user_login", "something_new"),
            GOOD.replace(r#""data""#, r#""trace":{"id":1},"data""#),
            GOOD.replace("Z\"", "+02:00\""),
            GOOD.replace("user_login", r"user\u005flogin"),
            GOOD.replace(r#""192.0.2.1""#, r#""\ud83d\ude00 \\u0000 é""#),
        ];
        for payload in cases {
            parse(payload.as_bytes(), 10_000).unwrap_or_else(|rejection| panic!("{payload}: {rejection:?}"));
        }
    }

    #[test]
    fn every_kind_of_bad_record_has_its_reason() {
        let long = "x".repeat(101);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(2000), "]".repeat(2000));
        let cases: Vec<(Vec<u8>, Reason)> = vec![
            (b"not json".to_vec(), Reason::InvalidJson),
            (b"".to_vec(), Reason::InvalidJson),
            (GOOD.as_bytes()[..80].to_vec(), Reason::InvalidJson),
            (b"\xff\xfe{}".to_vec(), Reason::InvalidJson),
            (b"[1,2]".to_vec(), Reason::InvalidField),
            (b"{}".to_vec(), Reason::MissingField),
            (GOOD.replace(r#""service":"auth-service","#, "").into_bytes(), Reason::MissingField),
            (GOOD.replace(r#""auth-service""#, "7").into_bytes(), Reason::InvalidField),
            (GOOD.replace("auth-service", "").into_bytes(), Reason::InvalidField),
            (GOOD.replace("auth-service", &long).into_bytes(), Reason::FieldTooLong),
            (GOOD.replace("user_login", r"user\u0000login").into_bytes(), Reason::NulCharacter),
            (GOOD.replace("550e8400", "55zz8400").into_bytes(), Reason::InvalidUserId),
            (GOOD.replace("2024-11-09T", "yesterday ").into_bytes(), Reason::InvalidTimestamp),
            (GOOD.replace("2024-11-09T", "2024-13-09T").into_bytes(), Reason::InvalidTimestamp),
            (GOOD.replace(r#"{"ip":"192.0.2.1"}"#, "[]").into_bytes(), Reason::InvalidField),
            (GOOD.replace(r#"{"ip":"192.0.2.1"}"#, "null").into_bytes(), Reason::InvalidField),
            (GOOD.replace("192.0.2.1", r"a\u0000b").into_bytes(), Reason::NulCharacter),
            (GOOD.replace("192.0.2.1", r"a\ud800b").into_bytes(), Reason::InvalidUnicode),
            (GOOD.replace("192.0.2.1", r"a\udc00").into_bytes(), Reason::InvalidUnicode),
            (GOOD.replace(r#"{"ip":"192.0.2.1"}"#, &deep).into_bytes(), Reason::NestingTooDeep),
            (GOOD.replace("192.0.2.1", &"y".repeat(10_000)).into_bytes(), Reason::TooLarge),
        ];
        for (payload, reason) in cases {
            assert_eq!(rejected(&payload), reason, "{}", String::from_utf8_lossy(&payload));
        }
    }

    #[test]
    fn the_key_comes_from_where_the_user_said_or_from_the_payload() {
        let payload = br#"{"event_id":"e-1","a":1}"#;
        let none = |_: &str| None;
        assert_eq!(key_source(&Deduplication::None, payload, none), KeySource::Position);
        assert_eq!(key_source(&Deduplication::Content, payload, none), KeySource::Payload(payload));
        let field = Deduplication::Field("event_id".into());
        assert_eq!(key_source(&field, payload, none), KeySource::Named(Cow::Borrowed(b"\"e-1\"")));
        assert_eq!(key_source(&field, b"{}", none), KeySource::Payload(b"{}"));
        let header = Deduplication::Header("id".into());
        let with = |name: &str| (name == "id").then_some(b"h-1".as_slice());
        assert_eq!(key_source(&header, payload, with), KeySource::Named(Cow::Borrowed(b"h-1")));
        assert_eq!(key_source(&header, payload, none), KeySource::Payload(payload));
    }
}
