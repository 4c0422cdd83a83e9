//! What is in the Secrets that a pipeline names: there or not, usable or not. Values stay in here, and in what needs them.

use std::collections::BTreeMap;

use analytics_api::AnalyticsPipelineSpec;

use super::Refusal;
use super::database_url::DatabaseUrl;
use crate::kafka::Connection;
use crate::pipeline::dereference::References;
use crate::pipeline::hash::Hasher;

const URL_EXAMPLE: &str = "--from-literal=url=postgres://user:password@host:5432/database";
const LOGIN_EXAMPLE: &str = "--from-literal=username=... --from-literal=password=...";
const CA_EXAMPLE: &str = "--from-file=ca.crt";
const CERTIFICATE_EXAMPLE: &str = "--from-file=tls.crt --from-file=tls.key";

/// What the Secrets give.
pub(super) struct Checked {
    pub(super) all_hash: String,
    pub(super) database_hash: String,
    pub(super) database_port: u16,
    pub(super) kafka: Connection,
}

struct Reader<'a> {
    namespace: &'a str,
    references: &'a References,
    hasher: Hasher,
}

/// Checks every Secret that the specification names.
pub(super) fn check(
    spec: &AnalyticsPipelineSpec,
    namespace: &str,
    references: &References,
) -> Result<Checked, Refusal> {
    let mut reader = Reader { namespace, references, hasher: Hasher::new() };
    let database_port = database(spec, &mut reader)?;
    let database_hash = reader.hasher.clone().finish();
    let settings = kafka_settings(spec, &mut reader)?;
    let source = &spec.source;
    let kafka = Connection {
        brokers: source.bootstrap_servers.clone(),
        topic: source.topic.clone(),
        group: source.group_id.clone(),
        settings,
    };
    Ok(Checked { all_hash: reader.hasher.finish(), database_hash, database_port, kafka })
}

fn database(spec: &AnalyticsPipelineSpec, reader: &mut Reader<'_>) -> Result<u16, Refusal> {
    let sink = &spec.sink;
    let reference = &sink.url_secret_ref;
    let url = reader.text(&reference.name, &reference.key, "sink.urlSecretRef", URL_EXAMPLE)?;
    let authority = sink.ca_secret_ref.is_some();
    let certificate = sink.client_certificate_secret_ref.is_some();
    let port = DatabaseUrl::parse(&url)
        .and_then(|url| url.check(authority, certificate).map(|()| url.port))
        .map_err(|what| Refusal::secret_invalid(&reference.name, &reference.key, what))?;
    if let Some(reference) = &sink.ca_secret_ref {
        reader.certificate(&reference.name, &reference.key, "sink.caSecretRef", CA_EXAMPLE)?;
    }
    if let Some(reference) = &sink.client_certificate_secret_ref {
        let (name, field) = (&reference.name, "sink.clientCertificateSecretRef");
        reader.certificate(name, &reference.certificate_key, field, CERTIFICATE_EXAMPLE)?;
        reader.certificate(name, &reference.private_key_key, field, CERTIFICATE_EXAMPLE)?;
    }
    Ok(port)
}

fn kafka_settings(
    spec: &AnalyticsPipelineSpec,
    reader: &mut Reader<'_>,
) -> Result<BTreeMap<String, String>, Refusal> {
    let security = &spec.source.security;
    let mut settings = spec.source.properties.clone();
    let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
    set("security.protocol", security.protocol.as_str().to_owned());
    if let Some(mechanism) = security.mechanism {
        set("sasl.mechanism", mechanism.as_str().to_owned());
    }
    if let Some(reference) = &security.credentials_secret_ref {
        let field = "source.security.credentialsSecretRef";
        set("sasl.username", reader.text(&reference.name, &reference.username_key, field, LOGIN_EXAMPLE)?);
        set("sasl.password", reader.text(&reference.name, &reference.password_key, field, LOGIN_EXAMPLE)?);
    }
    if let Some(reference) = &security.ca_secret_ref {
        let field = "source.security.caSecretRef";
        set("ssl.ca.pem", reader.certificate(&reference.name, &reference.key, field, CA_EXAMPLE)?);
    }
    if let Some(reference) = &security.client_certificate_secret_ref {
        let (name, field) = (&reference.name, "source.security.clientCertificateSecretRef");
        set(
            "ssl.certificate.pem",
            reader.certificate(name, &reference.certificate_key, field, CERTIFICATE_EXAMPLE)?,
        );
        set("ssl.key.pem", reader.certificate(name, &reference.private_key_key, field, CERTIFICATE_EXAMPLE)?);
    }
    Ok(settings)
}

