//! Dead letters as text. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::LetterId;
use super::store::{Letter, Replayed};

/// Characters of a detail in a list.
const DETAIL: usize = 70;

/// The columns of [`line`].
pub(super) fn heading() -> String {
    format!(
        "{:>10}  {:>9}  {:>12}  {:<20}  {:<9}  {}",
        "ID", "PARTITION", "OFFSET", "REASON", "REPLAYED", "DETAIL"
    )
}

/// A letter in one line.
pub(super) fn line(letter: &Letter) -> String {
    let detail: String = letter.detail.chars().take(DETAIL).collect();
    let replayed = if letter.replayed == Replayed::No { "no" } else { "yes" };
    format!(
        "{:>10}  {:>9}  {:>12}  {:<20}  {replayed:<9}  {detail}",
        letter.id, letter.partition, letter.offset, letter.reason
    )
}

/// A letter as one JSON object.
pub(super) fn json(letter: &Letter) -> Value {
    json!({
        "id": id(letter.id),
        "group": letter.group_id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "detail": letter.detail,
        "key": letter.key.as_deref().map(text_or_hex),
        "value": letter.payload.as_deref().map(text_or_hex),
        "headers": letter.headers,
        "recordTimestamp": letter.record_timestamp.map(|time| time.to_rfc3339()),
        "createdAt": letter.created_at.to_rfc3339(),
        "replayed": letter.replayed != Replayed::No,
        "replayedAt": replayed_at(letter.replayed).map(|time| time.to_rfc3339()),
        "omittedBytes": letter.omitted_bytes,
    })
}

/// A number where it is one.
fn id(id: LetterId) -> Value {
    id.row().map_or_else(|| json!(id.to_string()), |row| json!(row))
}

fn replayed_at(replayed: Replayed) -> Option<chrono::DateTime<chrono::Utc>> {
    match replayed {
        Replayed::No => None,
        Replayed::Yes(at) => at,
    }
}

/// A letter with everything, for reading.
pub(super) fn whole(letter: &Letter) -> String {
    let time = |time: Option<chrono::DateTime<chrono::Utc>>| {
        time.map_or("none".to_owned(), |time| time.to_rfc3339())
    };
    let bytes = |bytes: Option<&[u8]>| bytes.map_or("none".to_owned(), |bytes| shown(&text_or_hex(bytes)));
    let replayed = match letter.replayed {
        Replayed::No => "none".to_owned(),
        Replayed::Yes(at) => at.map_or("yes".to_owned(), |at| at.to_rfc3339()),
    };
    let value = match letter.omitted_bytes {
        Some(omitted) => {
            format!("left out, with key and headers: {omitted} bytes are too many for the topic")
        }
        None => bytes(letter.payload.as_deref()),
    };
    let mut text = String::new();
    for (name, value) in [
        ("id", letter.id.to_string()),
        ("reason", letter.reason.clone()),
        ("detail", letter.detail.clone()),
        ("origin", format!("{} partition {} offset {}", letter.topic, letter.partition, letter.offset)),
        ("group", letter.group_id.clone()),
        ("record time", time(letter.record_timestamp)),
        ("written", time(Some(letter.created_at))),
        ("replayed", replayed),
        ("headers", letter.headers.as_ref().map_or("none".to_owned(), Value::to_string)),
        ("key", bytes(letter.key.as_deref())),
        ("value", value),
    ] {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    }
    text
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Text as it is; anything else as `{"hex": …}`.
fn text_or_hex(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}
