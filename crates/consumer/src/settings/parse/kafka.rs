//! The settings of Kafka.

use std::collections::BTreeMap;

use super::{SettingsError, Values};
use crate::settings::{GroupProtocol, Kafka, OnOffsetGap, StartFrom};

/// librdkafka properties that exactly-once delivery, security or this program's own settings rest on.
const RESERVED_PROPERTIES: &[&str] = &[
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
];

/// Families of librdkafka properties of which the same is true: none of them may weaken what the settings ask for.
const RESERVED_FAMILIES: &[&str] = &["security.", "sasl.", "ssl.", "plugin."];

pub(super) fn kafka(values: &Values<'_>) -> Result<Kafka, SettingsError> {
    Ok(Kafka {
        brokers: brokers(values)?,
        topic: values.required("KAFKA_TOPIC")?,
        group_id: values.required("KAFKA_GROUP_ID")?,
        start_from: values.choice(
            "KAFKA_START_FROM",
            &[("earliest", StartFrom::Earliest), ("latest", StartFrom::Latest)],
        )?,
        on_offset_gap: values.choice(
            "KAFKA_ON_OFFSET_GAP",
            &[
                ("fail", OnOffsetGap::Fail),
                ("earliest", OnOffsetGap::Earliest),
                ("latest", OnOffsetGap::Latest),
            ],
        )?,
        group_protocol: group_protocol(values)?,
        client_properties: client_properties(values)?,
    })
}

/// Properties of the classic protocol, which librdkafka refuses with the other one; there the broker decides about them.
const CLASSIC_PROPERTIES: &[&str] = &["session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"];

fn group_protocol(values: &Values<'_>) -> Result<GroupProtocol, SettingsError> {
    let choices = [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
    let protocol = values.choice("KAFKA_GROUP_PROTOCOL", &choices)?;
    let properties = user_properties(values)?;
    let classic = CLASSIC_PROPERTIES.iter().find(|property| properties.contains_key(**property));
    match (protocol, classic) {
        (GroupProtocol::Consumer, Some(property)) => Err(SettingsError::Malformed(
            "KAFKA_PROPERTIES",
            format!(
                "`{property}` has no meaning when KAFKA_GROUP_PROTOCOL is consumer: the broker decides about it"
            ),
        )),
        _ => Ok(protocol),
    }
}

fn brokers(values: &Values<'_>) -> Result<String, SettingsError> {
    let text = values.required("KAFKA_BROKERS")?;
    for broker in text.split(',').map(str::trim) {
        let port = broker.rsplit_once(':').map(|(host, port)| (host.is_empty(), port.parse::<u16>()));
        if !matches!(port, Some((false, Ok(port))) if port > 0) {
            let message =
                format!("`{broker}` is not `host:port`; write for example kafka-1:9092,kafka-2:9092");
            return Err(SettingsError::Malformed("KAFKA_BROKERS", message));
        }
    }
    Ok(text)
}

/// Security settings and pass-through properties in librdkafka's own names.
fn client_properties(values: &Values<'_>) -> Result<BTreeMap<String, String>, SettingsError> {
    let mut properties = user_properties(values)?;
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            properties.insert(key.to_owned(), value);
        }
    };
    let protocols = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
    let protocol = values.one_of("KAFKA_SECURITY_PROTOCOL", &protocols)?.unwrap_or("PLAINTEXT");
    let mechanism = values.one_of("KAFKA_SASL_MECHANISM", &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])?;
    if protocol.starts_with("SASL") {
        for (name, there) in [
            ("KAFKA_SASL_MECHANISM", mechanism.is_some()),
            ("KAFKA_SASL_USERNAME", values.text("KAFKA_SASL_USERNAME").is_some()),
            ("KAFKA_SASL_PASSWORD", values.text("KAFKA_SASL_PASSWORD").is_some()),
        ] {
            if !there {
                return Err(SettingsError::Malformed(
                    name,
                    format!("must be set when KAFKA_SECURITY_PROTOCOL is {protocol}"),
                ));
            }
        }
        set("sasl.mechanism", mechanism.map(str::to_owned));
        set("sasl.username", values.text("KAFKA_SASL_USERNAME"));
        set("sasl.password", values.text("KAFKA_SASL_PASSWORD"));
    }
    set("security.protocol", Some(protocol.to_owned()));
    for (name, key) in [
        ("KAFKA_SSL_CA_FILE", "ssl.ca.location"),
        ("KAFKA_SSL_CERTIFICATE_FILE", "ssl.certificate.location"),
        ("KAFKA_SSL_KEY_FILE", "ssl.key.location"),
    ] {
        set(key, values.file(name)?.map(|path| path.display().to_string()));
    }
    Ok(properties)
}

fn user_properties(values: &Values<'_>) -> Result<BTreeMap<String, String>, SettingsError> {
    let mut properties = BTreeMap::new();
    let text = values.text("KAFKA_PROPERTIES").unwrap_or_default();
    for line in text.split(['\n', ';']).map(str::trim).filter(|line| !line.is_empty()) {
        let malformed = |message: String| SettingsError::Malformed("KAFKA_PROPERTIES", message);
        let Some((key, value)) = line.split_once('=') else {
            return Err(malformed(format!("`{line}` is not `key=value`")));
        };
        let key = key.trim();
        if RESERVED_PROPERTIES.contains(&key)
            || RESERVED_FAMILIES.iter().any(|family| key.starts_with(family))
        {
            return Err(malformed(format!(
                "`{key}` may not be set here: delivery or security rests on it, or it has a setting of its own"
            )));
        }
        properties.insert(key.to_owned(), value.trim().to_owned());
    }
    Ok(properties)
}
