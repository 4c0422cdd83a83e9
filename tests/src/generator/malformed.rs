//! The ways in which a record cannot be stored (design.md §4), each as it happens to real producers.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::event::Event;

/// One way of being wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Malformation {
    /// Cut off in the middle.
    BadJson,
    /// JSON, but no object.
    NotAnObject,
    /// A required field is not there (each of the five in turn).
    MissingField,
    /// A field has another JSON type.
    WrongType,
    /// The user's id is no UUID.
    WrongUserId,
    /// The timestamp is no RFC 3339 time.
    WrongTimestamp,
    /// `\u0000` in a text column, which PostgreSQL's text cannot hold.
    NulInText,
    /// `\u0000` inside `data`, which PostgreSQL's jsonb cannot hold.
    NulInData,
    /// Half of a surrogate pair inside `data`: grammatical JSON that jsonb refuses.
    LoneSurrogate,
    /// A number inside `data` beyond what PostgreSQL's numeric can hold.
    HugeNumber,
    /// The service's name does not fit varchar(100).
    TooLongField,
    /// Nested deeper than a parser should follow.
    TooDeep,
    /// Bytes that are not UTF-8.
    InvalidUtf8,
    /// A value of no bytes.
    EmptyValue,
    /// No value at all.
    Tombstone,
}

impl Malformation {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::BadJson,
        Self::NotAnObject,
        Self::MissingField,
        Self::WrongType,
        Self::WrongUserId,
        Self::WrongTimestamp,
        Self::NulInText,
        Self::NulInData,
        Self::LoneSurrogate,
        Self::HugeNumber,
        Self::TooLongField,
        Self::TooDeep,
        Self::InvalidUtf8,
        Self::EmptyValue,
        Self::Tombstone,
    ];

    /// A payload that is wrong in this way, made from a good event; `None` is a tombstone. `turn` varies it.
    pub(super) fn payload(self, event: &Event<'_>, turn: usize) -> Option<Vec<u8>> {
        let good = event.to_json();
        let text = match self {
            Self::BadJson => good[..good.len() * 2 / 3].to_owned(),
            Self::NotAnObject => format!("[{good}]"),
            Self::MissingField => without_field(&good, FIELDS[turn / Self::ALL.len() % FIELDS.len()]),
            Self::WrongType => with_field(&good, "service", &json!(42)),
            Self::WrongUserId => with_field(&good, "user_id", &json!(format!("user-{turn}"))),
            Self::WrongTimestamp => with_field(&good, "timestamp", &json!("yesterday at noon")),
            Self::NulInText => with_field(&good, "service", &json!("web\u{0}gateway")),
            Self::NulInData => with_field(&good, "data", &json!({ "query": "a\u{0}b" })),
            Self::LoneSurrogate => with_data(&good, r#"{"query":"\ud83d"}"#),
            Self::HugeNumber => with_data(&good, r#"{"took_ms":1e200000}"#),
            Self::TooLongField => with_field(&good, "service", &json!("s".repeat(101))),
            Self::TooDeep => with_data(&good, &nested(10_000)),
            Self::InvalidUtf8 => return Some(with_invalid_utf8(good)),
            Self::EmptyValue => String::new(),
            Self::Tombstone => return None,
        };
        Some(text.into_bytes())
    }
}

impl fmt::Display for Malformation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BadJson => "bad JSON",
            Self::NotAnObject => "not an object",
            Self::MissingField => "missing field",
            Self::WrongType => "wrong type",
            Self::WrongUserId => "wrong user id",
            Self::WrongTimestamp => "wrong timestamp",
            Self::NulInText => "\\u0000 in text",
            Self::NulInData => "\\u0000 in data",
            Self::LoneSurrogate => "lone surrogate",
            Self::HugeNumber => "huge number",
            Self::TooLongField => "too long field",
            Self::TooDeep => "nested too deep",
            Self::InvalidUtf8 => "invalid UTF-8",
            Self::EmptyValue => "empty value",
            Self::Tombstone => "tombstone",
        })
    }
}