impl Reader<'_> {
    fn text(&mut self, name: &str, key: &str, field: &str, example: &str) -> Result<String, Refusal> {
        let content = self
            .references
            .secrets
            .get(name)
            .and_then(Option::as_ref)
            .ok_or_else(|| Refusal::secret_not_found(name, self.namespace, field, example))?;
        let value = content.get(key).ok_or_else(|| {
            let present: Vec<_> = content.keys().map(String::as_str).collect();
            Refusal::key_missing(name, key, field, &present)
        })?;
        let text = std::str::from_utf8(&value.0).map_err(|_| {
            Refusal::secret_invalid(name, key, "is not UTF-8 text; write the text itself, not binary data")
        })?;
        if text.trim().is_empty() {
            return Err(Refusal::secret_invalid(name, key, "is empty; write the value into it"));
        }
        if text.ends_with('\n') && !text.contains("-----BEGIN") {
            return Err(Refusal::secret_invalid(
                name,
                key,
                "ends with a line break, which would become part of the value; write it without one (echo -n)",
            ));
        }
        self.hasher.add(name).add(key).add(text);
        Ok(text.to_owned())
    }

    fn certificate(&mut self, name: &str, key: &str, field: &str, example: &str) -> Result<String, Refusal> {
        let text = self.text(name, key, field, example)?;
        if text.contains("-----BEGIN") {
            Ok(text)
        } else {
            Err(Refusal::secret_invalid(name, key, "is not PEM: it has no line `-----BEGIN …-----`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::fixtures;

    const SASL: &str = r#"{"source": {"security": {"protocol": "SASL_SSL", "mechanism": "PLAIN",
        "credentialsSecretRef": {"name": "login"}, "caSecretRef": {"name": "ca"}}}}"#;
    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n";

    type Secret<'a> = (&'a str, &'a [(&'a str, &'a str)]);

    fn checked(spec: &str, secrets: &[Secret<'_>]) -> Result<Checked, Refusal> {
        check(&fixtures::pipeline(spec).spec, "shop", &fixtures::secrets(secrets))
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_named_with_the_way_out() {
        let url: &[(&str, &str)] = &[("url", "postgres://u:p@h/d")];
        let table: [(&str, Vec<Secret<'_>>, &str, &str); 8] = [
            ("{}", vec![], "SecretNotFound", "kubectl -n shop create secret generic db --from-literal=url="),
            (
                "{}",
                vec![("db", &[("dsn", "x")])],
                "SecretKeyMissing",
                "has no key `url` (it has the keys dsn)",
            ),
            ("{}", vec![("db", &[])], "SecretKeyMissing", "it has no keys"),
            ("{}", vec![("db", &[("url", "")])], "SecretInvalid", "is empty"),
            (
                "{}",
                vec![("db", &[("url", "mysql://u:p@h/d")])],
                "SecretInvalid",
                "must look like postgres://",
            ),
            (
                "{}",
                vec![("db", &[("url", "postgres://u:p@h/d\n")])],
                "SecretInvalid",
                "ends with a line break",
            ),
            (SASL, vec![("db", url)], "SecretNotFound", "named in `source.security.credentialsSecretRef`"),
            (
                SASL,
                vec![
                    ("db", url),
                    ("login", &[("username", "u"), ("password", "p")]),
                    ("ca", &[("ca.crt", "x")]),
                ],
                "SecretInvalid",
                "is not PEM",
            ),
        ];
        for (spec, secrets, reason, message) in table {
            let Err(refusal) = checked(spec, &secrets) else { panic!("accepted: {secrets:?}") };
            assert_eq!(refusal.reason, reason, "{refusal:?}");
            assert!(refusal.message.contains(message), "{refusal:?}");
            assert!(!refusal.message.contains("mysql://u:p"), "no values in messages: {refusal:?}");
        }
    }

    /// What else objects may know of a URL, and that a certificate which would never be used is found out.
    #[test]
    fn the_database_url_gives_a_port_and_must_use_the_certificates() {
        let sink =
            r#"{"sink": {"caSecretRef": {"name": "ca"}, "clientCertificateSecretRef": {"name": "client"}}}"#;
        let with = |url: &str, key: &str| {
            let secrets: &[Secret<'_>] = &[
                ("db", &[("url", url)]),
                ("ca", &[("ca.crt", PEM)]),
                ("client", &[("tls.crt", PEM), ("tls.key", key)]),
            ];
            checked(sink, secrets).map(|checked| checked.database_port)
        };
        assert_eq!(with("postgres://u:p@h:6000/d?sslmode=verify-full", PEM).unwrap(), 6000);
        let unused = with("postgres://u:p@h/d", PEM).unwrap_err();
        assert!(
            unused.message.contains("`sink.caSecretRef` names an authority; add ?sslmode=verify-full"),
            "{unused:?}"
        );
        let no_key = with("postgres://u:p@h/d?sslmode=verify-full", "x").unwrap_err();
        assert!(no_key.message.contains("key `tls.key` of Secret `client` is not PEM"), "{no_key:?}");
    }

    #[test]
    fn a_login_reaches_the_controllers_own_client() {
        let secrets: &[(&str, &[(&str, &str)])] = &[
            ("db", &[("url", "postgres://u:p@h/d")]),
            ("login", &[("username", "reader"), ("password", "pass")]),
            ("ca", &[("ca.crt", PEM)]),
        ];
        let settings = checked(SASL, secrets).unwrap().kafka.settings;
        assert_eq!(settings["security.protocol"], "SASL_SSL");
        assert_eq!(settings["sasl.mechanism"], "PLAIN");
        assert_eq!(settings["sasl.username"], "reader");
        assert_eq!(settings["ssl.ca.pem"], PEM);
    }

    /// A rotated password has to roll the pods; one of Kafka has no business in running the migration again.
    #[test]
    fn hashes_follow_the_content_of_the_secrets() {
        let hashes = |password: &str, url: &str| {
            let secrets: &[(&str, &[(&str, &str)])] = &[
                ("db", &[("url", url)]),
                ("login", &[("username", "u"), ("password", password)]),
                ("ca", &[("ca.crt", PEM)]),
            ];
            let checked = checked(SASL, secrets).unwrap();
            (checked.all_hash, checked.database_hash)
        };
        let (all, database) = hashes("p", "postgres://u:p@h/d");
        let (all_after, database_after) = hashes("q", "postgres://u:p@h/d");
        assert_ne!(all, all_after);
        assert_eq!(database, database_after);
        let (all_after, database_after) = hashes("p", "postgres://u:q@h/d");
        assert_ne!(all, all_after);
        assert_ne!(database, database_after);
    }
}
