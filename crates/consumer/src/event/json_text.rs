//! What PostgreSQL's jsonb refuses although JSON allows it, found before the database sees it.
//!
//! jsonb cannot hold U+0000 (it stores text as C strings) nor an unpaired surrogate (it stores UTF-8); its parser
//! recurses, so nesting is bounded by `max_stack_depth`. See PostgreSQL's documentation, "JSON Types".

use memchr::{memchr, memchr_iter, memchr2_iter};
use serde_json::value::RawValue;

use crate::dead_letter::{Reason, Rejection};

/// Deepest nesting that is passed on; PostgreSQL's default stack takes several thousand levels.
const MAX_DEPTH: usize = 1000;

/// Checks the raw text of a syntactically valid JSON value.
pub(super) fn check(json: &str) -> Result<(), Rejection> {
    let bytes = json.as_bytes();
    if memchr(b'\\', bytes).is_some() {
        check_escapes(bytes)?;
    }
    if may_hold_huge_number(bytes) {
        check_exponents(bytes)?;
    }
    // The length, then the number of brackets bound the depth from above, cheaply; only a suspicious value is walked.
    let brackets = || memchr_iter(b'{', bytes).count() + memchr_iter(b'[', bytes).count();
    if bytes.len() > MAX_DEPTH && brackets() > MAX_DEPTH && depth(bytes) > MAX_DEPTH {
        return Err(Rejection::new(
            Reason::NestingTooDeep,
            format!("`data` is nested deeper than {MAX_DEPTH} levels"),
        ));
    }
    Ok(())
}

/// jsonb keeps numbers as `numeric`: at most 131072 digits before the decimal point and 16383 after it.
const EXPONENTS: std::ops::RangeInclusive<i64> = -16_383..=131_071;

/// Whether something looks like a number with an exponent of four digits or more; text may look so too.
fn may_hold_huge_number(bytes: &[u8]) -> bool {
    memchr2_iter(b'e', b'E', bytes).any(|at| {
        let digit = |index: usize| bytes.get(index).is_some_and(u8::is_ascii_digit);
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at > 0 && digit(at - 1) && (1..=4).all(|step| digit(at + sign + step))
    })
}

/// Checks the exponent of every number outside of strings.
fn check_exponents(bytes: &[u8]) -> Result<(), Rejection> {
    let (mut in_string, mut escaped) = (false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'e' | b'E' if !in_string && at > 0 && bytes[at - 1].is_ascii_digit() => {
                let end = bytes[at + 1..].iter().position(|byte| !matches!(byte, b'+' | b'-' | b'0'..=b'9'));
                let exponent = &bytes[at + 1..end.map_or(bytes.len(), |end| at + 1 + end)];
                let value = std::str::from_utf8(exponent).ok().and_then(|text| text.parse::<i64>().ok());
                if !value.is_some_and(|value| EXPONENTS.contains(&value)) {
                    let detail = "`data` holds a number beyond what PostgreSQL's numeric can hold".to_owned();
                    return Err(Rejection::new(Reason::NumberOutOfRange, detail));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Walks the escapes of a valid JSON text: `\\` must not be mistaken for the start of `\u`.
fn check_escapes(bytes: &[u8]) -> Result<(), Rejection> {
    let mut at = 0;
    let mut high_surrogate = false;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            if high_surrogate {
                return Err(unpaired());
            }
            at += 1;
            continue;
        }
        if bytes.get(at + 1) != Some(&b'u') {
            if high_surrogate {
                return Err(unpaired());
            }
            at += 2;
            continue;
        }
        let code = bytes.get(at + 2..at + 6).and_then(hexadecimal).unwrap_or_default();
        match (code, high_surrogate) {
            (0, _) => {
                let detail = r"`data` contains \u0000, which PostgreSQL's jsonb cannot store";
                return Err(Rejection::new(Reason::NulCharacter, detail.to_owned()));
            }
            (0xD800..=0xDBFF, false) => high_surrogate = true,
            (0xDC00..=0xDFFF, true) => high_surrogate = false,
            (0xD800..=0xDFFF, _) | (_, true) => return Err(unpaired()),
            _ => {}
        }
        at += 6;
    }
    Ok(())
}

fn unpaired() -> Rejection {
    Rejection::new(
        Reason::InvalidUnicode,
        r"`data` contains an unpaired surrogate (\ud800 to \udfff)".to_owned(),
    )
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Deepest nesting of objects and arrays outside of strings.
fn depth(bytes: &[u8]) -> usize {
    let (mut deepest, mut now, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                now += 1;
                deepest = deepest.max(now);
            }
            b'}' | b']' if !in_string => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The raw JSON text of a top-level field, if the payload is an object that has it and it is not null.
pub(super) fn top_level_field(payload: &[u8], name: &str) -> Option<Vec<u8>> {
    let fields: std::collections::HashMap<std::borrow::Cow<'_, str>, &RawValue> =
        serde_json::from_slice(payload).ok()?;
    let value = fields.get(name)?.get();
    (value != "null").then(|| value.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_inside_strings_do_not_nest() {
        let text = format!("{{\"a\":\"{}\"}}", "[".repeat(5000));
        assert!(check(&text).is_ok());
        assert_eq!(depth(br#"{"a\"{[":[[1]]}"#), 3);
    }

    #[test]
    fn numbers_beyond_numeric_are_found_and_text_that_looks_like_one_is_not() {
        for bad in [
            r#"{"a":1e131072}"#,
            r#"{"a":[2.5E+999999]}"#,
            r#"{"a":1e-20000}"#,
            r#"{"a":1e99999999999999999999}"#,
        ] {
            assert_eq!(check(bad).expect_err(bad).reason, Reason::NumberOutOfRange);
        }
        for good in [
            r#"{"a":1e131071}"#,
            r#"{"a":"1e999999","b\"":"9E99999"}"#,
            r#"{"a":1.5e10}"#,
            r#"{"a":1e-16383}"#,
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_surrogate_must_be_followed_by_its_other_half() {
        for bad in
            [r#"{"a":"\ud83d"}"#, r#"{"a":"\ud83dx"}"#, r#"{"a":"\ud83d\n"}"#, r#"{"a":"\ud83d\ud83d"}"#]
        {
            assert_eq!(check(bad).expect_err(bad).reason, Reason::InvalidUnicode);
        }
        assert!(check(r#"{"a":"\ud83d\ude00","b":"\\ud83d"}"#).is_ok());
    }
}
