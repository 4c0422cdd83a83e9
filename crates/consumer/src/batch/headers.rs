//! Record headers in one flat buffer: per header the name's length, the name, the value's length plus one (0 for a
//! null value), the value; lengths are little-endian `u32`. Kept raw because only dead letters and traces read them.

use serde_json::{Value, json};

/// Appends the headers to `buffer`.
pub fn encode<'a, N: AsRef<[u8]>>(
    headers: impl Iterator<Item = (N, Option<&'a [u8]>)>,
    buffer: &mut Vec<u8>,
) {
    for (name, value) in headers {
        let name = name.as_ref();
        buffer.extend_from_slice(&(name.len() as u32).to_le_bytes());
        buffer.extend_from_slice(name);
        let marker = value.map_or(0, |value| value.len() as u32 + 1);
        buffer.extend_from_slice(&marker.to_le_bytes());
        buffer.extend_from_slice(value.unwrap_or_default());
    }
}

fn split(buffer: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    buffer.split_at_checked(len)
}

fn number(buffer: &[u8]) -> Option<(usize, &[u8])> {
    let (digits, rest) = split(buffer, 4)?;
    Some((u32::from_le_bytes(digits.try_into().ok()?) as usize, rest))
}

/// Name and value.
pub(crate) type Header<'a> = (&'a [u8], Option<&'a [u8]>);

fn next(buffer: &[u8]) -> Option<(Header<'_>, &[u8])> {
    let (len, rest) = number(buffer)?;
    let (name, rest) = split(rest, len)?;
    let (marker, rest) = number(rest)?;
    let (value, rest) = split(rest, marker.saturating_sub(1))?;
    Some(((name, (marker > 0).then_some(value)), rest))
}

/// The headers, in their order.
pub(crate) fn iterate(mut buffer: &[u8]) -> impl Iterator<Item = Header<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = next(buffer)?;
        buffer = rest;
        Some(header)
    })
}

/// The value of the first header of that name.
pub(super) fn find<'a>(buffer: &'a [u8], name: &str) -> Option<&'a [u8]> {
    iterate(buffer).find(|(found, _)| *found == name.as_bytes())?.1
}

/// The headers as a JSON array of `[name, value]`; `None` when there are none.
///
/// A value that jsonb cannot hold as text (not UTF-8, or with U+0000) is written as `{"hex": …}`.
pub(crate) fn to_json(buffer: &[u8]) -> Option<String> {
    let headers: Vec<Value> =
        iterate(buffer).map(|(name, value)| json!([text_or_hex(name), value.map(text_or_hex)])).collect();
    (!headers.is_empty()).then(|| Value::Array(headers).to_string())
}

fn text_or_hex(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => json!(text),
        _ => json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_flat_form() {
        let mut buffer = Vec::new();
        let headers = [
            ("a", Some(b"1".as_slice())),
            ("", None),
            ("b", Some(b"".as_slice())),
            ("c", Some(b"\xff\0".as_slice())),
        ];
        encode(headers.into_iter(), &mut buffer);
        assert_eq!(find(&buffer, "a"), Some(b"1".as_slice()));
        assert_eq!(find(&buffer, "b"), Some(b"".as_slice()));
        assert_eq!(find(&buffer, ""), None);
        assert_eq!(
            to_json(&buffer).as_deref(),
            Some(r#"[["a","1"],["",null],["b",""],["c",{"hex":"ff00"}]]"#)
        );
        assert_eq!(to_json(&[]), None);
    }

    #[test]
    fn a_damaged_buffer_ends_instead_of_panicking() {
        assert_eq!(to_json(&[255, 255, 255, 255, 1]), None);
    }
}