const FIELDS: [&str; 5] = ["event_type", "user_id", "service", "timestamp", "data"];

fn fields(good: &str) -> serde_json::Map<String, Value> {
    // The text was serialised from an event a moment ago; were it no object, an empty one would be malformed too.
    match serde_json::from_str(good) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

fn without_field(good: &str, name: &str) -> String {
    let mut fields = fields(good);
    fields.remove(name);
    Value::Object(fields).to_string()
}

fn with_field(good: &str, name: &str, value: &Value) -> String {
    let mut fields = fields(good);
    fields.insert(name.to_owned(), value.clone());
    Value::Object(fields).to_string()
}

/// Replaces `data` by raw text that a JSON library would not write.
fn with_data(good: &str, data: &str) -> String {
    let marker = "\u{1}marker";
    with_field(good, "data", &json!(marker)).replacen(&json!(marker).to_string(), data, 1)
}

fn nested(depth: usize) -> String {
    format!(r#"{{"tree":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
}

fn with_invalid_utf8(good: String) -> Vec<u8> {
    let mut bytes = good.into_bytes();
    if let Some(place) = bytes.iter().position(|byte| *byte == b':') {
        bytes.splice(place + 2..place + 3, [0xff, 0xfe]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::event::Events;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn payload(malformation: Malformation, turn: usize) -> Option<Vec<u8>> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut events = Events::new(&mut random, 1, 10, 1.0).unwrap();
        let event = events.next(&mut random, "2024-11-09T10:30:00Z".parse().unwrap());
        malformation.payload(&event, turn)
    }

    fn text(malformation: Malformation) -> String {
        String::from_utf8(payload(malformation, 0).unwrap()).unwrap()
    }

    #[test]
    fn each_is_wrong_in_just_the_way_its_name_says() {
        use Malformation as M;
        let parsed = |malformation| serde_json::from_str::<Value>(&text(malformation));
        assert!(parsed(M::BadJson).is_err());
        assert!(parsed(M::NotAnObject).unwrap().is_array());
        assert!(parsed(M::MissingField).unwrap().get("event_type").is_none());
        assert!(parsed(M::WrongType).unwrap()["service"].is_number());
        assert_eq!(parsed(M::WrongUserId).unwrap()["user_id"], "user-0");
        assert_eq!(parsed(M::WrongTimestamp).unwrap()["timestamp"], "yesterday at noon");
        assert!(parsed(M::NulInText).unwrap()["service"].as_str().unwrap().contains('\0'));
        assert!(parsed(M::NulInData).unwrap()["data"]["query"].as_str().unwrap().contains('\0'));
        assert!(text(M::LoneSurrogate).contains(r#""data":{"query":"\ud83d"}"#));
        assert!(text(M::HugeNumber).contains(r#""data":{"took_ms":1e200000}"#));
        assert_eq!(parsed(M::TooLongField).unwrap()["service"].as_str().unwrap().len(), 101);
        assert!(text(M::TooDeep).contains(&"[".repeat(10_000)));
        assert!(String::from_utf8(payload(M::InvalidUtf8, 0).unwrap()).is_err());
        assert_eq!(payload(M::EmptyValue, 0), Some(Vec::new()));
        assert_eq!(payload(M::Tombstone, 0), None);
    }

    #[test]
    fn each_required_field_is_missing_in_turn() {
        for (round, name) in FIELDS.iter().enumerate() {
            let turn = round * Malformation::ALL.len() + 2;
            let payload = payload(Malformation::MissingField, turn).unwrap();
            let fields = serde_json::from_slice::<Value>(&payload).unwrap();
            assert!(fields.get(name).is_none(), "{name}");
            assert_eq!(fields.as_object().unwrap().len(), FIELDS.len() - 1);
        }
    }
}
