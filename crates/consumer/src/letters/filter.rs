//! Which dead letters a command is about.

use chrono::{DateTime, Utc};
use clap::Args;

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
    pub ids: Vec<i64>,
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
    fn a_reason_is_one_of_those_there_are() {
        assert_eq!(reason("invalid_json").as_deref(), Ok("invalid_json"));
        assert!(reason("invalid-json").is_err_and(|message| message.contains("invalid_json, ")));
    }
}
