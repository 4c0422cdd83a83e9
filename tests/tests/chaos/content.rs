//! What an event says, as one number: equal for a payload and for the row that it became.
//!
//! jsonb keeps neither the order of keys nor white space, so both sides are read as values and hashed in one order.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

/// A hash over all of an event's fields.
pub(crate) type Content = [u8; 16];

/// An event, from its payload or from its row.
#[derive(Debug, Deserialize)]
pub(crate) struct Said {
    pub(crate) event_type: String,
    pub(crate) user_id: Uuid,
    pub(crate) service: String,
    pub(crate) timestamp: DateTime<Utc>,
    pub(crate) data: Value,
}

impl Said {
    /// # Errors
    /// When the payload is no event.
    pub(crate) fn read(payload: &[u8]) -> Result<Self> {
        serde_json::from_slice(payload).context("a record that was meant to be good is no event")
    }

    pub(crate) fn content(&self) -> Content {
        let mut hasher = blake3::Hasher::new();
        text(&mut hasher, &self.event_type);
        hasher.update(self.user_id.as_bytes());
        text(&mut hasher, &self.service);
        hasher.update(&self.timestamp.timestamp_micros().to_le_bytes());
        value(&mut hasher, &self.data);
        let mut content = Content::default();
        content.copy_from_slice(&hasher.finalize().as_bytes()[..size_of::<Content>()]);
        content
    }
}

/// With its length before it, so that no two sequences of texts are the same bytes.
fn text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
}

fn value(hasher: &mut blake3::Hasher, json: &Value) {
    match json {
        Value::Null => drop(hasher.update(b"n")),
        Value::Bool(truth) => drop(hasher.update(if *truth { b"t" } else { b"f" })),
        Value::Number(number) => {
            hasher.update(b"#");
            text(hasher, &number.to_string());
        }
        Value::String(string) => {
            hasher.update(b"s");
            text(hasher, string);
        }
        Value::Array(items) => {
            hasher.update(b"[").update(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| value(hasher, item));
        }
        Value::Object(fields) => {
            hasher.update(b"{").update(&(fields.len() as u64).to_le_bytes());
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(key, _)| *key);
            for (key, field) in fields {
                text(hasher, key);
                value(hasher, field);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(data: &str, time: &str) -> Content {
        let event = format!(
            r#"{{"event_type":"a","user_id":"550e8400-e29b-41d4-a716-446655440000","service":"s","timestamp":"{time}","data":{data}}}"#
        );
        Said::read(event.as_bytes()).unwrap().content()
    }

    #[test]
    fn only_what_is_said_counts() {
        let time = "2024-11-09T10:30:00Z";
        let one = content(r#"{"b":1.5,"a":["x",null]}"#, time);
        assert_eq!(one, content(r#"{ "a": ["x", null], "b": 1.5 }"#, "2024-11-09T11:30:00+01:00"));
        let others = [
            content(r#"{"b":1.6,"a":["x",null]}"#, time),
            content(r#"{"b":1.5,"a":["x","null"]}"#, time),
            content(r#"{"b":1.5,"a":["xn"]}"#, time),
            content(r#"{"b":1.5,"a":["x",null]}"#, "2024-11-09T10:30:00.000001Z"),
        ];
        assert!(others.iter().all(|other| *other != one));
    }
}
