//! Who exports: the resource that every span is of. What is set wins over what the program knows of itself.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;

use super::TelemetryError;
use super::environment::{Lookup, first_set};

const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
const NAME: &str = "OTEL_SERVICE_NAME";

/// The resource. Made here and not by the SDK, for which OTEL_RESOURCE_ATTRIBUTES wins over OTEL_SERVICE_NAME and values
/// stay percent-encoded, both against the specification.
pub(super) fn read(
    service_name: &'static str,
    version: &'static str,
    lookup: Lookup<'_>,
) -> Result<Resource, TelemetryError> {
    let own = [KeyValue::new("service.name", service_name), KeyValue::new("service.version", version)];
    let builder = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(attributes(lookup)?);
    Ok(match first_set(lookup, [NAME; 2]) {
        Some((_, name)) => builder.with_service_name(name).build(),
        None => builder.build(),
    })
}

fn attributes(lookup: Lookup<'_>) -> Result<Vec<KeyValue>, TelemetryError> {
    let Some((name, text)) = first_set(lookup, [ATTRIBUTES; 2]) else { return Ok(Vec::new()) };
    let entries = text.split_terminator(',').filter(|entry| !entry.trim().is_empty());
    entries
        .map(|entry| {
            attribute(entry).ok_or_else(|| TelemetryError::Unusable {
                name: name.to_owned(),
                problem: format!(
                    "`{}` is not like `key=value`, with %2C for a comma and %25 for a percent sign",
                    entry.trim()
                ),
            })
        })
        .collect()
}

fn attribute(entry: &str) -> Option<KeyValue> {
    let (key, value) = entry.split_once('=')?;
    let key = decoded(key.trim()).filter(|key| !key.is_empty())?;
    Some(KeyValue::new(key, decoded(value.trim())?))
}

// Percent-encoding as in W3C Baggage.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use opentelemetry::Key;

    use super::super::environment::tests::environment;
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn get(pairs: Pairs, key: &'static str) -> Option<String> {
        let resource = read("analytics-consumer", "1.2.3", &environment(pairs)).unwrap();
        resource.get(&Key::from_static_str(key)).map(|value| value.to_string())
    }

    #[test]
    fn what_is_set_wins_over_what_the_program_knows_of_itself() {
        const ALL: (&str, &str) = (ATTRIBUTES, "service.name=shop, service.version=7,team=a%2Cb%20c,");
        let table: [(Pairs, &str, Option<&str>); 9] = [
            (&[], "service.name", Some("analytics-consumer")),
            (&[], "service.version", Some("1.2.3")),
            (&[], "telemetry.sdk.language", Some("rust")),
            (&[ALL], "service.name", Some("shop")),
            (&[ALL], "service.version", Some("7")),
            (&[ALL], "team", Some("a,b c")),
            (&[ALL, (NAME, "tills")], "service.name", Some("tills")),
            (&[ALL, (NAME, "")], "service.name", Some("shop")),
            (&[(NAME, "tills")], "service.version", Some("1.2.3")),
        ];
        for (pairs, key, expected) in table {
            assert_eq!(get(pairs, key).as_deref(), expected, "{pairs:?} {key}");
        }
    }

    #[test]
    fn attributes_that_cannot_be_read_are_refused_and_named() {
        for entry in ["team", "=a", "team=100%", "team=%zz", "team=%+1", "team=%ff"] {
            let text = format!("a=b,{entry}");
            let lookup = |name: &str| (name == ATTRIBUTES).then(|| text.clone());
            let error = read("x", "1", &lookup).unwrap_err().to_string();
            assert!(error.contains(ATTRIBUTES) && error.contains(&format!("`{entry}`")), "{error}");
        }
    }
}
