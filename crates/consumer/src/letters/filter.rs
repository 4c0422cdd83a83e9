//! Which dead letters a command is about.

use chrono::{DateTime, Utc};
use clap::Args;

use super::LetterId;
use super::store::Letter;
use crate::dead_letter::Reason;

/// Which dead letters: all conditions must hold; without any, all letters of the configured group and topic.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Only this reason, such as invalid_json; may be given several times.
    #[arg(long = "reason", value_parser = reason)]
    pub reasons: Vec<String>,
    /// Only records of this partition.
    #[arg(long)]
    pub partition: Option<i32>,
    /// Only records from this offset on.
    #[arg(long)]
    pub from_offset: Option<i64>,
    /// Only records before this offset.
    #[arg(long)]
    pub to_offset: Option<i64>,
    /// Only letters written at or after this time (RFC 3339).
    #[arg(long)]
    pub since: Option<DateTime<Utc>>,
    /// Only letters written before this time (RFC 3339).
    #[arg(long)]
    pub until: Option<DateTime<Utc>>,
    /// Only this letter; may be given several times.
    #[arg(long = "id")]
    pub ids: Vec<LetterId>,
    /// At most this many.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    pub limit: Option<i64>,
}

impl Filter {
    /// Most letters that are wanted.
    #[must_use]
    pub fn limit(&self) -> i64 {
        self.limit.unwrap_or(i64::MAX)
    }

    /// Whether it is about this letter, as the SQL of letters in a table has it.
    pub(super) fn selects(&self, letter: &Letter) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && self.partition.is_none_or(|partition| letter.partition == partition)
            && self.from_offset.is_none_or(|offset| letter.offset >= offset)
            && self.to_offset.is_none_or(|offset| letter.offset < offset)
            && self.since.is_none_or(|time| letter.created_at >= time)
            && self.until.is_none_or(|time| letter.created_at < time)
            && (self.ids.is_empty() || self.ids.contains(&letter.id))
    }
}

/// Knows the reasons, so that a typing error is no empty list.
fn reason(text: &str) -> Result<String, String> {
    if Reason::ALL.iter().any(|reason| reason.as_str() == text) {
        return Ok(text.to_owned());
    }
    let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    Err(format!("not a reason; the reasons are {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_of_a_filter_must_hold() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let letter = Letter {
            id: LetterId::Place(0, 7),
            group_id: "g".into(),
            topic: "t".into(),
            partition: 2,
            offset: 10,
            reason: "invalid_json".into(),
            detail: String::new(),
            key: None,
            payload: None,
            headers: None,
            record_timestamp: None,
            created_at: at(100).expect("in range"),
            replayed: crate::letters::store::Replayed::No,
            omitted_bytes: None,
        };
        let filter = Filter::default;
        let cases = [
            (filter(), true),
            (Filter { reasons: vec!["tombstone".into(), "invalid_json".into()], ..filter() }, true),
            (Filter { reasons: vec!["tombstone".into()], ..filter() }, false),
            (Filter { partition: Some(1), ..filter() }, false),
            (Filter { from_offset: Some(10), to_offset: Some(11), ..filter() }, true),
            (Filter { to_offset: Some(10), ..filter() }, false),
            (Filter { since: at(100), until: at(101), ..filter() }, true),
            (Filter { since: at(101), ..filter() }, false),
            (Filter { until: at(100), ..filter() }, false),
            (Filter { ids: vec![LetterId::Place(0, 7)], ..filter() }, true),
            (Filter { ids: vec![LetterId::Row(7)], ..filter() }, false),
            (Filter { partition: Some(2), from_offset: Some(11), ..filter() }, false),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.selects(&letter), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_reason_is_one_of_those_there_are() {
        assert_eq!(reason("invalid_json").as_deref(), Ok("invalid_json"));
        assert!(reason("invalid-json").is_err_and(|message| message.contains("invalid_json, ")));
    }
}
