//! Whom to trust, and who we are, on a connection with TLS: the files that the variables name. They are read once, at the
//! start.

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TelemetryError;
use super::environment::{Lookup, first_set};

const AUTHORITY: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CERTIFICATE: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const KEY: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];

/// Contents of the files, in PEM.
#[derive(Default)]
pub(super) struct Trust {
    /// The only authorities to trust; `None` for those of the system.
    authorities: Option<Vec<u8>>,
    /// Our own certificate and its key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Trust {
    /// Reads the files.
    pub(super) fn read(lookup: Lookup<'_>) -> Result<Self, TelemetryError> {
        let authorities = file(lookup, AUTHORITY, has_certificate, "a certificate in PEM")?;
        let certificate = file(lookup, CERTIFICATE, has_certificate, "a certificate in PEM")?;
        let key = file(lookup, KEY, has_key, "a private key in PEM")?;
        let alone = |names: [&str; 2], missing: [&str; 2]| TelemetryError::Unusable {
            name: first_set(lookup, names).map_or(names[1], |(name, _)| name).to_owned(),
            problem: format!("{} is not set: a certificate and its key go together", missing[1]),
        };
        let own = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(alone(CERTIFICATE, KEY)),
            (None, Some(_)) => return Err(alone(KEY, CERTIFICATE)),
        };
        Ok(Self { authorities, own })
    }

    /// For gRPC.
    pub(super) fn for_grpc(&self) -> ClientTlsConfig {
        let config = match &self.authorities {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            // The exporter's own default trusts no authority at all.
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match &self.own {
            Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
            None => config,
        }
    }

    /// For HTTP.
    pub(super) fn for_http(
        &self,
        mut builder: reqwest::blocking::ClientBuilder,
    ) -> reqwest::Result<reqwest::blocking::ClientBuilder> {
        if let Some(pem) = &self.authorities {
            builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        if let Some((certificate, key)) = &self.own {
            let both = [certificate.as_slice(), b"\n", key].concat();
            builder = builder.identity(reqwest::Identity::from_pem(&both)?);
        }
        Ok(builder)
    }
}

fn file(
    lookup: Lookup<'_>,
    names: [&str; 2],
    is_right: fn(&[u8]) -> bool,
    wanted: &str,
) -> Result<Option<Vec<u8>>, TelemetryError> {
    let Some((name, path)) = first_set(lookup, names) else { return Ok(None) };
    let unusable = |problem| TelemetryError::Unusable { name: name.to_owned(), problem };
    let content =
        std::fs::read(&path).map_err(|error| unusable(format!("{path} cannot be read: {error}")))?;
    if is_right(&content) {
        Ok(Some(content))
    } else {
        Err(unusable(format!("{path} does not hold {wanted}")))
    }
}

fn has_certificate(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

fn has_key(pem: &[u8]) -> bool {
    PrivateKeyDer::from_pem_slice(pem).is_ok()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// Files with a certificate and a key, and one with neither.
    fn files(folder: &Path) -> [PathBuf; 3] {
        let issued = rcgen::generate_simple_self_signed(["collector".to_owned()]).unwrap();
        let contents = [issued.cert.pem(), issued.signing_key.serialize_pem(), "nothing".to_owned()];
        let paths = ["tls.crt", "tls.key", "empty"].map(|name| folder.join(name));
        for (path, content) in paths.iter().zip(contents) {
            std::fs::write(path, content).unwrap();
        }
        paths
    }

    fn read(pairs: &[(&str, &PathBuf)]) -> Result<Trust, TelemetryError> {
        let lookup = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, path)| path.display().to_string())
        };
        Trust::read(&lookup)
    }

    #[test]
    fn the_files_for_traces_win_over_those_for_all_signals() {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key, empty] = files(folder.path());
        let trust = read(&[
            (AUTHORITY[0], &certificate),
            (AUTHORITY[1], &empty),
            (CERTIFICATE[1], &certificate),
            (KEY[1], &key),
        ])
        .unwrap();
        assert_eq!(trust.authorities, Some(std::fs::read(&certificate).unwrap()));
        assert!(trust.own.is_some());
        assert!(trust.for_http(reqwest::blocking::Client::builder()).is_ok());
        assert!(read(&[]).unwrap().authorities.is_none());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key, empty] = files(folder.path());
        let missing = PathBuf::from("/nonexistent/ca.crt");
        let table = [
            (vec![(AUTHORITY[1], &missing)], AUTHORITY[1], "/nonexistent/ca.crt cannot be read"),
            (vec![(AUTHORITY[0], &empty)], AUTHORITY[0], "does not hold a certificate"),
            (vec![(AUTHORITY[0], &key)], AUTHORITY[0], "does not hold a certificate"),
            (vec![(KEY[1], &certificate)], KEY[1], "does not hold a private key"),
            (vec![(KEY[1], &key)], KEY[1], "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not set"),
            (
                vec![(CERTIFICATE[1], &certificate)],
                CERTIFICATE[1],
                "OTEL_EXPORTER_OTLP_CLIENT_KEY is not set",
            ),
        ];
        for (pairs, name, problem) in table {
            let error = read(&pairs).err().unwrap().to_string();
            assert!(error.starts_with(name) && error.contains(problem), "{error}");
        }
    }
}
