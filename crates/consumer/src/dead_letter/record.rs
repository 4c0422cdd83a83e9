//! A dead letter as a record of Kafka: key, value and headers as they were, then headers that say why and where from.

use super::DeadLetter;
use crate::batch::iterate_headers;

/// Headers, in their order.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Names of the headers that a dead letter gets; values are text.
pub mod names {
    /// The consumer group that could not store the record. The first of these headers: what is before it was the record's.
    pub const GROUP: &str = "dead-letter-group";
    /// Why, as in the metrics: `invalid_json`, …
    pub const REASON: &str = "dead-letter-reason";
    /// Why, as a sentence.
    pub const DETAIL: &str = "dead-letter-detail";
    /// The topic that the record came from.
    pub const TOPIC: &str = "dead-letter-topic";
    /// The partition that it came from.
    pub const PARTITION: &str = "dead-letter-partition";
    /// Its offset there.
    pub const OFFSET: &str = "dead-letter-offset";
    /// Its timestamp, in milliseconds since 1970; absent if it had none.
    pub const TIMESTAMP: &str = "dead-letter-timestamp";
    /// Bytes of the value, where the topic does not take the whole record: then key, value and headers are left out.
    pub const OMITTED: &str = "dead-letter-omitted-bytes";
    /// Marks a record that is no letter: it says that the letter at this `partition:offset` was replayed.
    pub const REPLAYED: &str = "dead-letter-replayed";
}

/// Characters of a detail in a letter that is too large with everything else.
const SHORT_DETAIL: usize = 1000;

/// Where a dead letter came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The consumer group that could not store it.
    pub group_id: String,
    /// Its topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds, if it had one.
    pub timestamp_millis: Option<i64>,
}

/// What the headers of a dead letter say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Where it came from.
    pub origin: Origin,
    /// The kind of fault.
    pub reason: String,
    /// A sentence for the person who looks at it.
    pub detail: String,
    /// Bytes of the value, if the content was left out.
    pub omitted_bytes: Option<u64>,
    /// The record's own headers.
    pub headers: Headers,
}

/// The headers of a letter with everything.
#[must_use]
pub fn seal(letter: &DeadLetter, group_id: &str, topic: &str) -> Headers {
    let own = iterate_headers(&letter.headers)
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.map(<[u8]>::to_vec)));
    own.chain(explanation(letter, group_id, topic, letter.detail.clone())).collect()
}

/// The headers of a letter that is too large for its topic: only why and where from.
#[must_use]
pub fn seal_without_content(letter: &DeadLetter, group_id: &str, topic: &str) -> Headers {
    let detail = letter.detail.chars().take(SHORT_DETAIL).collect();
    let bytes = letter.payload.as_ref().map_or(0, Vec::len);
    let omitted = (names::OMITTED.to_owned(), Some(bytes.to_string().into_bytes()));
    explanation(letter, group_id, topic, detail).chain([omitted]).collect()
}

fn explanation(
    letter: &DeadLetter,
    group_id: &str,
    topic: &str,
    detail: String,
) -> impl Iterator<Item = (String, Option<Vec<u8>>)> {
    let timestamp = letter.timestamp_millis.map(|millis| (names::TIMESTAMP, millis.to_string()));
    [
        (names::GROUP, group_id.to_owned()),
        (names::REASON, letter.reason.as_str().to_owned()),
        (names::DETAIL, detail),
        (names::TOPIC, topic.to_owned()),
        (names::PARTITION, letter.partition.to_string()),
        (names::OFFSET, letter.offset.to_string()),
    ]
    .into_iter()
    .chain(timestamp)
    .map(|(name, value)| (name.to_owned(), Some(value.into_bytes())))
}

/// Reads the headers of a letter; `None` if they are not those of one.
#[must_use]
pub fn open(mut headers: Headers) -> Option<Opened> {
    let begin = headers.iter().rposition(|(name, _)| name == names::GROUP)?;
    let explanation = headers.split_off(begin);
    let text = |wanted: &str| {
        let (_, value) = explanation.iter().find(|(name, _)| name == wanted)?;
        String::from_utf8(value.clone()?).ok()
    };
    Some(Opened {
        origin: Origin {
            group_id: text(names::GROUP)?,
            topic: text(names::TOPIC)?,
            partition: text(names::PARTITION)?.parse().ok()?,
            offset: text(names::OFFSET)?.parse().ok()?,
            timestamp_millis: text(names::TIMESTAMP).and_then(|text| text.parse().ok()),
        },
        reason: text(names::REASON)?,
        detail: text(names::DETAIL)?,
        omitted_bytes: text(names::OMITTED).and_then(|text| text.parse().ok()),
        headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::encode_headers;
    use crate::dead_letter::Reason;

    fn letter(headers: &[(&str, Option<&[u8]>)], timestamp_millis: Option<i64>) -> DeadLetter {
        let mut flat = Vec::new();
        encode_headers(headers.iter().copied(), &mut flat);
        DeadLetter {
            partition: 3,
            offset: 77,
            reason: Reason::InvalidJson,
            detail: "x".repeat(2000),
            key: None,
            payload: Some(vec![0; 9]),
            headers: flat,
            timestamp_millis,
            delivered: false,
        }
    }

    fn origin(timestamp_millis: Option<i64>) -> Origin {
        Origin { group_id: "g".into(), topic: "t".into(), partition: 3, offset: 77, timestamp_millis }
    }

    #[test]
    fn what_was_sealed_is_what_is_opened() {
        let own: Headers = vec![("a".into(), Some(vec![255, 0])), ("n".into(), None)];
        let borrowed: Vec<_> = own.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let opened = open(seal(&letter(&borrowed, Some(5)), "g", "t")).expect("a letter");
        assert_eq!((opened.origin, opened.headers), (origin(Some(5)), own));
        assert_eq!((opened.reason.as_str(), opened.detail.len()), ("invalid_json", 2000));
        assert_eq!(opened.omitted_bytes, None);
    }

    /// A letter that was read as an ordinary record and could not be stored again keeps the first explanation as headers.
    #[test]
    fn a_letter_about_a_letter_is_opened_by_its_last_explanation() {
        let first = seal(&letter(&[], None), "first", "elsewhere");
        let borrowed: Vec<_> = first.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let opened = open(seal(&letter(&borrowed, None), "g", "t")).expect("a letter");
        assert_eq!((opened.origin, opened.headers), (origin(None), first));
    }

    #[test]
    fn a_letter_without_content_is_small_and_says_what_is_missing() {
        let large = vec![1; 10_000];
        let headers = seal_without_content(&letter(&[("large", Some(&large))], Some(5)), "g", "t");
        assert!(
            headers
                .iter()
                .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
                .sum::<usize>()
                < 2000
        );
        let opened = open(headers).expect("a letter");
        assert_eq!(
            (opened.omitted_bytes, opened.detail.len(), opened.headers.len()),
            (Some(9), SHORT_DETAIL, 0)
        );
    }

    #[test]
    fn any_other_record_is_no_letter() {
        for headers in
            [vec![], vec![("a".to_owned(), None)], vec![(names::GROUP.to_owned(), Some(b"g".to_vec()))]]
        {
            assert_eq!(open(headers), None);
        }
    }
}
