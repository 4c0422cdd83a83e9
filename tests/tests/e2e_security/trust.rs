//! Authorities and certificates, and the settings of servers that use them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;
use testbed::kafka::Listener;
use testbed::{Authority, Issued, process};

/// The user of Kafka's login.
pub(crate) const USER: &str = "analytics";
/// Another one, whose password is changed.
pub(crate) const ROTATING: &str = "rotating";
/// The password of both in the beginning.
pub(crate) const PASSWORD: &str = "correct horse";

/// Who may come into the database, and how; the first line that fits counts.
const ACCESS: &str = "hostssl all certified 198.18.0.0/15 cert
host all all 127.0.0.1/32 scram-sha-256
host all all 198.18.0.0/15 scram-sha-256
";

/// The authority that all trust, another one, and what the first has signed.
pub(crate) struct Trust {
    folder: TempDir,
    /// Signs the servers' and the clients' certificates.
    pub(crate) authority: Authority,
    /// Has signed nothing that is used here.
    pub(crate) other: Authority,
}

impl Trust {
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // PostgreSQL's user must get through.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let (authority, other) = (Authority::new("test authority")?, Authority::new("another")?);
        std::fs::write(folder.path().join("ca.crt"), authority.certificate())?;
        Ok(Self { folder, authority, other })
    }

    /// Kafka's listeners: with a login, with a certificate that has expired, and with one for another host.
    pub(crate) fn listeners(&self, host: &str) -> Result<Vec<Listener>> {
        let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned();
        let scram = [
            ("sasl.enabled.mechanisms", "SCRAM-SHA-512".to_owned()),
            ("scram-sha-512.sasl.jaas.config", login),
        ];
        let authority = &self.authority;
        Ok(vec![
            self.listener("LOGIN", "SASL_SSL", host, &authority.server(&[host])?, &scram)?,
            self.listener("EXPIRED", "SSL", host, &authority.expired_server(&[host])?, &[])?,
            self.listener("ELSEWHERE", "SSL", host, &authority.server(&["kafka.example"])?, &[])?,
        ])
    }

    fn listener(
        &self,
        name: &str,
        protocol: &str,
        host: &str,
        certificate: &Issued,
        further: &[(&str, String)],
    ) -> Result<Listener> {
        let store = certificate.write_store(self.folder.path(), name)?.display().to_string();
        let properties = [("ssl.keystore.type", "PEM".to_owned()), ("ssl.keystore.location", store)]
            .iter()
            .chain(further)
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        Ok(Listener {
            name: name.to_owned(),
            protocol: protocol.to_owned(),
            host: host.to_owned(),
            properties,
        })
    }

    /// Settings of a PostgreSQL that can be asked for TLS, and that lets the role `certified` in by its certificate alone.
    pub(crate) async fn database_settings(&self, host: &str) -> Result<Vec<(String, String)>> {
        let folder = self.folder.path();
        let (certificate, key) = self.authority.server(&[host])?.write(folder, "database")?;
        let own = folder.join("database.server.key");
        // The server insists that its key belongs to it.
        let mut install = Command::new("install");
        install.args(["-o", "postgres", "-m", "600"]).arg(&key).arg(&own);
        process::output(install).await?;
        let access = folder.join("pg_hba.conf");
        std::fs::write(&access, ACCESS)?;
        let text = |path: &Path| path.display().to_string();
        let settings = [
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", text(&certificate)),
            ("ssl_key_file", text(&own)),
            ("ssl_ca_file", text(&folder.join("ca.crt"))),
            ("hba_file", text(&access)),
        ];
        Ok(settings.map(|(key, value)| (key.to_owned(), value)).to_vec())
    }
}
